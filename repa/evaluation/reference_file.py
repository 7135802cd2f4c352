"""One call for all that `repa stats` does: from images to a reference in ADM's form."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from metrics import open_images, write_reference
from metrics.settings import DEFAULT_BATCH_SIZE, Resize
from repa.errors import OutputExistsError
from repa.evaluation.cached import Message, ignore, with_cache
from repa.evaluation.networks import load_named_network
from repa.evaluation.plan import network_for
from repa_base.files import check_output
from repa_base.processes import Processes, together
from repa_base.progress import Progress

_ALONE = Processes()


@dataclass(frozen=True)
class ReferenceFile:
    """A reference that was written.

    Attributes:
        reference: The file.
        network: Name of the network whose features the statistics are of.
        preprocessing: What it does to the pixels.
        weights_sha256: Its weights.
        images_in_statistics: How many images those are of.
        images_kept: How many of them are in the file.
        seed: Of their choice.
    """

    reference: str
    network: str
    preprocessing: str
    weights_sha256: str
    images_in_statistics: int
    images_kept: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def write_reference_file(
    source: Path,
    out: Path,
    *,
    network: str | None = None,
    weights_path: Path | None = None,
    resize: Resize = "default",
    num_images: int = 10_000,
    seed: int = 0,
    overwrite: bool = False,
    cached: bool = True,
    batch_size: int = DEFAULT_BATCH_SIZE,
    compiled: bool = False,
    device: str = "auto",
    processes: Processes = _ALONE,
    progress: Progress | None = None,
    on_note: Message = ignore,
    on_warning: Message = ignore,
) -> ReferenceFile:
    """Make a reference for `evaluate_file` from images; see `metrics.write_reference` for its form.

    Args:
        source: NPZ or NPY file, or folder of images of one size.
        out: The NPZ to write.
        network: Name of a metric network; None for the data set's, or else inception.
        weights_path: Like all arguments that are not named here, as for `evaluate_file`.
        resize: As for `metrics.load_network`.
        num_images: Images to keep in the file.
        seed: Chooses them.
        overwrite: Whether an existing output is replaced.
        cached: Whether features are looked for and kept in this machine's cache.
        batch_size: Images for the network at once.
        compiled: Whether to compile the network.
        device: Name of the device.
        processes: Those that share the work, each calling this function; the first one writes.
        progress: Called after every batch.
        on_note: Is told which network was chosen.
        on_warning: Is told why features are not kept.

    Raises:
        InputError: Images or weights are damaged, or the images differ in size.
        OutputExistsError: The output is there and may not be replaced, or holds the images.
        OSError: A file cannot be read or written.
        RepaError: There is no such name or device, or a download failed; a `SettingError` if the
            network has no such resize.
    """
    with together(processes):
        images = open_images(source)
        if processes.is_first:
            check_output(out, overwrite=overwrite)
            if out.exists() and out.samefile(source):
                raise OutputExistsError(f"{out} holds the images themselves; use another --out.")
        name = network_for(images, network)
        on_note(f"network {name}.")
        measuring = load_named_network(
            name, weights_path, processes.device(device), resize=resize, compiled=compiled
        )
    with_cache(
        processes,
        lambda cache: write_reference(
            out,
            images,
            measuring,
            num_images=num_images,
            seed=seed,
            batch_size=batch_size,
            cache=cache,
            processes=processes,
            progress=progress,
        ),
        kept=cached,
        warn=on_warning,
    )
    return ReferenceFile(
        reference=str(out),
        network=measuring.name,
        preprocessing=measuring.preprocessing,
        weights_sha256=measuring.weights_sha256,
        images_in_statistics=images.count,
        images_kept=min(num_images, images.count),
        seed=seed,
    )
