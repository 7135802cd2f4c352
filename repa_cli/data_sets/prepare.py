"""`repa prepare`: a set to train on, from one's own pictures."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repa.data.preparation.settings import PrepareConfig
from repa_cli.options import (
    Device,
    HeldOutNetwork,
    Json,
    MetricWeights,
    ProcessCount,
    Replace,
    setting_options,
)
from repa_cli.output import (
    print_json,
    print_note,
    print_table,
    print_warning,
    progress_bar,
    progress_bars,
)
from repa_cli.running.start import Loading

if TYPE_CHECKING:
    from collections.abc import Callable

    from repa.data.preparation import Prepared
    from repa_cli.showing.bars import Bar, Lines


def _encoders(value: str) -> Any:  # noqa: ANN401
    names = tuple(part.strip() for part in value.split(","))
    if not all(names):
        raise typer.BadParameter(
            f"{value!r} is not a list of names such as dinov2-vit-b,clip-vit-l"
        )
    return names


def _amount(value: str) -> Any:  # noqa: ANN401
    from repa.data.held_out import held_out_amount
    from repa_base.errors import SettingError

    try:
        return held_out_amount(value)
    except SettingError as error:
        raise typer.BadParameter(str(error).removeprefix("held_out ")) from error


@setting_options(PrepareConfig, parsers={"encoders": _encoders, "held_out": _amount})
def prepare(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder with one sub-folder a class, flat folder, zip of either, or a folder that "
            "the reference has prepared.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the prepared set.")],
    features: HeldOutNetwork = None,
    weights: MetricWeights = None,
    device: Device = PrepareConfig.device,
    overwrite: Replace = False,
    processes: ProcessCount = None,
    as_json: Json = False,
    **settings: Any,  # noqa: ANN401
) -> None:
    """Prepare pictures for training: crop them, and compute latents and features beforehand.

    Writes images.zip, which other tools read too, moments.npy and features/NAME.npy where asked
    for, what is held out with its reference for `repa fid`, and prepared.json, last. Repeat a
    command that was interrupted, and it goes on. Neither latents nor features are needed to train
    on pixels. With several GPUs: --processes N, or on several machines torchrun ... -m -- repa_cli
    prepare ...
    """
    config = PrepareConfig(source=source, out=out, device=device, overwrite=overwrite, **settings)
    if config.held_out is None and (features or weights):
        option = "--features" if features else "--weights"
        raise typer.BadParameter("has no effect without --held-out", param_hint=option)
    computed = config.autoencoder or config.encoders or config.held_out is not None
    if "batch_size" in settings and not computed:
        reason = "has no effect without --autoencoder, --encoder or --held-out"
        raise typer.BadParameter(reason, param_hint="--batch-size")
    with Loading():
        from repa.data.preparation import prepare as run
        from repa.data.preparation import way_on
        from repa.evaluation import Measuring, reference_maker
        from repa_base.processes import joined_processes

    with joined_processes() as world:
        bars: dict[str, Bar | Lines] = {}
        how = Measuring(network=features, weights_path=weights, device=device, processes=world)
        how = replace(how, batch_size=min(how.batch_size, config.batch_size))
        how = replace(how, progress=progress_bars(), on_note=print_note, on_warning=print_warning)
        try:
            prepared = run(
                config,
                make_reference=reference_maker(how) if config.held_out is not None else None,
                processes=world,
                progress=_showing(bars, shown=world.is_first),
                on_note=print_note,
            )
        except KeyboardInterrupt:
            if world.is_first:
                print_note(way_on(config))
            raise
        finally:
            for bar in bars.values():
                bar.close()
    if not world.is_first:
        return
    if prepared.was_finished:
        print_note(f"{out} was finished before, with the same settings.")
        _note_other_reference(prepared, features)
    result = _result(prepared)
    if as_json:
        print_json(result)
    else:
        print_table(["prepared set", ""], [(key, _text(value)) for key, value in result.items()])


def _note_other_reference(prepared: "Prepared", features: str | None) -> None:
    """Say that a finished set keeps its reference, and how another one is made."""
    there = (prepared.manifest["held_out"] or {}).get("network")
    if features not in (None, there):
        source, kept = prepared.folder / "held-out.zip", there or "none"
        print_note(
            f"its reference stays that of {kept}; another one: repa stats {source} --features "
            f"{features} --out FILE"
        )


def _showing(
    bars: "dict[str, Bar | Lines]", *, shown: bool
) -> "Callable[[str, float, int], object]":
    """Return what shows each part of the work on a bar of its own, with rate and time left."""

    def show(name: str, done: float, total: int) -> None:
        if name not in bars:
            for earlier in bars.values():
                earlier.close()
            bars[name] = progress_bar(total, "images", name, shown=shown)
            bars[name].begin(done, total)
        bars[name].update(done - bars[name].n)

    return show


def _result(prepared: "Prepared") -> dict[str, Any]:
    """Return what to report, as plain values."""
    manifest = prepared.manifest
    held_out = manifest["held_out"] or {}
    result: dict[str, Any] = {
        "folder": str(prepared.folder),
        "images": manifest["count"],
        "classes": manifest["num_classes"],
        "image size": manifest["image_size"],
        "held out": held_out.get("count", 0),
        "skipped": len(manifest["skipped"]),
        "autoencoder": manifest["autoencoder"] and manifest["autoencoder"]["name"],
        "encoders": [encoder["name"] for encoder in manifest["encoders"]],
        "bytes": sum(file["size"] for file in manifest["files"].values()),
    }
    if held_out.get("file"):
        result["reference"] = held_out["file"]
    if prepared.num_made and prepared.seconds:
        result["images/s"] = float(f"{prepared.num_made / prepared.seconds:.3g}")
    return result


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, int):
        return f"{value:,}"
    return "none" if value is None else str(value)
