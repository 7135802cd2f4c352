"""A dry run: what a run of sampling would be, how long it would take, and whether it has room."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from repa.errors import NoMemoryError, RepaError
from repa.generation.cost import evaluations, rows_of
from repa.generation.defaults import ModelDefaults, defaults_of
from repa.generation.images import memory_for
from repa.generation.job import Job
from repa.generation.manifests.recorded import Recorded
from repa.generation.planning.measuring import Timing, timing_of
from repa.generation.sample_files.opening import Outlook, check_sample_file, look_at_output_of
from repa.generation.settings import Protocol, SampleConfig
from repa.registry import find_entry
from repa.registry.published import PublishedRow, closest_published_row
from repa_base.processes import Processes, at_first

_NOT_OF_THE_PROTOCOL = ("seed", "batch_size")


@dataclass(frozen=True)
class DryRun:
    """What a run would be.

    Attributes:
        config: All its settings.
        manifest: What the NPZ would say of itself.
        own: The model's own defaults; those that a manifest decided count as typed.
        evaluations: Of an image, without guidance and with; None if the solver chooses.
        output: What is at the output, and what is needed there.
        num_processes: Processes that share the images.
        timing: In one of them, while all were at work; None where it was not measured.
        unmeasured: Why not, in words.
        row: The closest published row of the model; None if nothing is published of it.
        remarks: What else a run would tell.
    """

    config: SampleConfig
    manifest: Mapping[str, Any]
    own: ModelDefaults
    evaluations: tuple[int, int] | None
    output: Outlook
    num_processes: int
    timing: Timing | None
    unmeasured: str | None
    row: PublishedRow | None
    remarks: tuple[str, ...]

    @property
    def network_rows(self) -> int | None:
        """Rows of an image that networks compute; None if the solver chooses its steps."""
        return None if self.evaluations is None else rows_of(*self.evaluations)

    @property
    def image_seconds(self) -> float | None:
        """How long an image of a whole batch takes in one process."""
        if self.timing is None or self.evaluations is None:
            return None
        size = min(self.output.block_size, self.config.num_images)
        return self.timing.batch(size, self.evaluations) / size

    @property
    def seconds(self) -> float | None:
        """How long the images take that are not done: the largest share of a process."""
        if (image := self.image_seconds) is None:
            return None
        left, size = self.config.num_images - self.output.num_done, self.output.block_size
        blocks = -(-left // size)
        return image * min(left, -(-blocks // self.num_processes) * size)

    @property
    def departures(self) -> dict[str, tuple[Any, Any]]:
        """Settings that are not as in REPA's published protocol: that one's value, and this."""
        names = [f.name for f in fields(Protocol) if f.name not in _NOT_OF_THE_PROTOCOL]
        published, here = Protocol(), self.config
        if here.adaptive:
            names.remove("num_steps")
        pairs = {name: (getattr(published, name), getattr(here, name)) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        row = self.row
        output = {k: v for k, v in asdict(self.output).items() if k != "shortage"}
        shortage = self.output.shortage
        return {
            "settings": {k: _plain(v) for k, v in asdict(self.config).items()},
            "manifest": dict(self.manifest),
            "departures": {n: {"published": a, "here": b} for n, (a, b) in self.departures.items()},
            "published_row": row
            and {
                "name": row.name,
                "source": row.source,
                "comparable": row.comparable,
                "differences": [asdict(each) for each in row.differences],
                "metrics": dict(row.metrics),
            },
            "evaluations": self.evaluations and sum(self.evaluations),
            "guided_evaluations": self.evaluations and self.evaluations[1],
            "network_rows": self.network_rows,
            "output": {**output, "shortage": shortage and shortage.strerror},
            "processes": self.num_processes,
            "timing": self.timing and asdict(self.timing),
            "unmeasured": self.unmeasured,
            "image_seconds": self.image_seconds,
            "seconds": self.seconds,
            "remarks": list(self.remarks),
        }


def dry_run(
    config: SampleConfig,
    *,
    recorded: Recorded | None = None,
    processes: Processes | None = None,
    measured: bool = True,
) -> DryRun:
    """Find out what `repa.generation.generate` of these arguments would do; write nothing.

    Args:
        config: The settings.
        recorded: As of `generate`.
        processes: As of `generate`: all are measured at the same time, and the slowest counts.
        measured: Whether to measure time, which loads the networks and takes some seconds.

    Raises:
        RepaError: As `generate` does before its first image.
        OSError: As `generate` does; but that there is no room stands in `output.shortage`.
    """
    processes = processes or Processes()
    check_sample_file(config.out, overwrite=config.overwrite, writing=False)
    job = Job.plan(config, processes, recorded)

    def look() -> Outlook:
        return look_at_output_of(config.out, job.manifest, overwrite=config.overwrite)

    output = at_first(processes, look)
    timing, unmeasured = None, None if measured else "not asked for"
    if output.was_finished:
        unmeasured = "it is finished"
    elif measured:
        processes.barrier()
        size = min(output.block_size, config.num_images)
        timing, unmeasured = _measured(job, size, begun=output.num_done > 0)
        found = list(processes.gather((timing, unmeasured)))
        timing, unmeasured = processes.share(_slowest(found) if processes.is_first else None)
    counted = evaluations(config, job.checkpoint.settings.path_type)
    own = ModelDefaults() if recorded else defaults_of(config.model, **config.hints)
    row, remarks = _row(job, config), tuple(job.remarks())
    what = config, job.manifest, own, counted, output, processes.size
    return DryRun(*what, timing, unmeasured, row, remarks)


def _measured(job: Job, size: int, *, begun: bool) -> tuple[Timing | None, str | None]:
    """Return the timing, or why there is none that a run would not end of as well."""
    try:
        with memory_for(size, job.config):
            return timing_of(job, size), None
    except NoMemoryError as error:
        return None, str(job.without_room(error, size, begun=begun))


def _slowest(found: list[tuple[Timing | None, str | None]]) -> tuple[Timing | None, str | None]:
    """Return the measurement of the slowest process, or of one that could not measure."""
    for each in found:
        if each[0] is None:
            return each
    return max(found, key=lambda each: each[0].evaluation(8, guided=True) if each[0] else 0.0)


def _row(job: Job, config: SampleConfig) -> PublishedRow | None:
    """Return the published row that the images would be nearest to, measured as it was."""
    dataset = job.checkpoint.settings.dataset
    try:
        of_data = find_entry("datasets", dataset or "")
    except RepaError:
        return None
    return closest_published_row(
        job.manifest,
        num_images=config.num_images,
        reference=str(of_data.get("reference")),
        network=str(of_data.get("network")),
    )


def _plain(value: Any) -> Any:  # noqa: ANN401
    return value if isinstance(value, int | float | tuple | str | None) else str(value)
