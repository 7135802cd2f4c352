"""`repa grid`: a contact sheet of any images."""

from pathlib import Path
from typing import Annotated

import typer

from repa_cli.options import Json, Replace
from repa_cli.output import print_json, print_table


def grid(
    source: Annotated[
        Path,
        typer.Argument(help="NPZ or NPY file, or folder or zip of pictures.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="The PNG to write.", show_default=False)],
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Images to draw at most.  [default: 100, or ten rows --by-class]",
        ),
    ] = None,
    columns: Annotated[int, typer.Option(min=1, metavar="N", help="Images in a row.")] = 10,
    first: Annotated[
        int, typer.Option(min=0, metavar="I", help="Number of the image to begin with.")
    ] = 0,
    by_class: Annotated[
        bool,
        typer.Option(
            "--by-class",
            help="A row for each class, or for some at even distances if they are many.",
        ),
    ] = False,
    numbers: Annotated[
        bool, typer.Option("--numbers", help="Write the number of each image under its class.")
    ] = False,
    overwrite: Replace = False,
    as_json: Json = False,
) -> None:
    """Draw a contact sheet of images, sorted by class where that is known.

    The title says how `repa sample` made them. Only the images that are drawn are read.
    """
    from repa.sheets import check_sheet, save_sheet

    check_sheet(out, taken=overwrite, option="--out")
    drawn = save_sheet(
        source,
        out,
        overwrite=overwrite,
        count=count,
        columns=columns,
        first=first,
        by_class=by_class,
        numbers=numbers,
    )
    if as_json:
        print_json({"sheet": str(out), "images": drawn})
    else:
        print_table(("sheet", str(out)), [("images", str(drawn))])
