"""Networks: SiT and its parts, which know no losses, paths or samplers; and what outputs mean."""

from repa.models.sit import SIT_SIZES, SiT

__all__ = ["SIT_SIZES", "SiT"]
