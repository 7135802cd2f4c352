"""From a manifest back to its run: the settings, the files that must be found again, what differs.

What a file says may be a stranger's: every value is checked before it is used.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from metrics import open_images
from repa.errors import ChecksumError, RepaError, SettingError
from repa.generation.images import DTYPES
from repa.generation.manifests.writing import FORMAT
from repa.generation.sample_files.sample_run import difference, same_settings
from repa.generation.settings import FOUND_AGAIN, GUIDE_HINTS, HINTS, SampleConfig
from repa.registry import is_registered

_CHOSEN = ("out", "overwrite", "device")
"""Settings that are not the run's but of its repetition."""

_OF_THE_PLACE = ("toolkit", "versions", "tf32", "device", "rng_device")
"""What may be otherwise where a run is repeated, and then its last digits with it."""

_NAMES = (*FOUND_AGAIN, "hints")
"""What may be called otherwise: hashes and statistics tell whether it is the same."""

_NEEDED = ("model", "checkpoint_sha256", "solver", "num_steps", "cfg_scale", "guidance_interval")
_NEEDED += ("seed", "labels", "num_images", "batch_size", "image_size", "quantizer", "dtype")
_DERIVED = ("format", "toolkit", "checkpoint_sha256", "guide_sha256", "autoencoder_sha256", "hints")
_DERIVED += ("guided_channels", "latent_space", "dataset", "reference", "class_names", "path_type")
_DERIVED += ("image_size", "rank_batch_size", "rng_device", "rtol", "atol", "dtype", "device")
_DERIVED += ("versions", "guide_hints")
"""What a manifest may have besides settings of `SampleConfig` by their names."""

_SETTINGS = tuple(f.name for f in fields(SampleConfig) if f.name not in _CHOSEN)
_PRECISIONS = {str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items()}
_SECTIONS = {
    "model": ("checkpoints",),
    "guide": ("checkpoints",),
    "autoencoder": ("autoencoders",),
    "latents": ("latents", "autoencoders"),
}
_STEP = re.compile(r"([^/]+)/(step-\d+)")


