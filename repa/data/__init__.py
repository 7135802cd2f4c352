"""Data sets to train on and to compare with."""

from repa.data.digits import load_digits
from repa.data.training_data import Batch, PixelData, TrainingData, open_training_data

__all__ = ["Batch", "PixelData", "TrainingData", "load_digits", "open_training_data"]
