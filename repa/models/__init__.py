"""Networks: SiT and its parts. They know nothing of losses, paths or samplers."""

from repa.models.sit import SIT_SIZES, SiT

__all__ = ["SIT_SIZES", "SiT"]
