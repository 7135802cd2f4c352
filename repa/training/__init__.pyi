from .loop import train as train
from .losses import alignment_loss as alignment_loss
from .losses import velocity_loss as velocity_loss
from .settings import PRESETS as PRESETS
from .settings import Reporting as Reporting
from .settings import TrainConfig as TrainConfig
from .stopping import Interrupted as Interrupted