@dataclass(frozen=True)
class Recorded:
    """A finished file's manifest, by which its run can be repeated; from `read_recorded`."""

    source: Path
    manifest: Mapping[str, Any]

    def config(self, out: Path, **given: Any) -> SampleConfig:  # noqa: ANN401
        """Return the settings of the run, for another output.

        Args:
            out: The NPZ to write, which is not the source.
            given: `device` and `overwrite`, and `model`, `guide`, `autoencoder` and `latents` where
                these files are not where the manifest's names lead to, from here or from the folder
                of the source.

        Raises:
            SettingError: What is given is decided by the manifest, or the run had no such file.
            RepaError: The manifest's values are no settings, or a checkpoint is not found.
        """
        if decided := [name for name in given if name not in (*FOUND_AGAIN, *_CHOSEN)]:
            raise SettingError(
                decided[0], f"{decided[0]} is decided by {self.source}: leave it out."
            )
        if out.exists() and out.samefile(self.source):
            raise SettingError("out", f"out {out} is the file that is repeated: name another.")
        chosen = {n: value for n, value in given.items() if n in _CHOSEN}
        files = {n: str(value) for n, value in given.items() if n in FOUND_AGAIN and value}
        base, values = SampleConfig(out=out, **chosen), self._settings()
        if others := [name for name in files if values.get(name) is None]:
            raise SettingError(
                others[0], f"{others[0]} had no part in {self.source}: leave it out."
            )
        for name in FOUND_AGAIN:
            if values.get(name) is not None:
                values[name] = self._place_of(name, values[name], files.get(name))
        try:
            return replace(base, **values)
        except (RepaError, TypeError, ValueError, AttributeError) as error:
            raise _foreign(self.source, str(error).rstrip(".")) from error

    @property
    def registered(self) -> dict[str, str]:
        """The registered names of model and guide, whose entries tell what their files do not."""
        named = {name: self.manifest.get(name) for name in ("model", "guide")}
        return {k: v for k, v in named.items() if v and is_registered("checkpoints", v)}

    @property
    def guide_hints(self) -> tuple[str, ...]:
        """Which hints of the run said of its guide what the guide's file does not tell.

        Raises:
            RepaError: The manifest's value is none.
        """
        said = self.manifest.get("guide_hints", [])
        if not isinstance(said, list) or not all(name in GUIDE_HINTS for name in said):
            raise _foreign(self.source, f"its guide_hints are {said!r}")
        return tuple(said)

    def check_file(self, name: str, sha256: str) -> None:
        """Raise ChecksumError unless model, guide or autoencoder is the recorded one, by its hash.

        The message names both hashes.
        """
        key = "checkpoint_sha256" if name == "model" else f"{name}_sha256"
        if (recorded := self.manifest.get(key)) != sha256:
            whose = f"{self.source} was made with the {name} {self.manifest.get(name)}"
            hashes = f"whose SHA-256 is {recorded}; here it is {sha256}"
            raise ChecksumError(f"{whose}, {hashes}: name the same file by --{name}.")

    def reconciled(self, ours: Mapping[str, Any]) -> dict[str, Any]:
        """Return the manifest of the repetition: as recorded, but for what is of this place.

        `ours` is as JSON is read, without tuples.

        Raises:
            RepaError: The run would be another one.
        """
        there = dict(self.manifest)
        here = {**ours, **{name: there[name] for name in _NAMES if name in there}}
        alike = here | {n: there[n] for n in _OF_THE_PLACE if n in there and n in here}
        if not same_settings(there, alike):
            how = difference(there, alike)
            raise RepaError(f"{self.source} cannot be repeated by this version: it {how}.")
        return {name: here[name] for name in there}

    def differences(self, ours: Mapping[str, Any]) -> str:
        """Say in words what is not as recorded and may move last digits; empty if nothing is."""
        there, here = (_of_the_place(manifest) for manifest in (self.manifest, ours))
        found = [name for name in there if there[name] != here.get(name)]
        return ", ".join(f"{name} {there[name]} there, {here.get(name)} here" for name in found)

    def _settings(self) -> dict[str, Any]:
        """Return the settings by their names in `SampleConfig`, files as they were called."""
        made = self.manifest
        values = {n: _hashable(made[n]) for n in _SETTINGS if made.get(n) is not None}
        hints = made.get("hints", {})
        if not isinstance(hints, dict) or not set(hints) <= set(HINTS):
            raise _foreign(self.source, f"its hints are {hints!r}")
        for name in FOUND_AGAIN:
            if not isinstance(said := {**values, **hints}.get(name, "none"), str) or not said:
                raise _foreign(self.source, f"its {name} is {said!r}")
        if not isinstance(made["dtype"], str) or made["dtype"] not in _PRECISIONS:
            raise _foreign(self.source, f"its dtype is {made['dtype']!r}")
        return {**values, **hints, "precision": _PRECISIONS[made["dtype"]]}

    def _place_of(self, name: str, called: str, given: str | None) -> str | None:
        """Return where a file is that the manifest calls so; None leaves it to the checkpoint."""
        step = _STEP.fullmatch(called)  # of a training run
        if given is not None:
            average = step and _average(Path(given), step[2])
            return str(average) if average and average.exists() else given
        if any(is_registered(section, called) for section in _SECTIONS[name]):
            return called
        places = [Path(called), self.source.parent / called]
        if step:
            runs = (Path(), Path("runs"), self.source.parent, self.source.parent.parent)
            places += [_average(run / step[1], step[2]) for run in runs]
        for place in places:
            if place.exists():
                return str(place)
        if name == "autoencoder":
            return None
        where = f"neither here nor beside {self.source}"
        raise RepaError(f"{called}, the {name} of its images, is {where}: name it by --{name}.")


def read_recorded(path: Path) -> Recorded:
    """Read the manifest of an NPZ that `repa.generation.generate` has finished.

    Raises:
        RepaError: It has none, another tool's, or one of a later version.
        metrics.InputError: The file is damaged, or no file of images.
        OSError: It cannot be read.
    """
    if (manifest := open_images(path).manifest) is None:
        raise RepaError(f"{path} has no manifest, so that nothing tells how it was made.")
    version = manifest.get("format")
    if type(version) is not int or version < 1:
        raise _foreign(path, "it tells no format")
    unknown = [name for name in manifest if name not in (*_SETTINGS, *_DERIVED)]
    if version > FORMAT or unknown:
        what = ", ".join(map(repr, unknown[:3])) or f"format {version}"
        raise RepaError(f"{path} is of a later version: its {what} is unknown here.")
    if missing := [name for name in _NEEDED if name not in manifest]:
        raise _foreign(path, f"it lacks {missing[0]}")
    return Recorded(path, manifest)


def _average(run: Path, step: str) -> Path:
    return run / "checkpoints" / step / "ema.safetensors"


def _hashable(value: Any) -> Any:  # noqa: ANN401
    return tuple(value) if isinstance(value, list) else value


def _of_the_place(manifest: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: manifest[name] for name in _OF_THE_PLACE if name in manifest}
    versions = found.pop("versions", {})
    return found | (versions if isinstance(versions, dict) else {})


def _foreign(source: Path, how: str) -> RepaError:
    return RepaError(f"{source}: its manifest is not of this toolkit, or damaged: {how}.")
