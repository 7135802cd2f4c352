"""Sample images from a checkpoint into a crash-safe NPZ.

Image i depends on the seed and i alone. Batches are fixed by index (batch b holds images b * B to
(b + 1) * B - 1), processes take them in turn, and batches that are already on disk are skipped, so
a killed run is continued by repeating it, with any number of processes.
"""

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repa.autoencoders.autoencoder import (
    Autoencoder,
    AutoencoderFiles,
    find_autoencoder,
)
from repa.autoencoders.pixels import images_from_pixels
from repa.checkpoints import Checkpoint, read_checkpoint
from repa.errors import NonFiniteError, SettingError
from repa.generation.sample_file import NpzWriter, check_sample_file
from repa.generation.settings import SampleConfig
from repa.models.sit import SiT
from repa_base.processes import Processes, joined_processes
from samplers import (
    INTERPOLANTS,
    VelocityFn,
    classifier_free_velocity,
    draw_labels,
    initial_noise,
    sample_ode,
    sample_sde,
    step_noise,
)

ProgressFn = Callable[[float, int], None]
"""progress(done, total): images of this process, a batch in work counted by its time gone by."""

_MANIFEST_FORMAT = 1
_TOLERANCES = {"rtol": 1e-5, "atol": 1e-5}  # of adaptive solvers


@dataclass(frozen=True)
class GeneratedFile:
    """What `generate` leaves.

    Attributes:
        path: The NPZ.
        was_finished: Whether it was complete, with the same settings, before this run.
    """

    path: Path
    was_finished: bool


def generate(config: SampleConfig, *, progress: ProgressFn | None = None) -> GeneratedFile:
    """Sample images into the NPZ `config.out`, or go on with a run that was interrupted.

    The file holds `arr_0`, uint8 (N, H, W, 3), `arr_1`, int64 labels (N,), and `manifest`, the
    settings as JSON. Under torchrun every process takes its share; all return when the file is
    complete. When it was complete before, nothing is computed.

    Args:
        config: The settings; the defaults are the published protocol.
        progress: Called at the start, at every step and after every batch.

    Returns:
        The NPZ, and whether there was nothing left to do.

    Raises:
        RepaError: See `repa.checkpoints.load_model`, `repa.generation.sample_file.NpzWriter` and
            `repa.autoencoders.autoencoder.find_autoencoder`; SettingError for settings that do not
            suit the checkpoint; NonFiniteError when an image is NaN (the batches finished before
            are kept).
        OSError: The output cannot be written, or the disk has no room for it.
    """
    check_sample_file(config.out, overwrite=config.overwrite)
    with joined_processes() as world:
        job = Job.plan(config, world)
        output = job.open_output() if world.is_first else None
        world.barrier()
        with (
            output or job.open_output(attach=True) as output,
            _matmul_precision(job.device, tf32=config.tf32),
        ):
            was_finished = output.finished
            _fill(output, job, world, progress or (lambda done, total: None))
        # On a network file system the first process sees what the others wrote when they have
        # closed the file and it has opened it again.
        world.barrier()
        if world.is_first:
            with job.open_output() as output:
                output.finish()
        world.barrier()
    return GeneratedFile(config.out, was_finished)


