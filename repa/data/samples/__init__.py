"""What the training loop reads of a data set: samples of digits, pictures and prepared sets."""

from repa.data.samples.held_out_data import HeldOutImages, held_out_images
from repa.data.samples.opening import open_if_prepared, open_training_data
from repa.data.samples.training_data import Batch, PixelData, TrainingData

__all__ = [
    "Batch",
    "HeldOutImages",
    "PixelData",
    "TrainingData",
    "held_out_images",
    "open_if_prepared",
    "open_training_data",
]
