"""Sample images from a checkpoint into a crash-safe NPZ.

A block is a batch, and fixed by index: block b holds images b * B to (b + 1) * B - 1. Processes
take them in turn, and blocks that are already on disk are skipped. So a killed run is continued by
repeating it, with any number of processes; B belongs to the run, so that it ends with the same
bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from repa.autoencoders.autoencoder import Autoencoder, find_autoencoder
from repa.checkpoints import Checkpoint, read_checkpoint
from repa.errors import ChecksumError, NonFiniteError, RepaError, SettingError
from repa.generation.draws import image_blocks
from repa.generation.guiding import recorded
from repa.generation.images import DTYPES, TOLERANCE, check_precision, check_protocol, images_of
from repa.generation.sample_files.opening import (
    attach_output,
    check_sample_file,
    open_output,
    unfinished_part,
)
from repa.generation.sample_files.sample_file import NpzWriter
from repa.generation.sample_files.sample_run import SampleRun
from repa.generation.settings import SampleConfig
from repa.generation.solvers import DEFAULT_ORDER
from repa.registry import class_names_of_dataset
from repa_base.device import computes_bf16, environment, toolkit_version
from repa_base.processes import Processes, at_first
from repa_base.progress import Steps
from samplers import EXPONENTIAL_ORDERS

_ATTEMPTS = 4  # to write what the disk keeps


@dataclass(frozen=True)
class GeneratedFile:
    """An NPZ, and whether it was complete, with the same settings, before the run."""

    path: Path
    was_finished: bool


def generate(
    config: SampleConfig,
    *,
    processes: Processes | None = None,
    progress: Steps | None = None,
    on_note: Callable[[str], object] | None = None,
) -> GeneratedFile:
    """Sample images into the NPZ `config.out`, or go on with a run that was interrupted.

    The file holds `arr_0`, uint8 (N, H, W, 3), `arr_1`, int64 labels (N,), and `manifest`, the
    settings as JSON. When it was complete before, nothing is computed. A run goes on in blocks of
    the size that it was begun with, whatever `config.batch_size` says; so does one that extends a
    finished or unfinished file of fewer images. Every image is compared with its checksum when the
    file is completed, and what the disk did not keep is made again.

    Args:
        config: The settings; the defaults are the published protocol.
        processes: Those that share the work, each calling this; all return when it is complete.
        progress: Called at the start, at every step and after every batch with the images of this
            process, a batch in work counted by its time gone by. The first call tells how many were
            done before. Images that are made again are taken off first.
        on_note: Is told at the first process, in one line for a person, what is not as asked for:
            another block size, images taken over, images made again.

    Raises:
        RepaError: See `repa.checkpoints.load_model`, `repa.autoencoders.find_autoencoder` and
            `repa.generation.sample_files.opening.open_output`; SettingError for settings that do
            not suit the checkpoint; NonFiniteError when an image is NaN (the batches finished
            before are kept);
            ChecksumError when the disk does not keep what is written.
        OSError: The output cannot be written, or the disk has no room for it.
    """
    check_sample_file(config.out, overwrite=config.overwrite)
    processes = processes or Processes()
    job = Job.plan(config, processes)
    progress = progress or (lambda done, total: None)
    note = on_note if on_note and processes.is_first else lambda text: None
    for taken in job.checkpoint.assumed:
        note(f"{job.checkpoint.name}: assumed {taken}.")
    if config.rng == "reference" and job.device.type != "cuda":
        reason = "those were drawn on GPUs, whose generators give other numbers than a CPU's"
        note(f"rng reference: these images are those of no published run; {reason}.")
    if config.precision == "bf16" and not computes_bf16(job.device):
        note("precision bf16: this CPU has no instructions for it, and fp32 is faster here.")
    for attempt in range(_ATTEMPTS):
        output = job.open_output(processes)
        if output is None:
            total = sum(map(len, job.blocks(config.batch_size, processes)))
            progress(total, total)
            return GeneratedFile(config.out, was_finished=attempt == 0)
        with output:
            if attempt == 0:
                job.describe(output, note)
            _fill(output, job, processes, progress)
        # On a network file system the first process sees what the others wrote when they have
        # closed the file and it has opened it again.
        processes.barrier()
        if not (num_damaged := at_first(processes, job.finish)):
            return GeneratedFile(config.out, was_finished=False)
        note(f"damaged on disk: {num_damaged} of {config.num_images} images; making them again.")
    reason = f"does not keep what is written, after {_ATTEMPTS} attempts"
    raise ChecksumError(f"{unfinished_part(config.out)} {reason}: use another disk (--out).")


@dataclass(frozen=True)
class Job:
    """A run whose settings have been checked against its checkpoint; nothing is loaded yet."""

    config: SampleConfig
    checkpoint: Checkpoint
    autoencoder: Autoencoder | None
    device: torch.device
    guide: Checkpoint | None = None

    @classmethod
    def plan(cls, config: SampleConfig, processes: Processes) -> "Job":
        """Find the files that a run needs and check that its settings suit them."""
        device = processes.device(config.device)
        if device.type == "mps":
            raise SettingError("device", "the samplers need float64, which mps lacks: use cpu.")
        checkpoint = read_checkpoint(config.model, device, **config.hints)
        settings = checkpoint.settings
        guide = None if config.guide is None else read_checkpoint(config.guide, device)
        check_protocol(config, settings, guide and guide.settings)
        if config.world_size is not None and processes.size > config.world_size:
            rule = f"start at most {config.world_size} processes here, not {processes.size}"
            raise SettingError("world_size", f"world_size is that of rng reference: {rule}.")
        for each in (checkpoint, guide):
            _ = each and each.check()
        name, pixels = settings.latent_space.autoencoder, settings.latent_space.is_pixels
        if config.autoencoder is not None:
            if pixels:
                raise SettingError("autoencoder", f"{checkpoint.name} makes pixels, not latents.")
            name = config.autoencoder
        if name is None and not pixels:
            raise SettingError("autoencoder", f"{checkpoint.name} makes latents: name one.")
        check_precision(config, device)
        autoencoder = find_autoencoder(name, device) if name else None
        return cls(config, checkpoint, autoencoder, device, guide)

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
        reference = checkpoint.settings.reference
        return {
            "format": 1,
            "toolkit": toolkit_version(),
            "model": checkpoint.name,
            "checkpoint_sha256": checkpoint.sha256,
            **_convention(checkpoint),
            "dataset": checkpoint.settings.dataset,
            **({} if reference is None else {"reference": reference.to_dict()}),
            **_class_names(checkpoint),
            "path_type": checkpoint.settings.path_type,
            "solver": config.solver,
            "num_steps": None if config.adaptive else config.num_steps,
            **_few_steps(config),
            "cfg_scale": config.cfg_scale,
            "guidance_interval": config.guidance_interval,
            **recorded(config),
            **_guide(self.guide),
            **_internal(config),
            "seed": config.seed,
            **_reference_rng(config, self.device),
            "labels": config.labels,
            "num_images": config.num_images,
            "image_size": self.image_size,
            "autoencoder": autoencoder.name if autoencoder else None,
            "autoencoder_sha256": autoencoder.sha256 if autoencoder else None,
            "quantizer": config.quantizer,
            # Of the run: an image's last digits depend on how many share its batch.
            "batch_size": config.batch_size,
            **({"rtol": TOLERANCE, "atol": TOLERANCE} if config.adaptive else {}),
            "dtype": str(DTYPES[config.precision]).removeprefix("torch."),
            "tf32": config.tf32 and self.device.type == "cuda",
            **({"compile": True} if config.compile else {}),
            "versions": {name: environment()[name] for name in ("torch", "numpy", "python")},
        }

    def open_output(self, processes: Processes) -> NpzWriter | None:
        """Open the NPZ at every process, in its own right at the first; None if it is finished."""
        config, opened = self.config, []

        def begin() -> SampleRun | None:
            output = open_output(config.out, self.manifest, overwrite=config.overwrite)
            opened.append(output)
            return output and output.run

        run = at_first(processes, begin)
        if run is None or opened:
            return opened[0] if opened else None
        return attach_output(config.out, run, overwrite=config.overwrite)

    def finish(self) -> int:
        """Complete the NPZ; return how many images have to be made again for that."""
        output = open_output(self.config.out, self.manifest, overwrite=self.config.overwrite)
        if output is None:
            return 0
        with output:
            return output.finish()

    def describe(self, output: NpzWriter, note: Callable[[str], object]) -> None:
        """Tell what is not as the settings say."""
        typed, size = self.config.batch_size, output.run.block_size
        if output.num_taken_over:
            note(f"extending {self.config.out}: {output.num_taken_over} of its images stay.")
        if size != typed:
            note(f"going on with the run's blocks of {size} images, not {typed}.")

    def blocks(self, size: int, processes: Processes) -> list[range]:
        """Return this process's share of the images, in blocks of a size."""
        share = processes.rank, processes.size
        return image_blocks(self.config.num_images, size, self.config, share)


