"""Sample images from a checkpoint into a crash-safe NPZ.

Batches are fixed by index (batch b holds images b * B to (b + 1) * B - 1), processes take them in
turn, and batches that are already on disk are skipped, so a killed run is continued by repeating
it, with any number of processes.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from repa.autoencoders.autoencoder import Autoencoder, find_autoencoder
from repa.checkpoints import Checkpoint, read_checkpoint
from repa.errors import NonFiniteError, SettingError
from repa.generation.images import TOLERANCE, check_protocol, images_of
from repa.generation.sample_file import NpzWriter, check_sample_file
from repa.generation.settings import SampleConfig
from repa_base.device import environment, toolkit_version
from repa_base.processes import Processes
from repa_base.progress import Steps


@dataclass(frozen=True)
class GeneratedFile:
    """An NPZ, and whether it was complete, with the same settings, before the run."""

    path: Path
    was_finished: bool


def generate(
    config: SampleConfig, *, processes: Processes | None = None, progress: Steps | None = None
) -> GeneratedFile:
    """Sample images into the NPZ `config.out`, or go on with a run that was interrupted.

    The file holds `arr_0`, uint8 (N, H, W, 3), `arr_1`, int64 labels (N,), and `manifest`, the
    settings as JSON. When it was complete before, nothing is computed.

    Args:
        config: The settings; the defaults are the published protocol.
        processes: Those that share the work, each calling this; all return when it is complete.
        progress: Called at the start, at every step and after every batch with the images of this
            process, a batch in work counted by its time gone by.

    Raises:
        RepaError: See `repa.checkpoints.load_model`, `repa.generation.sample_file.NpzWriter` and
            `repa.autoencoders.find_autoencoder`; SettingError for settings that do not suit the
            checkpoint; NonFiniteError when an image is NaN (the batches finished before are kept).
        OSError: The output cannot be written, or the disk has no room for it.
    """
    check_sample_file(config.out, overwrite=config.overwrite)
    processes = processes or Processes()
    job = Job.plan(config, processes)
    output = job.open_output() if processes.is_first else None
    processes.barrier()
    with output or job.open_output(attach=True) as output:
        was_finished = output.finished
        _fill(output, job, processes, progress or (lambda done, total: None))
    # On a network file system the first process sees what the others wrote when they have closed
    # the file and it has opened it again.
    processes.barrier()
    if processes.is_first:
        with job.open_output() as output:
            output.finish()
    processes.barrier()
    return GeneratedFile(config.out, was_finished)


@dataclass(frozen=True)
class Job:
    """A run whose settings have been checked against its checkpoint; nothing is loaded yet."""

    config: SampleConfig
    checkpoint: Checkpoint
    autoencoder: Autoencoder | None
    device: torch.device

    @classmethod
    def plan(cls, config: SampleConfig, processes: Processes) -> "Job":
        """Find the files that a run needs and check that its settings suit them."""
        device = processes.device(config.device)
        if device.type == "mps":
            raise SettingError("device", "the samplers need float64, which mps lacks: use cpu.")
        checkpoint = read_checkpoint(config.model, device)
        settings = checkpoint.settings
        check_protocol(config, settings)
        name, pixels = settings.latent_space.autoencoder, settings.latent_space.is_pixels
        if config.autoencoder is not None:
            if pixels:
                raise SettingError("autoencoder", f"{checkpoint.name} makes pixels, not latents.")
            name = config.autoencoder
        if name is None and not pixels:
            raise SettingError("autoencoder", f"{checkpoint.name} makes latents: name one.")
        autoencoder = find_autoencoder(name, device) if name else None
        return cls(config, checkpoint, autoencoder, device)

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
            "format": 1,
            "toolkit": toolkit_version(),
            "model": checkpoint.name,
            "checkpoint_sha256": checkpoint.sha256,
            "dataset": checkpoint.settings.dataset,
            "path_type": checkpoint.settings.path_type,
            "solver": config.solver,
            "num_steps": None if config.adaptive else config.num_steps,
            "cfg_scale": config.cfg_scale,
            "guidance_interval": config.guidance_interval,
            "seed": config.seed,
            "labels": config.labels,
            "num_images": config.num_images,
            "image_size": self.image_size,
            "autoencoder": autoencoder.name if autoencoder else None,
            "autoencoder_sha256": autoencoder.sha256 if autoencoder else None,
            "quantizer": config.quantizer,
            # The images of a batch share the steps of an adaptive solver.
            "batch_size": config.batch_size if config.adaptive else None,
            **({"rtol": TOLERANCE, "atol": TOLERANCE} if config.adaptive else {}),
            "dtype": "float32",
            "tf32": config.tf32 and self.device.type == "cuda",
            "versions": {name: environment()[name] for name in ("torch", "numpy", "python")},
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


def _fill(output: NpzWriter, job: Job, processes: Processes, progress: Steps) -> None:
    """Make this process's share of the images that are not on disk yet."""
    size, num_images = job.config.batch_size, job.config.num_images
    own = range(0, num_images, size)[processes.rank :: processes.size]
    batches = [range(start, min(start + size, num_images)) for start in own]
    todo = [i for batch in batches if not output.is_done(batch.start, len(batch)) for i in batch]
    total = sum(map(len, batches))
    done = total - len(todo)
    progress(done, total)
    if not todo:
        return
    if job.autoencoder is not None:
        _ = job.autoencoder.network  # what does not load fails before the first image
    sampled = images_of(
        job.checkpoint,
        todo,  # only the last batch is smaller, so the batches are the same here
        job.config,
        autoencoder=job.autoencoder,
        progress=lambda made, _: progress(done + made, total),
    )
    try:
        for batch in sampled:
            output.write(batch.indices[0], batch.images, batch.labels)
    except NonFiniteError as error:
        kept = f"The batches finished before are kept in {job.config.out}.part."
        raise NonFiniteError(f"{error} {kept}") from error
