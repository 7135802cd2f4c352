"""Features of the frozen encoder for every training image, computed once and kept with the run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from repa.data import TrainingData
from repa.encoders.encoder import load_encoder
from repa.errors import CheckpointFormatError
from repa_base.files import replacing

_FILE_NAME = "target_features.safetensors"


@dataclass(frozen=True)
class TargetFeatures:
    """Target features by image index; without an encoder there are none."""

    features: Tensor | None

    @property
    def dims(self) -> list[int]:
        """Widths of the features, one an encoder."""
        return [] if self.features is None else [self.features.shape[2]]

    @property
    def num_tokens(self) -> int:
        """Feature vectors an image."""
        return 0 if self.features is None else self.features.shape[1]

    def __call__(self, indices: np.ndarray, device: torch.device | str) -> list[Tensor]:
        """Return the features (B, N, D) of these images, one tensor an encoder."""
        return [] if self.features is None else [self.features[indices].to(device)]

    @classmethod
    def open(
        cls,
        encoder_name: str,
        data: TrainingData,
        folder: Path,
        device: torch.device | str,
        on_note: Callable[[str], None],
    ) -> "TargetFeatures":
        """Read the run's features, or compute them; `save` writes them.

        Args:
            encoder_name: Encoder to align with, or `none`.
            data: Whose images the encoder sees.
            folder: Folder of the run.
            device: Where the encoder runs.
            on_note: Told when the features have to be computed.

        Raises:
            CheckpointFormatError: The saved features are damaged, or of other images.
        """
        if encoder_name == "none":
            return cls(None)
        path = folder / _FILE_NAME
        if not path.exists():
            on_note(f"computing {encoder_name} features of {data.count} images, once.")
            return cls(_compute(encoder_name, data, device))
        try:
            features = load_file(path)["features"]
        except (SafetensorError, KeyError) as error:
            raise CheckpointFormatError(
                f"{path}: damaged ({error}); remove it and it is made again."
            ) from error
        if len(features) != data.count:
            raise CheckpointFormatError(
                f"{path}: holds features of {len(features)} images, the data set has "
                f"{data.count}; remove it and it is made again."
            )
        return cls(features)

    def save(self, folder: Path) -> None:
        """Keep the features with the run, unless they are there already."""
        path = folder / _FILE_NAME
        if self.features is not None and not path.exists():
            with replacing(path) as partial:
                save_file({"features": self.features}, partial)


def _compute(encoder_name: str, data: TrainingData, device: torch.device | str) -> Tensor:
    encoder = load_encoder(encoder_name, device)
    batches = np.array_split(np.arange(data.count), -(-data.count // 64))
    return torch.cat([encoder(data.images(batch).to(device)).cpu() for batch in batches])
