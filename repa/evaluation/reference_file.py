"""One call for all that `repa stats` does: from images to a reference in ADM's form."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from metrics import Reference, lint_reference, open_images, write_reference
from metrics.settings import KEPT_IMAGES
from repa.data.held_out import HELD_OUT, held_out_file, remember_held_out
from repa.errors import DownloadError, OutputExistsError
from repa.evaluation.measuring import USUAL, Measuring
from repa.evaluation.references import checked_network, network_for
from repa_base.checksums import file_sha256
from repa_base.files import check_output
from repa_base.processes import at_first, together


def write_reference_file(
    source: Path,
    out: Path,
    *,
    num_images: int = KEPT_IMAGES,
    seed: int = 0,
    overwrite: bool = False,
    how: Measuring = USUAL,
) -> dict[str, Any]:
    """Make a reference for `evaluate_file` from images; see `metrics.write_reference` for its form.

    Args:
        source: NPZ or NPY file, or folder or zip of images of one size.
        out: The NPZ to write; the first process does.
        num_images: Images to keep in the file.
        seed: Chooses them.
        overwrite: Whether an existing output is replaced.
        how: How they are measured.

    Returns:
        What was written, as plain values: the file, the network whose features its statistics are
        of, that one's preprocessing and weights, how many images were measured and kept, and what
        makes it a poor reference, if anything.

    Raises:
        InputError: Images or weights are damaged, or the images differ in size.
        OutputExistsError: The output is there and may not be replaced, or holds the images.
        OSError: A file cannot be read or written.
        RepaError: There is no such name or device, or a download failed; a `SettingError` if the
            network has no such resize.
    """
    with together(how.processes):
        images = open_images(source)
        if how.processes.is_first:
            check_output(out, overwrite=overwrite)
            if out.exists() and out.samefile(source):
                raise OutputExistsError(f"{out} holds the images themselves; use another --out.")
        name = network_for(images, how.network)
        how.on_note(f"network {name}.")
        network = how.load(name)
        found = lint_reference(Reference(images.name, images), feature_dim=network.pool_dim)
        for warning in found:
            how.on_warning(str(warning))
    how.with_cache(
        lambda options: write_reference(
            out, images, network, num_images=num_images, seed=seed, **options
        )
    )
    return {
        "reference": str(out),
        "network": network.name,
        "preprocessing": network.preprocessing,
        "weights_sha256": network.weights_sha256,
        "images_in_statistics": images.count,
        "images_kept": min(num_images, images.count),
        "seed": seed,
        "warnings": [warning.to_dict() for warning in found],
    }


def reference_maker(how: Measuring) -> Callable[[Path], dict[str, str]]:
    """Return what makes the reference of the images in a prepared set's `held-out.zip`.

    The network and its weights are found now, before any work, by the first process for all.

    Args:
        how: How they are measured; `how.network` is Inception if it is None.

    Returns:
        A function that every process calls with the set's folder. It writes the reference as
        `repa stats` does, remembers where it lies and returns the `file`, its `sha256` and the
        `network`, for the manifest.

    Raises:
        RepaError: There is no such network or device, or its weights are not there.
    """
    with together(how.processes):
        name = checked_network(how.network)
        try:
            network = how.load(name).name  # with what a resize adds to it
        except DownloadError as error:
            way = "Another network measures held-out images by --features"
            raise DownloadError(f"{str(error).rstrip('.')}. {way}.") from error

    def make(folder: Path) -> dict[str, str]:
        path = folder / held_out_file(network)
        source = folder / f"{HELD_OUT}.zip"
        write_reference_file(source, path, overwrite=True, how=replace(how, network=name))
        sha256 = at_first(how.processes, lambda: file_sha256(path))
        if how.processes.is_first:
            remember_held_out(path, sha256)
        return {"file": path.name, "sha256": sha256, "network": network}

    return make
