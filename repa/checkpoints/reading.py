"""Find a checkpoint, read it and build its network, ready for sampling.

A name in the registry, a file of any dialect, or a folder that our trainer wrote. Where a file
does not say what network it holds, the registry or its dialect does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from repa.autoencoders.latent_space import LatentSpace
from repa.checkpoints.contents import arguments_of
from repa.checkpoints.dialects import convert
from repa.checkpoints.hints import ASSUMED, Hints, said_latents, vouched
from repa.checkpoints.names import sampling_as_published
from repa.checkpoints.settings import CheckpointSettings, sampling_of
from repa.errors import (
    CheckpointFormatError,
    CheckpointMismatchError,
    ChecksumError,
    UnknownNameError,
    UntoldError,
    first_line,
)
from repa.models.sit import SiT
from repa.registry import Entry, entry_names, fetch, file_sha256, find_entry, is_registered
from repa.tensor_file import Extra, Tensors, read_contents
from repa_base.checksums import SUMS, check_file
from samplers import PATHS, ModelFn

_STEPS, _AVERAGE = "step-*/", "ema.safetensors"  # of a training run
_DECISIVE = ("dialect", "in_channels", "num_heads", "path_type", "latent_space")
"""Settings that decide images whoever made the checkpoint."""
_LONGEST_NAME = 200  # letters, counted with the shapes; a damaged file's go on and on
_NAMED = 4  # tensors that a message names before it says how many more there are


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint that has been read; its network is built when it is first asked for.

    Its name is the registered one, or the file's without its folder; the dialect is one of
    `repa.checkpoints.dialects`. The tensors, the state dict, have the file's dtypes. `autoencoder`
    is the state dict of what decodes its latents, if the file holds that; the latent space then
    names it. `told` says where each setting is from, and `args` are a trainer's arguments in the
    file.
    """

    name: str
    path: Path
    dialect: str
    settings: CheckpointSettings
    tensors: Tensors = field(repr=False)
    device: torch.device | str = "cpu"
    autoencoder: Tensors = field(default_factory=dict, repr=False)
    told: Mapping[str, str] = field(default_factory=dict, repr=False)
    args: Extra = field(default_factory=dict, repr=False)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file in hexadecimal, as it was when this was first asked for."""
        return file_sha256(self.path)

    @property
    def velocity_model(self) -> ModelFn:
        """model(x, t, labels) that gives the velocity: the network itself if it predicts that."""
        path = PATHS[self.settings.path_type]
        return self.settings.prediction.velocity_model(self.model, path)

    @property
    def model(self) -> SiT:
        """The network on `device`, in float32 and evaluation mode, without gradients; built once.

        Its output is the raw one, at the times that it was trained on; see `velocity_model`.

        Raises:
            CheckpointFormatError: The settings make no network.
            CheckpointMismatchError: Tensors are missing, unexpected or misshapen.
        """
        return self._network

    @property
    def prediction(self) -> str:
        """What the network predicts: velocity, noise or data."""
        return self.settings.prediction.target

    @property
    def latent_space(self) -> LatentSpace:
        """Where the network's x lives; its `to_autoencoder` turns x into what is decoded."""
        return self.settings.latent_space

    @property
    def sampling(self) -> dict[str, Any]:
        """How its authors sample it, where that is not the published protocol, by setting."""
        said = self.settings.sampling
        # DiT-SRA is sampled by the script of DiT.
        dialect = "dit" if self.settings.path_type == "ddpm" else self.dialect
        return said or sampling_as_published(dialect, self.settings.dataset)

    @property
    def assumed(self) -> tuple[str, ...]:
        """What decides images and neither the file says, nor a person, in a few words each."""
        names = _DECISIVE
        if self.settings.model.get("internal_head"):
            names = (*names, "encoder_depth")
        told = [self.told.get(name, "") for name in names]
        return tuple(each.removeprefix(ASSUMED) for each in told if each.startswith(ASSUMED))

    def check(self) -> None:
        """Raise as `model` does if the tensors do not make the network, without building it."""
        _check_tensors(self.path, self._outline().state_dict(), self.tensors)

    @cached_property
    def _network(self) -> SiT:
        model = self._outline()
        _check_tensors(self.path, model.state_dict(), self.tensors)
        tensors = {n: t.to(self.device, torch.float32, copy=True) for n, t in self.tensors.items()}
        model.load_state_dict(tensors, strict=True, assign=True)
        return model.requires_grad_(False).eval()

    def _outline(self) -> SiT:
        """Return the network without memory for its tensors."""
        try:
            with torch.device("meta"):
                return SiT(**self.settings.model)
        except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
            reason = f"describes no SiT: {first_line(error)}"
            raise CheckpointFormatError(f"{self.path}: {reason}") from error


