"""How encoders are named: registered ones, `timm:NAME`, and `=PATH` for weights of one's own.

Does not import torch: a name is checked before anything is loaded. That timm has a network of the
name is found out when it is built.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from repa.errors import SettingError, UnknownNameError
from repa.registry import entry_names

Precision = Literal["fp32", "bf16"]
"""What an encoder computes in, and a model that is trained: float32, or bfloat16 by autocast."""

NO_ENCODER = "none"
TIMM = "timm:"
"""What stands before the name of a timm network that is not registered."""

_NOT_IN_TIMM = "mocov3"


@dataclass(frozen=True)
class EncoderName:
    """An encoder as a user names it, and the file of its weights, None for the published ones."""

    name: str
    weights: Path | None = None

    def __str__(self) -> str:
        """Return it as it is typed."""
        return self.name if self.weights is None else f"{self.name}={self.weights}"

    def absolute(self) -> "EncoderName":
        """Return the same with the whole path of its weights, wherever it is read next."""
        return self if self.weights is None else EncoderName(self.name, self.weights.absolute())

    @property
    def timm_name(self) -> str | None:
        """The timm network that was named with `timm:`; None for a registered encoder."""
        return self.name.removeprefix(TIMM) if self.name.startswith(TIMM) else None


def parse_encoder(text: str) -> EncoderName:
    """Read `NAME`, `timm:NAME`, or one of them with `=PATH`.

    Raises:
        UnknownNameError: No such encoder.
    """
    name, _, path = (part.strip() for part in text.partition("="))
    if not name.removeprefix(TIMM) or (not name.startswith(TIMM) and name not in _registered()):
        if name.startswith(_NOT_IN_TIMM):
            raise SettingError(
                "encoder",
                f"{name}: timm has no network of MoCo v3, so it cannot be built; dinov1-vit-b is "
                "the nearest kind.",
            )
        raise UnknownNameError("encoder", name, _registered())
    if "=" in text and not path:
        raise SettingError("encoder", f"{text}: the path of the weights is missing after =.")
    return EncoderName(name, Path(path) if path else None)


def parse_encoders(text: str) -> list[EncoderName]:
    """Read the names of several encoders with commas between them; `none` means no encoder.

    Raises:
        SettingError: A name is unknown, missing, or there twice, or `none` is not alone.
    """
    if text.strip() == NO_ENCODER:
        return []
    try:
        parsed = [parse_encoder(part) for part in text.split(",")]
    except UnknownNameError as error:
        raise SettingError("encoder", str(error)) from error
    names = [encoder.name for encoder in parsed]
    for name in names:
        if names.count(name) > 1:
            raise SettingError("encoder", f"{name} is named twice: once is enough.")
    return parsed


def encoder_list() -> str:
    """Return the registered names on one line, sizes of a kind together: dinov2-vit-s|b|l|g."""
    kinds: dict[str, list[str]] = {}
    for name in _registered():
        kind = name.rstrip("0123456789") if "-vit-" not in name else name[: name.rindex("-") + 1]
        kinds.setdefault(kind, []).append(name.removeprefix(kind))
    return ", ".join(kind + "|".join(sizes) for kind, sizes in kinds.items())


def _registered() -> list[str]:
    return entry_names("encoders")