@dataclass(frozen=True)
class Job:
    """A run whose settings have been checked against its checkpoint; nothing is loaded yet."""

    config: SampleConfig
    checkpoint: Checkpoint
    autoencoder: AutoencoderFiles | None
    device: torch.device

    @classmethod
    def plan(cls, config: SampleConfig, world: Processes) -> "Job":
        """Find the files that a run needs and check that its settings suit them."""
        device = world.device(config.device)
        if device.type == "mps":
            raise SettingError("device", "the samplers need float64, which mps lacks: use cpu.")
        checkpoint = read_checkpoint(config.model, device)
        settings = checkpoint.settings
        if not isinstance(config.labels, str) and max(config.labels) >= settings.num_classes:
            raise SettingError(
                "labels",
                f"label {max(config.labels)} is none of the {settings.num_classes} classes of "
                f"{checkpoint.name}, 0 to {settings.num_classes - 1}.",
            )
        name, pixels = checkpoint.latent_space.autoencoder, checkpoint.latent_space.is_pixels
        if config.autoencoder is not None:
            if pixels:
                raise SettingError("autoencoder", f"{checkpoint.name} makes pixels, not latents.")
            name = config.autoencoder
        if name is None and not pixels:
            raise SettingError("autoencoder", f"{checkpoint.name} makes latents: name one.")
        return cls(config, checkpoint, find_autoencoder(name) if name else None, device)

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        factor = self.autoencoder.downsampling if self.autoencoder else 1
        return self.checkpoint.settings.model["input_size"] * factor

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Everything that decides the images; no times and no paths, so that bytes repeat.

        Made once, so that a checkpoint that is replaced during the run does not disturb it.
        """
        config, checkpoint, autoencoder = self.config, self.checkpoint, self.autoencoder
        return {
            "format": _MANIFEST_FORMAT,
            "toolkit": _toolkit_version(),
            "model": checkpoint.name,
            "checkpoint_sha256": checkpoint.sha256,
            "dataset": checkpoint.settings.dataset,
            "path_type": checkpoint.settings.path_type,
            "solver": config.solver,
            "num_steps": None if config.adaptive else config.num_steps,
            "cfg_scale": config.cfg_scale,
            "guidance_interval": list(config.guidance_interval),
            "seed": config.seed,
            "labels": config.labels if isinstance(config.labels, str) else list(config.labels),
            "num_images": config.num_images,
            "image_size": self.image_size,
            "autoencoder": autoencoder.name if autoencoder else None,
            "autoencoder_sha256": autoencoder.sha256 if autoencoder else None,
            "quantizer": config.quantizer,
            # The images of a batch share the steps of an adaptive solver.
            "batch_size": config.batch_size if config.adaptive else None,
            **(_TOLERANCES if config.adaptive else {}),
            "dtype": "float32",
            "tf32": config.tf32 and self.device.type == "cuda",
            "versions": {
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
        }

    def open_output(self, *, attach: bool = False) -> NpzWriter:
        """Open the NPZ, or find it finished; see `NpzWriter`."""
        return NpzWriter(
            self.config.out,
            num_images=self.config.num_images,
            image_size=self.image_size,
            manifest=self.manifest,
            overwrite=self.config.overwrite,
            attach=attach,
        )

    def load(self) -> "Sampler":
        """Load the networks."""
        decoder = self.autoencoder.load(self.device) if self.autoencoder else None
        return Sampler(self, self.checkpoint.model, decoder)


@dataclass(frozen=True)
class Sampler:
    """A job with its networks: indices in, images out."""

    job: Job
    model: SiT
    autoencoder: Autoencoder | None

    @torch.no_grad()
    def sample(
        self, indices: Sequence[int], on_time: Callable[[float], None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Make the images of some indices.

        Args:
            indices: Which images.
            on_time: Called at every step with the time reached, from 1 (noise) down to 0.

        Returns:
            Images uint8 (B, H, W, 3) and labels int64 (B,).

        Raises:
            NonFiniteError: An image is NaN or infinite.
        """
        labels = self._labels(indices)
        state = self._integrate(indices, labels.to(self.job.device), on_time).float()
        space = self.job.checkpoint.latent_space
        pixels = self.autoencoder.decode(state, space) if self.autoencoder else state
        for index, finite in zip(indices, torch.isfinite(pixels).flatten(1).all(1), strict=True):
            if not finite:
                raise NonFiniteError(
                    f"image {index} has NaN or infinite pixels: the network overflowed; the "
                    f"batches finished before are kept in {self.job.config.out}.part."
                )
        images = images_from_pixels(pixels, self.job.config.quantizer)
        return images.cpu().numpy(), labels.numpy()

    def _labels(self, indices: Sequence[int]) -> Tensor:
        scheme, num_classes = self.job.config.labels, self.model.num_classes
        if scheme == "random":
            return draw_labels(self.job.config.seed, indices, num_classes)
        cycle = range(num_classes) if scheme == "balanced" else scheme
        return torch.tensor([int(cycle[i % len(cycle)]) for i in indices])

    def _integrate(
        self, indices: Sequence[int], labels: Tensor, on_time: Callable[[float], None]
    ) -> Tensor:
        config, model, checkpoint = self.job.config, self.model, self.job.checkpoint
        shape = (model.in_channels, model.input_size, model.input_size)
        noise = initial_noise(config.seed, indices, shape).to(self.job.device)
        velocity = _watched(
            classifier_free_velocity(
                checkpoint.velocity_model, labels, model.null_label, config.cfg_scale
            ),
            on_time,
        )
        if config.solver == "sde":
            return sample_sde(
                velocity,
                noise,
                num_steps=config.num_steps,
                interpolant=INTERPOLANTS[checkpoint.settings.path_type],
                guidance_interval=config.guidance_interval,
                normal=lambda step: step_noise(config.seed, indices, step, shape),
            )
        return sample_ode(
            velocity,
            noise,
            num_steps=None if config.adaptive else config.num_steps,
            method=config.solver,
            guidance_interval=config.guidance_interval,
            rtol=_TOLERANCES["rtol"],
            atol=_TOLERANCES["atol"],
        )


def _fill(output: NpzWriter, job: Job, world: Processes, progress: ProgressFn) -> None:
    """Make this process's share of the images that are not on disk yet."""
    config = job.config
    starts = range(0, config.num_images, config.batch_size)[world.rank :: world.size]
    batches = [range(s, min(s + config.batch_size, config.num_images)) for s in starts]
    todo = [batch for batch in batches if not output.is_done(batch.start, len(batch))]
    total = sum(map(len, batches))
    done = total - sum(map(len, todo))
    progress(done, total)
    if not todo:
        return
    sampler = job.load()
    for batch in todo:

        def on_time(t: float, done: int = done, size: int = len(batch)) -> None:
            progress(done + size * (1 - t), total)

        output.write(batch.start, *sampler.sample(batch, on_time))
        done += len(batch)
        progress(done, total)


def _watched(velocity: VelocityFn, on_time: Callable[[float], None]) -> VelocityFn:
    def watched(x: Tensor, t: Tensor, guided: bool) -> Tensor:
        on_time(float(t[0]))
        return velocity(x, t, guided)

    return watched


@contextmanager
def _matmul_precision(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """Allow or forbid TF32 matrix products on a GPU; a CPU computes in full float32."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _toolkit_version() -> str:
    try:
        return metadata.version("repa-toolkit")
    except metadata.PackageNotFoundError:
        return "unknown"