def load_model(
    name_or_path: str | Path,
    device: torch.device | str = "cpu",
    *,
    dialect: str | None = None,
    num_heads: int | None = None,
    encoder_depth: int | None = None,
    latents: str | Path | None = None,
) -> Checkpoint:
    """Load a SiT by its name in the registry, from a file, or from a training run's folder.

    A registered name comes before a file of that name; of a run's folder the latest moving average
    is taken. Its `.model` is built on `device` and its `.sha256` taken when this returns.

    Args:
        name_or_path: What to load.
        device: Where the network goes.
        dialect: Which of `repa.checkpoints.dialects.DIALECTS` a file speaks; None tells it by what
            the file holds.
        num_heads: Attention heads, where neither tensors nor a named size tell them.
        encoder_depth: Block after which features are aligned, or a middle head stands; samples
            depend on it by internal guidance alone.
        latents: Latent space, in place of the dialect's: the name of an autoencoder of Stable
            Diffusion's latents, or statistics (latents_scale and latents_bias), a name or a file.

    Raises:
        UnknownNameError: Neither a name nor a path.
        CheckpointFormatError: The file is no checkpoint, is damaged, is of a network that is not
            supported, or does not tell what is not said; or `latents` is no file of statistics.
        CheckpointMismatchError: Its tensors are not those of the network it should hold.
        DownloadError: See `repa.registry.fetch`, also for ChecksumError.
    """
    checkpoint = read_checkpoint(
        name_or_path,
        device,
        dialect=dialect,
        num_heads=num_heads,
        encoder_depth=encoder_depth,
        latents=latents,
    )
    _ = checkpoint.model, checkpoint.sha256
    return checkpoint


def read_checkpoint(
    name_or_path: str | Path,
    device: torch.device | str = "cpu",
    *,
    latents: str | Path | None = None,
    registered: str | None = None,
    **hints: Any,  # noqa: ANN401
) -> Checkpoint:
    """Find and read a checkpoint without building its network; arguments as of `load_model`.

    `registered` names the registered checkpoint that a file is a copy of, whose entry tells what
    the file does not; `giving_way` is of `repa.checkpoints.hints.Hints`. A file that a SHA256SUMS
    beside it lists, as one of a training run, is checked against it. What is raised is as of
    `load_model`.
    """
    name, path, entry = _locate(name_or_path, hints.get("dialect"))
    if registered is not None:
        name, entry = registered, find_entry("checkpoints", registered)
    stated = entry if entry.get("model") else None
    given: dict[str, Any] = {key: entry.get(key) for key in ("dialect", "encoder_depth")}
    given |= {key: value for key, value in hints.items() if value is not None}
    latents = latents or entry.get("latents")
    said = Hints(
        stated=stated,
        latents=said_latents(latents),
        latents_from=latents and str(latents),
        **given,
    )
    _check_sum(path)
    contents = read_contents(path)
    try:
        dialect, found = convert(*contents, said)
        settings = found.settings
        if not settings.sampling and dialect != "ours":  # whose data set tells it
            settings = replace(settings, sampling=sampling_of(entry))
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        kind = UntoldError if isinstance(error, UntoldError) else CheckpointFormatError
        raise kind(f"{path}: {error}.") from error
    space = settings.latent_space
    if space.autoencoder is None and not space.is_pixels:
        own = str(path) if found.autoencoder else entry.get("autoencoder")
        settings = replace(settings, latent_space=replace(space, autoencoder=own))
    told = vouched(found.told, entry, {**hints, "latent_space": latents}, settings.latent_space)
    rest = device, found.autoencoder, told, arguments_of(contents[1])
    return Checkpoint(name, path, dialect, settings, found.tensors, *rest)


def _locate(name_or_path: str | Path, dialect: str | None) -> tuple[str, Path, Entry]:
    """Return the name to report, the file, and the registry's entry, which is empty for a path."""
    name, path = str(name_or_path), Path(name_or_path)
    if is_registered("checkpoints", name_or_path):
        entry = find_entry("checkpoints", name)
        if (known := entry.get("dialect")) and dialect not in (None, known):
            raise CheckpointFormatError(f"{name} is registered as {known}: leave out --dialect.")
        return name, fetch("checkpoints", name), entry
    if path.is_dir():
        file = _latest_average(path)
        return f"{path.resolve().name}/{file.parent.name}", file, {}
    if not path.exists():
        raise UnknownNameError("model, file or folder", str(path), entry_names("checkpoints"))
    return path.name, path, {}


def _latest_average(run: Path) -> Path:
    """Return the moving average of a training run's highest step."""
    files = [run / _AVERAGE] if (run / _AVERAGE).exists() else []
    files += [file for at in (".", "checkpoints") for file in _averages(run / at)]
    if not files:
        reason = f"is a folder without checkpoints/step-*/{_AVERAGE}, so no training run"
        raise CheckpointFormatError(f"{run}: {reason}.")
    return max(files, key=_rank)


def _averages(folder: Path) -> list[Path]:
    """Return the moving averages that stand in a folder of checkpoints, or should."""
    found = {
        path.parent / _AVERAGE for name in (_AVERAGE, SUMS) for path in folder.glob(_STEPS + name)
    }
    return sorted(found, key=_rank)


def _rank(average: Path) -> tuple[int, str]:
    return len(average.parent.name), average.parent.name


def _check_sum(path: Path) -> None:
    """Raise CheckpointFormatError if a checksum says that a file is damaged."""
    try:
        check_file(path)
    except ChecksumError as error:
        way, others = "", _averages(path.parent.parent)
        if path in others and (place := others.index(path)):
            way = f"; the checkpoint before it is {others[place - 1].parent}"
        raise CheckpointFormatError(f"{error}{way}.") from error


def _check_tensors(path: Path, wanted: Tensors, found: Tensors) -> None:
    """Raise CheckpointMismatchError unless names and shapes are the same."""
    problems = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "misshapen": [
            f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in found and found[name].shape != tensor.shape
        ],
    }
    if texts := [f"{kind} {_listed(names)}" for kind, names in problems.items() if names]:
        what = f"does not hold the network it should: {'; '.join(texts)}"
        raise CheckpointMismatchError(f"{path}: {what}.")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(name[:_LONGEST_NAME] for name in names[:_NAMED]) + more
