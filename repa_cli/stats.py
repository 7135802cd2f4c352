"""`repa stats`: make a reference in ADM's form from images."""

from pathlib import Path
from typing import Annotated

import typer

from metrics.settings import DEFAULT_BATCH_SIZE, KEPT_IMAGES
from repa_cli import options, output
from repa_cli.running.start import Loading


def stats(
    source: Annotated[Path, typer.Argument(help="NPZ or NPY file, or folder or zip of pictures.")],
    out: Annotated[Path, typer.Option(help="The NPZ to write.")],
    features: options.MetricNetworkName = None,
    weights: options.MetricWeights = None,
    resize: options.MetricResize = "default",
    num_images: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images to keep for precision and recall.")
    ] = KEPT_IMAGES,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the images that are kept.")] = 0,
    overwrite: options.Replace = False,
    batch_size: options.MetricBatchSize = DEFAULT_BATCH_SIZE,
    compiled: options.Compiled = False,
    no_cache: options.NoCache = False,
    device: options.Device = "auto",
    processes: options.ProcessCount = None,
    as_json: options.Json = False,
) -> None:
    """Make a reference for `repa fid --ref` from images, in the form of ADM's files.

    It holds mu, sigma, mu_s and sigma_s over all images, for FID and sFID, and in arr_0 some of the
    images, for precision and recall. ADM's evaluator reads it too. With several GPUs:
    --processes N, or on several machines torchrun ... -m -- repa_cli stats ...
    """
    with Loading():
        from repa.evaluation import Measuring, write_reference_file
        from repa_base.processes import joined_processes

    with joined_processes() as world, output.printing_at_first(world):
        how = Measuring(
            network=features,
            weights_path=weights,
            resize=resize,
            cached=not no_cache,
            batch_size=batch_size,
            compiled=compiled,
            device=device,
            processes=world,
            progress=output.progress_bars(),
            on_note=output.print_note,
            on_warning=output.print_warning,
        )
        written = write_reference_file(
            source, out, num_images=num_images, seed=seed, overwrite=overwrite, how=how
        )
        if as_json:
            output.print_json(written)
        else:
            del written["warnings"]  # they are on stderr
            rows = [(key.replace("_", " "), str(value)) for key, value in list(written.items())[1:]]
            output.print_table(("reference", str(out)), rows)
