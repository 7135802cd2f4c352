"""What the training loop reads of a data set: samples of digits, pictures and prepared sets."""

from repa.data.samples.opening import open_if_prepared, open_training_data
from repa.data.samples.training_data import Batch, PixelData, TrainingData

__all__ = ["Batch", "PixelData", "TrainingData", "open_if_prepared", "open_training_data"]
