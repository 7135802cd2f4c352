"""Make the figures of docs/digits.md: `python docs/digits.py RUN SAMPLES.npz`.

Prints the accuracy of a classifier trained on real digits on the labels that the samples were asked
for, and draws the loss curve of the run to docs/digits-loss.png.
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from sklearn.svm import SVC

from repa.data import load_digits

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def as_vectors(images: np.ndarray) -> np.ndarray:
    """Average images (N, 32, 32, 3) down to the 8 by 8 grey values of the original data set."""
    grey = images[..., 0].astype(float) if images.ndim == 4 else images
    return grey.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)).reshape(-1, 64) / 255 * 16


def print_accuracy(path: str) -> None:
    """Train a support vector machine on the training half; score held-out half and samples."""
    images, labels = load_digits("train", 32)
    classifier = SVC(gamma=0.001, C=10).fit(as_vectors(images), labels)
    held_images, held_labels = load_digits("heldout", 32)
    with np.load(path) as file:
        samples, asked = file["arr_0"].mean(axis=3), file["arr_1"]
    guesses = classifier.predict(as_vectors(samples))
    held = classifier.score(as_vectors(held_images), held_labels)
    print(f"held-out real digits: {held:.1%} of {len(held_labels)} read as their label")
    print(f"samples:              {np.mean(guesses == asked):.1%} of {len(asked)} as asked")
    with np.load(path) as file:
        spread = file["arr_0"].max(axis=3).astype(int) - file["arr_0"].min(axis=3)
    print(f"colour noise:         {spread.mean():.1f} grey levels, largest less smallest channel")
    for label in range(10):
        mine = asked == label
        print(f"  {label}: {np.mean(guesses[mine] == label):.1%} of {mine.sum()}")


def draw_losses(run: Path, out: Path) -> Figure:
    """Draw both losses over the steps; the log holds single batches, so a mean of 10 is added."""
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [entry["step"] for entry in entries]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for axis, name in zip(axes, ("velocity", "alignment"), strict=True):
        values = np.array([entry[name] for entry in entries])
        means = np.convolve(values, np.ones(10) / 10, "valid")
        axis.plot(steps, values, color="tab:blue", alpha=0.3, label="single batch, as logged")
        axis.plot(steps[9:], means, color="tab:blue", label="mean of the last 10")
        axis.set(title=f"{name} loss", xlabel="step")
        axis.legend(loc="upper right")
    axes[0].set_yscale("log")
    figure.savefig(out, dpi=100)
    return figure


if __name__ == "__main__":
    print_accuracy(sys.argv[2])
    draw_losses(Path(sys.argv[1]), Path(__file__).with_name("digits-loss.png"))
