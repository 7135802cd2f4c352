"""Measure how fast pictures are prepared: each stage alone, and all of them together.

Claim: the slowest stage is at work for at least 95 % of the time, so that nothing but more of it
would make the preparation faster. The pictures are made up: JPEG of 500 by 375 pixels, as the
average of ImageNet. Rates alone are of one thread; together, as many threads load as there are
cores, unless --threads says otherwise. The share is of the time in which rows are made, without the
inspection before and the verification after; few pictures lower it, since the first batch has to be
loaded before anything is encoded. Networks encode batches of one size, alone and together.
--autoencoder tiny is one with random weights that the script makes, of the right factor of 8 and
far fewer channels than Stable Diffusion's: it measures the stage, not what that one costs.
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
ENCODED = 128  # images that a network encodes alone, a batch at least


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
    measure_networks(images, options)
    with tempfile.TemporaryFile(dir=options.folder) as file:

        def write(data):
            os.pwrite(file.fileno(), data, file.tell())
            file.seek(len(data), 1)

        rate("write", write, packed)
        start = time.perf_counter()
        os.fsync(file.fileno())
        print(f"{'':16} and {time.perf_counter() - start:.2f} s until they are on disk")


def measure_networks(images, options):
    """Measure what is computed of the images, network by network, in batches of the same size."""
    encode = {}
    if options.encoder:
        from repa.encoders import load_encoder

        encoder = load_encoder(options.encoder)
        encode["features"] = lambda batch: encoder(batch, grid_size=options.image_size // 16)
    if options.autoencoder:
        from repa.autoencoders import load_autoencoder

        encode["moments"] = load_autoencoder(options.autoencoder).encode
    if not encode:
        return
    import torch

    size = min(options.batch_size, len(images))
    some = images[: max(1, min(len(images), ENCODED) // size) * size]
    batches = [torch.from_numpy(np.stack(some[i : i + size])) for i in range(0, len(some), size)]
    for name, action in encode.items():
        start = time.perf_counter()
        for batch in batches:
            action(batch)
        seconds = time.perf_counter() - start
        print(f"{name:16} alone  {len(some) / seconds:8.1f} images/s, {size} at once")


def save_tiny_autoencoder(folder):
    """Save an autoencoder of the factor 8 with few channels and random weights."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    network = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
    )
    network.save_pretrained(folder)
    return str(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--encoder", help="also compute the features of this encoder")
    parser.add_argument("--autoencoder", help="also its moments: tiny, or a name or folder")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch-size", type=int, default=PrepareConfig.batch_size)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files go; about 300 KB an image")
    options = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        if options.autoencoder == "tiny":
            options.autoencoder = save_tiny_autoencoder(folder / "tiny, random weights")
            print("autoencoder: tiny, with random weights")
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
                    autoencoder=options.autoencoder,
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
