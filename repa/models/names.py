"""Names of choices in a model, for options and settings. Does not import torch."""

from typing import Literal

ProjectorKind = Literal["mlp", "conv"]
