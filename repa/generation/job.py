"""Sample images from a checkpoint into a crash-safe NPZ.

A block is a batch, and fixed by index: block b holds images b * B to (b + 1) * B - 1. Processes
take them in turn, and blocks that are already on disk are skipped. So a killed run is continued by
repeating it, with any number of processes; B belongs to the run, so that it ends with the same
bytes.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from repa.autoencoders.autoencoder import Autoencoder, find_autoencoder
from repa.checkpoints import Checkpoint, read_checkpoint
from repa.errors import ChecksumError, NoMemoryError, NonFiniteError, RepaError, SettingError
from repa.generation.draws import image_blocks
from repa.generation.images import check_decoder, check_precision, check_protocol, images_of
from repa.generation.manifests.recorded import Recorded, read_recorded
from repa.generation.manifests.writing import manifest_of
from repa.generation.sample_files.opening import (
    attach_output,
    check_sample_file,
    open_output,
    unfinished_part,
)
from repa.generation.sample_files.sample_file import NpzWriter
from repa.generation.sample_files.sample_run import SampleRun, differing
from repa.generation.settings import GUIDE_HINTS, SampleConfig
from repa.registry import is_registered
from repa_base.device import remarks_on
from repa_base.processes import Processes, at_first, together
from repa_base.progress import Steps

_ATTEMPTS = 4  # to write what the disk keeps


@dataclass(frozen=True)
class GeneratedFile:
    """An NPZ, and whether it was complete, with the same settings, before the run."""

    path: Path
    was_finished: bool


def generate(
    config: SampleConfig,
    *,
    recorded: Recorded | None = None,
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
        recorded: The run that is repeated, whose `config` gave the settings; see `repeat`.
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
    job = Job.plan(config, processes, recorded)
    job.check_same(processes)
    progress = progress or (lambda done, total: None)
    note = on_note if on_note and processes.is_first else lambda text: None
    for remark in job.remarks():
        note(remark)
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


def repeat(
    source: Path,
    out: Path,
    *,
    processes: Processes | None = None,
    progress: Steps | None = None,
    on_note: Callable[[str], object] | None = None,
    **given: Any,  # noqa: ANN401
) -> GeneratedFile:
    """Sample the images of a finished NPZ again, by what its manifest says, to the same bytes.

    They are the same where versions, device and its kernels are; what is not is told to `on_note`.

    Args:
        source: The NPZ, which is only read.
        out: The NPZ to write.
        processes: As of `generate`.
        progress: As of `generate`.
        on_note: As of `generate`.
        given: See `Recorded.config`.

    Raises:
        RepaError: See `read_recorded`, `Recorded.config` and `generate`; ChecksumError for a
            checkpoint, guide or autoencoder that is not the recorded one.
        OSError: A file cannot be read or written.
    """
    recorded = read_recorded(source)
    how = {"processes": processes, "progress": progress, "on_note": on_note}
    return generate(recorded.config(out, **given), recorded=recorded, **how)


@dataclass(frozen=True)
class Job:
    """A run whose settings have been checked against its checkpoint; nothing is loaded yet."""

    config: SampleConfig
    checkpoint: Checkpoint
    autoencoder: Autoencoder | None
    device: torch.device
    guide: Checkpoint | None = None
    recorded: Recorded | None = None

    @classmethod
    def plan(
        cls, config: SampleConfig, processes: Processes, recorded: Recorded | None = None
    ) -> "Job":
        """Find the files that a run needs and check that its settings suit them."""
        device = processes.device(config.device)
        known = {} if recorded is None else recorded.registered
        hints = {"registered": known.get("model"), **config.hints}
        checkpoint = read_checkpoint(config.model, device, **hints)
        if recorded is not None:
            recorded.check_file("model", checkpoint.sha256)
        settings, guide = checkpoint.settings, _guide_of(config, device, recorded)
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
        if autoencoder is not None:
            check_decoder(autoencoder, settings.model["in_channels"])
        if recorded is not None and autoencoder is not None:
            recorded.check_file("autoencoder", autoencoder.sha256)
        return cls(config, checkpoint, autoencoder, device, guide, recorded)

    def remarks(self) -> Iterator[str]:
        """Yield in words what a person should know of the run before it begins."""
        config = self.config
        for each in filter(None, (self.checkpoint, self.guide)):
            for taken in each.assumed:
                yield f"{each.name}: assumed {taken}."
        if config.rng == "reference" and self.device.type != "cuda":
            reason = "those were drawn on GPUs, whose generators give other numbers than a CPU's"
            yield f"rng reference: these images are those of no published run; {reason}."
        yield from remarks_on(config.precision, self.device)
        if self.recorded is not None and (how := self.recorded.differences(self.manifest)):
            yield f"not all is as it was ({how}): images may differ, and the bytes of the file do."

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
        files = self.checkpoint, self.autoencoder, self.guide
        made = manifest_of(self.config, *files, self.device, image_size=self.image_size)
        made = json.loads(json.dumps(made))  # as it is when it is read: no tuples
        return made if self.recorded is None else self.recorded.reconciled(made)

    def check_same(self, processes: Processes) -> None:
        """Raise RepaError at all processes if one of them would make other images than the first.

        Each reads what it samples from by itself, and a path may be another file on its machine.
        """
        if processes.size == 1:
            return
        with together(processes):
            own = self.manifest
        first = processes.share(own)
        with together(processes):
            if different := differing(first, own):
                raise RepaError(
                    f"process {processes.rank} would make other images than the first one, which "
                    f"is there ({different}): give all the same settings and files."
                )

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

    def without_room(self, error: NoMemoryError, size: int, *, begun: bool) -> NoMemoryError:
        """Return an error that tells what helps a run in blocks of a size that do not fit.

        Neither a manifest nor a run that has begun leaves another size or precision to choose.
        """
        if self.recorded is None and not begun:
            return error
        whose, way = "its manifest", "repeat it on a device with more of it"
        if self.recorded is None:
            whose, way = "the run", "go on on a device with more of it"
            if size > 1:
                way += f", or begin anew with --batch-size {size // 2} and another --out"
        said = f"out of memory for {size} images at once, the block size of {whose}: {way}."
        return NoMemoryError(said)

    def blocks(self, size: int, processes: Processes) -> list[range]:
        """Return this process's share of the images, in blocks of a size."""
        share = processes.rank, processes.size
        return image_blocks(self.config.num_images, size, self.config, share)


