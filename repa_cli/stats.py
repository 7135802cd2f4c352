"""`repa stats`: make a reference in ADM's form from images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from repa.errors import OutputExistsError
from repa_cli.options import (
    Compiled,
    Device,
    Json,
    MetricBatchSize,
    MetricNetworkName,
    MetricResize,
    MetricWeights,
    NoCache,
)
from repa_cli.output import (
    print_json,
    print_note,
    print_table,
    print_warning,
    printing_at_first,
    progress_bars,
)

if TYPE_CHECKING:
    from metrics.settings import Resize


def stats(
    source: Annotated[
        Path, typer.Argument(help="NPZ or NPY file, or folder of PNG, JPEG or WebP files.")
    ],
    out: Annotated[Path, typer.Option(help="The NPZ to write.")],
    features: MetricNetworkName = None,
    weights: MetricWeights = None,
    resize: MetricResize = "default",
    num_images: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Images to keep for precision and recall."),
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the images that are kept.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing output.")
    ] = False,
    batch_size: MetricBatchSize = 16,
    compiled: Compiled = False,
    no_cache: NoCache = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Make a reference for `repa fid --ref` from images, in the form of ADM's files.

    It holds mu, sigma, mu_s and sigma_s over all images, for FID and sFID, and in arr_0 some of the
    images, for precision and recall. ADM's evaluator reads it too. With several processes: torchrun
    --nproc-per-node N -m -- repa_cli stats ...
    """
    import metrics
    from repa.evaluation import cached as measuring
    from repa.evaluation import plan as evaluation
    from repa_base.files import check_output
    from repa_base.processes import joined_processes, together

    with joined_processes() as world, printing_at_first(world):
        processes = world
        with together(processes):
            images = metrics.open_images(source)
            if world.is_first:
                check_output(out, overwrite=overwrite)
                if out.exists() and out.samefile(source):
                    raise OutputExistsError(
                        f"{out} holds the images themselves; use another --out."
                    )
            name = evaluation.network_for(images, features)
            print_note(f"network {name}.")
            network = evaluation.load_named_network(
                name,
                weights,
                world.device(device),
                resize=cast("Resize", resize),
                compiled=compiled,
            )
        measuring.with_cache(
            processes,
            lambda cache: metrics.write_reference(
                out,
                images,
                network,
                num_images=num_images,
                seed=seed,
                batch_size=batch_size,
                cache=cache,
                processes=processes,
                progress=progress_bars(),
            ),
            kept=not no_cache,
            warn=print_warning,
        )
        result = {
            "reference": str(out),
            "network": network.name,
            "preprocessing": network.preprocessing,
            "weights_sha256": network.weights_sha256,
            "images_in_statistics": images.count,
            "images_kept": min(num_images, images.count),
            "seed": seed,
        }
        if as_json:
            print_json(result)
        else:
            print_table(
                ("reference", str(out)),
                [(key.replace("_", " "), str(value)) for key, value in list(result.items())[1:]],
            )
