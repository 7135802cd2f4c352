"""NPZ files of made-up images, begun, finished, read and damaged without any network."""

import json

import numpy as np

from repa.generation.sample_files.opening import open_output

SETTINGS = {
    "seed": 1,
    "cfg_scale": 1.8,
    "num_images": 7,
    "image_size": 4,
    "batch_size": 2,
    "versions": {"torch": "2"},
}
OTHER = {"cfg_scale": 1.5, "versions": {"torch": "3"}}


def open_writer(path, *, overwrite=False, **changes):
    return open_output(path, {**SETTINGS, **changes}, overwrite=overwrite)


def made_up(num_images=7, image_size=4, seed=0):
    """Images and labels; the first ones are the same for any number of images."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (num_images, image_size, image_size, 3), dtype=np.uint8)
    return images, np.arange(num_images) * (seed + 3) % 10


def finish(path, *, overwrite=False, seed=0, **changes):
    """Write what lacks of a file of made-up images; return its bytes."""
    writer = open_writer(path, overwrite=overwrite, **changes)
    if writer is None:
        return path.read_bytes()
    with writer:
        run = writer.run
        images, labels = made_up(run.num_images, run.manifest["image_size"], seed)
        for i in range(len(images)):
            if not writer.is_done(i, 1):
                writer.write(i, images[i : i + 1], labels[i : i + 1])
        damaged = writer.finish()
    if damaged:
        return finish(path, overwrite=overwrite, seed=seed, **changes)
    return path.read_bytes()


def begin(path, count, **changes):
    """Leave an unfinished run with its first images."""
    with open_writer(path, **changes) as writer:
        images, labels = made_up(writer.run.num_images)
        writer.write(0, images[:count], labels[:count])


def savez_bytes(path, images, labels, manifest):
    np.savez(path, arr_0=images, arr_1=labels, manifest=np.array(json.dumps(manifest)))
    return path.read_bytes()


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def beside(path, suffix):
    return path.with_name(f"{path.name}.{suffix}")
