"""`repa data`: look at a data set before it is trained on."""

from pathlib import Path
from typing import Annotated, Any

import typer

from repa_cli.options import Device, Json, Overwrite, refuse_without
from repa_cli.output import print_json, print_table, print_warning, progress_bars
from repa_cli.running.start import Loading

_MOST_CLASSES = 20


def data(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="Prepared set, folder or zip of pictures, or digits.", show_default=False
        ),
    ],
    grid: Annotated[
        Path | None, typer.Option(help="Draw a sheet by class on this PNG.", metavar="PNG")
    ] = None,
    decoded: Annotated[
        bool,
        typer.Option("--decoded", help="Draw what the latents hold, decoded, as a model sees it."),
    ] = False,
    autoencoder: Annotated[
        str | None,
        typer.Option(metavar="NAME|PATH", help="Autoencoder that decodes.  [default: the set's]"),
    ] = None,
    columns: Annotated[int, typer.Option(min=1, metavar="N", help="Images in a row.")] = 10,
    overwrite: Overwrite = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Look at a data set: counts, classes, sizes, latents, what was held out, and a sheet by class.

    Latents of the right autoencoder have means near 0 and standard deviations near 1.
    """
    if grid is None:
        refuse_without(context, "--grid", "decoded", "columns", "overwrite")
    if not decoded:
        refuse_without(context, "--decoded", "autoencoder", "device")
    with Loading():
        from repa.autoencoders.autoencoder import find_autoencoder
        from repa.data.overview import images_to_show, open_set, overview
        from repa.data.prepared_set import PreparedSet
        from repa.sheets import check_sheet
        from repa.sheets.contact_sheet import save_png
        from repa.sheets.sample_sheet import source_sheet
        from repa_base.device import resolve_device

    if grid is not None:
        check_sheet(grid, taken=overwrite)
    opened, progress = open_set(source), progress_bars()
    decoder = None
    if decoded:
        space = opened.latent_space if isinstance(opened, PreparedSet) else None
        name = autoencoder or (space.autoencoder if space else None)
        if name is None:
            raise typer.BadParameter("needs a prepared set with latents", param_hint="--decoded")
        decoder = find_autoencoder(name, resolve_device(device))
    found = overview(opened, lambda done, total: progress("reading", done, total))
    if grid is not None:
        shown = images_to_show(opened, decoder)
        by_class = shown.labels is not None
        sheet, _ = source_sheet(
            shown, by_class=by_class, columns=columns, class_names=shown.class_names
        )
        save_png(sheet, grid)
        found["grid"] = str(grid)
    for warning in found["warnings"]:
        print_warning(warning)
    if as_json:
        print_json(found)
    else:
        print_table(("data set", ""), list(_rows(found)))


def _rows(found: dict[str, Any]) -> Any:  # noqa: ANN401
    for key, value in found.items():
        title = key.replace("_", " ")
        if key == "warnings" or value in (None, {}, []):
            continue
        if key == "images_by_class":
            counts = sorted(value.values())
            yield "images a class", f"{counts[0]:,} to {counts[-1]:,}"
            shown = list(value.items())[:_MOST_CLASSES]
            yield from ((f"  {name}", f"{number:,}") for name, number in shown)
            if len(value) > len(shown):
                yield f"  and {len(value) - len(shown):,} others", ""
        elif isinstance(value, dict):
            yield from ((f"{title} {k.replace('_', ' ')}", _text(v)) for k, v in value.items())
        else:
            yield title, _text(value)


def _text(value: object) -> str:
    match value:
        case list():
            return " ".join(map(_text, value))
        case float():
            return f"{value:.3f}"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
    return "none" if value is None else str(value)
