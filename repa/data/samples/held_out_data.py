"""Images that training never sees, of a data set of any kind, and inputs of a network of them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from repa.autoencoders.autoencoder import Autoencoder, latents_from_moments
from repa.autoencoders.latent_space import LatentSpace
from repa.data.digits import load_digits
from repa.data.prepared_set import held_out_labels
from repa.data.row_files import HELD_OUT
from repa.data.samples.opening import BUILT_IN
from repa.data.samples.prepared_data import PreparedData
from repa.data.samples.training_data import TrainingData, pixels_of


@dataclass(frozen=True)
class HeldOutImages:
    """Images uint8 (N, H, W, 3) that training never sees, with labels int64 (N,)."""

    images: Tensor
    labels: Tensor

    def inputs(
        self, space: LatentSpace, autoencoder: Autoencoder | None, generator: np.random.Generator
    ) -> Tensor:
        """Return what a network is given of them: pixels, or latents (N, C, h, w).

        Latents are encoded by the autoencoder and drawn with normals of the generator.
        """
        if space.is_pixels:
            return pixels_of(self.images)
        if autoencoder is None:
            raise ValueError("latents need an autoencoder to encode images.")
        moments = autoencoder.encode(self.images).cpu()
        count, channels, *sides = moments.shape
        noise = generator.standard_normal((count, channels // 2, *sides), np.float32)
        return latents_from_moments(moments, torch.from_numpy(noise), space)


def held_out_images(data: TrainingData, most: int) -> HeldOutImages | None:
    """Return images that were held out of training data, at most so many; None if none were.

    They are taken at even distances, since they may be sorted by class.

    Raises:
        DataError: They are damaged.
    """
    if data.name in BUILT_IN:
        images, labels = load_digits("heldout", data.image_size)
        rows = spread(len(images), most)
        return HeldOutImages(torch.from_numpy(images[rows]), torch.from_numpy(labels[rows]))
    if not isinstance(data, PreparedData):
        return None
    held_out = data.prepared.manifest.get("held_out") or {}
    if not held_out.get("count"):
        return None
    rows = spread(held_out["count"], most)
    labels = held_out_labels(data.prepared)[rows]
    images = data.prepared.rows(HELD_OUT, rows)
    return HeldOutImages(torch.from_numpy(images), torch.from_numpy(labels))


def spread(count: int, most: int) -> np.ndarray:
    """Return at most so many of the first `count` whole numbers, at even distances."""
    return np.arange(count) if count <= most else np.arange(most) * count // most
