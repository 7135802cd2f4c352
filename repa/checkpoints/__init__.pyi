from .export import export_weights as export_weights
from .reading import Checkpoint as Checkpoint
from .reading import load_model as load_model
from .reading import read_checkpoint as read_checkpoint
