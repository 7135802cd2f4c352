"""Small folders of pictures to prepare, and what a folder holds."""

import numpy as np
from PIL import Image


def noise(seed, height=20, width=30):
    """A picture uint8 (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def draw(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def class_folders(folder, names=("cat", "dog", "emu"), each=5):
    """Make a folder of classes of so many pictures each; return it."""
    for number, name in enumerate(names):
        for place in range(each):
            draw(folder / name / f"{place}.png", noise(number * each + place))
    return folder


def content(folder):
    """The files below a folder and their bytes, by relative path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