def _guide_of(
    config: SampleConfig, device: torch.device, recorded: Recorded | None
) -> Checkpoint | None:
    """Read what a run is guided away from, if anything.

    What is said of the model's file is said of the guide's too, where that does not tell it itself:
    an earlier checkpoint of the same run tells no more. A repeated run says what it said before.
    """
    if config.guide is None:
        return None
    names, registered = GUIDE_HINTS, None
    if recorded is not None:
        names, registered = recorded.guide_hints, recorded.registered.get("guide")
    elif is_registered("checkpoints", config.guide):
        names = ()
    said = {name: config.hints[name] for name in names}
    how: dict[str, Any] = {"registered": registered, "giving_way": bool(said)}
    guide = read_checkpoint(config.guide, device, **how, **said)
    if recorded is not None:
        recorded.check_file("guide", guide.sha256)
    return guide


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
    except NoMemoryError as error:
        size = min(output.run.block_size, job.config.num_images)
        raise job.without_room(error, size, begun=output.num_done() > 0) from error
    except NonFiniteError as error:
        kept = f"The batches finished before are kept in {unfinished_part(job.config.out)}."
        if job.recorded is not None:
            kept += " Settings are the manifest's: a run with others is one without it."
        raise NonFiniteError(f"{error} {kept}") from error
