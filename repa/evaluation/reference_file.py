"""One call for all that `repa stats` does: from images to a reference in ADM's form."""

from pathlib import Path
from typing import Any

from metrics import Reference, lint_reference, open_images, write_reference
from metrics.settings import KEPT_IMAGES
from repa.errors import OutputExistsError
from repa.evaluation.measuring import USUAL, Measuring
from repa.evaluation.references import network_for
from repa_base.files import check_output
from repa_base.processes import together


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
        source: NPZ or NPY file, or folder of images of one size.
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
