"""The autoencoder of latent models: moments to a model's x, and x to pixels. In float32."""

import json
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repa.autoencoders import ldm
from repa.autoencoders.hub import CONFIG, WEIGHTS, autoencoder_folder
from repa.autoencoders.latent_space import LatentSpace
from repa.errors import (
    CheckpointFormatError,
    CheckpointMismatchError,
    UnknownNameError,
    first_line,
)
from repa.registry import entry_names, file_sha256, is_registered
from repa.tensor_file import Tensors, read_contents


@dataclass(frozen=True)
class Autoencoder:
    """An autoencoder's files on this machine; its network is loaded when it is first asked for.

    Its name is the registered one or the folder's own; the folder is as diffusers' save_pretrained
    writes it.
    """

    name: str
    folder: Path
    device: torch.device | str = "cpu"

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights in hexadecimal."""
        return file_sha256(self.folder / WEIGHTS)

    @property
    def downsampling(self) -> int:
        """An image's side over its latents' side.

        Raises:
            CheckpointFormatError: The folder describes no AutoencoderKL.
        """
        path = self.folder / CONFIG
        try:
            return 2 ** (len(json.loads(path.read_text())["block_out_channels"]) - 1)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointFormatError(f"{path}: describes no AutoencoderKL: {error}") from error

    @torch.no_grad()
    def decode(self, x: Tensor, latent_space: LatentSpace, *, chunk_images: int = 8) -> Tensor:
        """Turn a model's x (B, C, h, w), of a latent space, into pixels.

        They are float32 (B, 3, H, W), about [-1, 1], not clamped. Images are decoded in chunks,
        which bounds the memory.
        """
        chunks = map(latent_space.to_autoencoder, x.float().split(chunk_images))
        return torch.cat([self.network.decode(latents).sample for latents in chunks])

    @torch.no_grad()
    def encode(self, images: Tensor, *, chunk_images: int = 8) -> Tensor:
        """Turn images uint8 (B, H, W, 3) into moments float32 (B, 2 C, h, w): mean, deviation.

        The deviation is the standard deviation, not its logarithm. The input of the network is in
        [-1, 1]. Images are encoded in chunks, which bounds the memory.

        Source:
            REPA preprocessing/encoders.py, StabilityVAEEncoder.
        """
        chunks = []
        for chunk in images.split(chunk_images):
            pixels = chunk.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            distribution = self.network.encode(pixels).latent_dist
            chunks.append(torch.cat([distribution.mean, distribution.std], dim=1))
        return torch.cat(chunks)

    @property
    def latent_space(self) -> LatentSpace:
        """The space of a model of this autoencoder's latents, by the scale that its files tell.

        Raises:
            CheckpointFormatError: The scale is no number, or the folder holds no AutoencoderKL.
        """
        config = self.network.config
        try:
            return LatentSpace(
                self.reference, 1 / config["scaling_factor"], config.get("shift_factor") or 0.0
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise CheckpointFormatError(f"{self.folder / CONFIG}: has no scale: {error}") from error

    @property
    def reference(self) -> str:
        """What finds it again, from anywhere: its registered name, or else its folder's path."""
        registered = is_registered("autoencoders", self.name)
        return self.name if registered else str(self.folder.absolute())

    @cached_property
    def network(self) -> Any:  # noqa: ANN401
        """Diffusers' AutoencoderKL on `device`, in evaluation mode.

        Raises:
            CheckpointFormatError: The folder holds no AutoencoderKL.
            CheckpointMismatchError: Tensors are missing.
        """
        # Takes seconds, and pixel-space models do without.
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.utils import logging

        logging.set_verbosity_error()  # its advice is for trainers
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # diffusers' own deprecations
                loaded: Any = AutoencoderKL.from_pretrained(
                    str(self.folder),
                    local_files_only=True,
                    low_cpu_mem_usage=False,
                    output_loading_info=True,
                    torch_dtype=torch.float32,
                    use_safetensors=True,
                )
        except Exception as error:  # a stranger's files fail in many ways
            reason = f"holds no AutoencoderKL: {first_line(error).rstrip('.')}"
            raise CheckpointFormatError(f"{self.folder}: {reason}") from error
        network, report = loaded
        # diffusers gives tensors that are not in the file random values without an error.
        if missing := report["missing_keys"]:
            lack = f"{len(missing)} tensors of an AutoencoderKL, {missing[0]} for one"
            raise CheckpointMismatchError(f"{self.folder / WEIGHTS}: lacks {lack}.")
        return network.to(self.device).requires_grad_(False).eval()


