"""Data sets to train on and to compare with: digits, pictures of any source, prepared sets."""

from repa.data.crop import center_crop
from repa.data.digits import load_digits
from repa.data.image_set import ImageSet
from repa.data.prepared_set import PreparedSet, is_prepared, open_prepared
from repa.data.samples import Batch, PixelData, TrainingData, open_if_prepared, open_training_data
from repa.data.sources import open_source

__all__ = [
    "Batch",
    "ImageSet",
    "PixelData",
    "PreparedSet",
    "TrainingData",
    "center_crop",
    "is_prepared",
    "load_digits",
    "open_if_prepared",
    "open_prepared",
    "open_source",
    "open_training_data",
]