def _convention(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what decides the images of other dialects; nothing for REPA's and our own."""
    settings, said = checkpoint.settings, {}
    if checkpoint.dialect not in ("ours", "repa"):
        said["dialect"] = checkpoint.dialect
    if settings.guided_channels is not None:
        said["guided_channels"] = settings.guided_channels
    if settings.latent_space.num_channels is not None:
        space = settings.latent_space
        said["latent_space"] = {"scale": space.scale, "bias": space.bias}
    return said


def _class_names(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the names of own data's classes, for those who look.

    A registered data set's are left out, and none are put in their place if they do not fit.
    """
    settings = checkpoint.settings
    if len(settings.class_names) == settings.num_classes:
        return {"class_names": list(settings.class_names)}
    try:
        known = len(class_names_of_dataset(settings.dataset))
    except RepaError:  # their package is not there, and images can do without
        known = 0
    return {} if known in (0, settings.num_classes) else {"class_names": []}


def _reference_rng(config: SampleConfig, device: torch.device) -> dict[str, Any]:
    """Return what decides the reference's random numbers; nothing for each image's own."""
    if config.rng != "reference":
        return {}
    # How a GPU's generator deals out the numbers of a large batch depends on its multiprocessors.
    drawn = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    sizes = {"world_size": config.world_size, "rank_batch_size": config.batch_size}
    return {"rng": "reference", **sizes, "rng_device": drawn}


def _few_steps(config: SampleConfig) -> dict[str, Any]:
    """Return the order and the times where they are the user's to choose, or not the published."""
    said: dict[str, Any] = {}
    if config.solver in EXPONENTIAL_ORDERS:
        said["order"] = config.order or DEFAULT_ORDER
    if config.times != "published":
        said["times"] = config.times
    if config.times == "shifted":
        said["shift"] = config.shift
    return said


def _guide(guide: Checkpoint | None) -> dict[str, Any]:
    return {} if guide is None else {"guide": guide.name, "guide_sha256": guide.sha256}


def _internal(config: SampleConfig) -> dict[str, Any]:
    if config.internal_scale == 1:
        return {}
    interval = config.internal_interval
    return {"internal_scale": config.internal_scale, "internal_interval": interval}


def _fill(output: NpzWriter, job: Job, processes: Processes, progress: Steps) -> None:
    """Make this process's share of the images that are not on disk yet."""
    blocks = job.blocks(output.run.block_size, processes)
    left = (b for b in blocks if not output.is_done(b.start, len(b), b.step))
    todo = [index for block in left for index in block]
    total = sum(map(len, blocks))
    done = total - len(todo)
    progress(done, total)
    if not todo:
        return
    if job.autoencoder is not None:
        _ = job.autoencoder.network  # what does not load fails before the first image
    sampled = images_of(
        job.checkpoint,
        todo,  # only the last block is smaller, so the blocks are the same here
        replace(job.config, batch_size=output.run.block_size),
        autoencoder=job.autoencoder,
        guide=job.guide,
        progress=lambda made, _: progress(done + made, total),
    )
    try:
        for batch in sampled:
            output.write(batch.indices[0], batch.images, batch.labels, blocks[0].step)
    except NonFiniteError as error:
        kept = f"The batches finished before are kept in {unfinished_part(job.config.out)}."
        raise NonFiniteError(f"{error} {kept}") from error
