from .models.sit import SIT_SIZES as SIT_SIZES
from .models.sit import SiT as SiT
from .training.losses import alignment_loss as alignment_loss
from .training.losses import velocity_loss as velocity_loss