@dataclass(frozen=True)
class AutoencoderFile(Autoencoder):
    """An autoencoder in a file of torch.save, in the names of latent-diffusion; `folder` is it."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the file in hexadecimal."""
        return file_sha256(self.folder)

    @property
    def reference(self) -> str:
        """The file's path."""
        return str(self.folder.absolute())

    @property
    def downsampling(self) -> int:
        """An image's side over its latents' side.

        Raises:
            CheckpointFormatError: The file holds no such autoencoder.
        """
        return ldm.downsampling(self._tensors)

    @property
    def latent_space(self) -> LatentSpace:
        """What the file does not tell.

        Raises:
            CheckpointFormatError: Always.
        """
        lack = "does not tell the scale of its latents, as a folder that diffusers wrote does"
        raise CheckpointFormatError(f"{self.folder}: {lack}.")

    @cached_property
    def _tensors(self) -> Tensors:
        if (found := ldm.find_state_dict(*read_contents(self.folder))) is None:
            what = "holds no autoencoder in the names of latent-diffusion"
            raise CheckpointFormatError(f"{self.folder}: {what} (decoder.mid.block_1 ...).")
        return found

    @cached_property
    def network(self) -> Any:  # noqa: ANN401
        """Diffusers' AutoencoderKL of the file's weights, as of `Autoencoder`."""
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        try:
            with torch.device("meta"):
                network: Any = AutoencoderKL(**ldm.settings_of(self._tensors))
            network.load_state_dict(ldm.renamed(self._tensors), strict=True, assign=True)
        except (ValueError, LookupError, RuntimeError) as error:
            reason = f"holds no AutoencoderKL: {first_line(error).rstrip(':.')}"
            raise CheckpointFormatError(f"{self.folder}: {reason}.") from error
        return network.to(self.device).requires_grad_(False).eval()


def latents_from_moments(moments: Tensor, noise: Tensor, latent_space: LatentSpace) -> Tensor:
    """Draw a model's x (B, C, h, w), of a latent space, from an encoded image's distribution.

    The moments (B, 2 C, h, w) are mean, then standard deviation (not its logarithm); the noise
    (B, C, h, w) is standard normal.

    Source:
        REPA train.py, sample_posterior.
    """
    mean, deviation = moments.chunk(2, dim=1)
    return latent_space.from_autoencoder(mean + deviation * noise)


def load_autoencoder(name_or_path: str, device: torch.device | str = "cpu") -> Autoencoder:
    """Find an AutoencoderKL and load it; raises as `find_autoencoder` and `network` do."""
    autoencoder = find_autoencoder(name_or_path, device)
    _ = autoencoder.network
    return autoencoder


def find_autoencoder(
    name_or_path: str | Path, device: torch.device | str = "cpu", *, download: bool = True
) -> Autoencoder:
    """Find an AutoencoderKL by its name in the registry, a folder of diffusers', or a file.

    A file is or holds a state dict in the names of latent-diffusion, as a checkpoint of REPA-E does
    (see `repa.autoencoders.ldm`). A name is looked for as `autoencoder_folder` says. What is found
    is not verified: no hash is recorded. The network will go to `device`.

    Raises:
        UnknownNameError: Neither a name nor a path.
        CheckpointFormatError: The folder or file has no weights of an autoencoder.
        DownloadError: It is not on this machine and could not be downloaded.
    """
    name, folder = str(name_or_path), Path(name_or_path)
    if is_registered("autoencoders", name_or_path):
        return Autoencoder(name, autoencoder_folder(name, download=download), device)
    if folder.is_file():
        return AutoencoderFile(folder.name, folder, device)
    if not folder.is_dir():
        raise UnknownNameError("autoencoder", str(folder), entry_names("autoencoders"))
    if not (folder / WEIGHTS).exists():
        raise CheckpointFormatError(f"{folder}: holds no AutoencoderKL: {WEIGHTS} is missing.")
    return Autoencoder(folder.resolve().name, folder, device)
