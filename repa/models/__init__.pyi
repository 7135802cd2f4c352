from .sit import SIT_SIZES as SIT_SIZES
from .sit import SiT as SiT
