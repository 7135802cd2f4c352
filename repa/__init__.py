"""The method: SiT with representation alignment, its losses, training and generation.

Names are loaded on first use, so that `import repa` (and with it `repa --help`) does not import
torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repa.loss import alignment_loss, velocity_loss
    from repa.sit import SIT_SIZES, SiT

__all__ = ["SIT_SIZES", "SiT", "alignment_loss", "velocity_loss"]

_HOMES = {
    "SIT_SIZES": "repa.sit",
    "SiT": "repa.sit",
    "alignment_loss": "repa.loss",
    "velocity_loss": "repa.loss",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _HOMES:
        raise AttributeError(f"module 'repa' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
