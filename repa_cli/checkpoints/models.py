"""`repa models` and `repa download`: what is registered, and getting one of it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repa_base.files import size_text
from repa_cli.options import Json
from repa_cli.output import print_json, print_table
from repa_cli.running.start import Loading

if TYPE_CHECKING:
    from repa.inspection import ListedEntry


def models(
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Also networks that measure, references, published images and encoders."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the checkpoints and autoencoders that have a name, and what was published of them.

    All but those that go in by hand can be fetched by `repa download NAME`; what needs one does so
    by itself.
    """
    with Loading():
        from repa.inspection.listing import MODELS, SECTIONS, list_entries

    listed = list_entries(SECTIONS if everything else MODELS)
    if as_json:
        print_json([_plain(entry) for entry in listed])
        return
    headings = ("name", "what", "size", "here", "published (lowest FID)", "licence")
    print_table(headings, map(_row, listed), left=6)


def download(
    name: Annotated[str, typer.Argument(help="A name of `repa models --all`.")],
    as_json: Json = False,
) -> None:
    """Fetch a registered file into the cache folder ($REPA_CACHE, or ~/.cache/repa).

    It is there whole or not at all; one that broke off is gone on with. A hash that the registry
    does not know is pinned at the first download, in pinned.json there, and what comes later has to
    be the same.
    """
    with Loading():
        from repa.inspection.listing import download_entry

    entry = download_entry(name)
    if as_json:
        print_json(_plain(entry))
        return
    rows = [("what", entry.what), ("file", str(entry.path or "built in"))]
    rows += [("size", _size(entry.size))]
    if entry.sha256 or entry.pinned:
        known = "as the registry says" if entry.sha256 else "pinned on this machine"
        rows.append(("sha256", f"{entry.sha256 or entry.pinned} ({known})"))
    elif entry.path:
        rows.append(("sha256", "neither known nor pinned"))
    print_table(("download", entry.name), rows, left=2)


def _row(entry: "ListedEntry") -> tuple[str, ...]:
    here = "yes" if entry.path or entry.by == "built in" else "no"
    if entry.by == "hand" and here == "no":
        here = "by hand"
    licence = entry.licence or ""
    return entry.name, entry.what, _size(entry.size), here, _best(entry.published), licence


def _best(published: Mapping[str, Mapping[str, Any]]) -> str:
    if not published:
        return ""
    row = next(iter(published.values()))
    settings = row["settings"]
    how = f"{settings['solver']} {settings['num_steps']}, w {settings['cfg_scale']:g}"
    how += _on(settings["guidance_interval"]) if settings["cfg_scale"] != 1 else ""
    how += ", balanced labels" if settings["labels"] == "balanced" else ""
    more = f" ({len(published)} rows)" if len(published) > 1 else ""
    return f"{row['metrics']['fid']:g}: {how}{more}"


def _on(interval: str | tuple[float, float]) -> str:
    if isinstance(interval, str):
        return f", interval {interval}"
    low, high = interval
    return f" on [{low:g}, {high:g}]"


def _size(size: int | None) -> str:
    return "not known" if size is None else size_text(size)


def _plain(entry: "ListedEntry") -> dict[str, Any]:
    plain = {name: getattr(entry, name) for name in entry.__dataclass_fields__}
    return plain | {"path": entry.path and str(entry.path), "published": dict(entry.published)}
