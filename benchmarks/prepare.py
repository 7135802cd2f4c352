"""Measure how fast pictures are prepared: each stage alone, and all of them together.

Claim: the slowest stage is at work for at least 95 % of the time, so that nothing but more of it
would make the preparation faster. The pictures are made up: JPEG of 500 by 375 pixels, as the
average of ImageNet. Rates alone are of one thread; together, as many threads load as there are
cores, unless --threads says otherwise. The share is of the time in which rows are made, without the
inspection before and the verification after; few pictures lower it, since the first batch has to be
loaded before anything is encoded.
"""

import argparse
import io
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from timing import print_machine

from repa.data import center_crop, open_source
from repa.data.image_set import decoded
from repa.data.png_record import PngForm
from repa.data.preparation import PrepareConfig, prepare

GOAL = 0.95
CLASSES = 10


def draw(folder, count):
    """Write made-up pictures: smooth with some noise, so that their files are of a usual size."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(int)
        pixels = np.clip(smooth + random.integers(-12, 13, smooth.shape), 0, 255)
        path = folder / f"class{number % CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(content, "jpeg", quality=90)
        path.write_bytes(content.getvalue())
    return sum(path.stat().st_size for path in folder.rglob("*.jpg")) / count


def rate(name, action, items):
    """Print how many items a second one thread does; return what it makes of them."""
    start = time.perf_counter()
    made = [action(item) for item in items]
    seconds = time.perf_counter() - start
    print(f"{name:16} alone  {len(items) / seconds:8.1f} images/s")
    return made


def measure_alone(folder, options):
    """Measure every stage by itself, on some of the pictures."""
    source, size = open_source(folder), options.image_size
    some = range(min(source.count, 200))
    content = rate("read", source.read, some)
    pictures = rate("decode", lambda data: decoded(data, "it").pixels, content)
    images = rate("crop", lambda pixels: center_crop(pixels, size), pictures)
    packed = rate("pack", PngForm(size).encode, images)
    if options.encoder:
        import torch

        from repa.encoders import load_encoder

        encoder = load_encoder(options.encoder)
        batches = [torch.from_numpy(np.stack(images[i : i + 8])) for i in range(0, 32, 8)]
        start = time.perf_counter()
        for batch in batches:
            encoder(batch, grid_size=size // 16)
        seconds = time.perf_counter() - start
        count = sum(map(len, batches))
        print(f"{'encode':16} alone  {count / seconds:8.1f} images/s")
    with tempfile.TemporaryFile(dir=options.folder) as file:

        def write(data):
            os.pwrite(file.fileno(), data, file.tell())
            file.seek(len(data), 1)

        rate("write", write, packed)
        start = time.perf_counter()
        os.fsync(file.fileno())
        print(f"{'':16} and {time.perf_counter() - start:.2f} s until they are on disk")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--encoder", help="also compute the features of this encoder")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch-size", type=int, default=PrepareConfig.batch_size)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files go; about 300 KB an image")
    options = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        size = draw(folder / "src", options.num)
        print(f"{options.num} pictures of {size / 1e3:.0f} kB on average")
        measure_alone(folder / "src", options)
        for repeat in range(options.repeats):
            start = time.perf_counter()
            prepared = prepare(
                PrepareConfig(
                    source=folder / "src",
                    out=folder / f"out{repeat}",
                    image_size=options.image_size,
                    encoders=(options.encoder,) if options.encoder else (),
                    num_threads=options.threads,
                    batch_size=options.batch_size,
                )
            )
            whole = time.perf_counter() - start
            shares = ", ".join(f"{k} {100 * v:.1f} %" for k, v in prepared.busy.items())
            slowest = max(prepared.busy.values())
            print(
                f"together         {options.num / prepared.seconds:8.1f} images/s, with inspection "
                f"and verification {options.num / whole:.1f}; at work: {shares}; slowest "
                f"{100 * slowest:.1f} %, goal {100 * GOAL:.0f}"
            )


if __name__ == "__main__":
    main()
