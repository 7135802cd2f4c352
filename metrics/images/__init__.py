"""What images come from: files, folders, arrays, noise; and a look at them as they pass.

Every source gives uint8 RGB in batches, in a fixed order, and a hash of its content.
"""

from metrics.images.arrays import ArrayImages, FileImages, open_images
from metrics.images.folder import FolderImages
from metrics.images.inspection import ImageFindings, ImageInspector, InspectedImages
from metrics.images.noise import NoiseImages
from metrics.images.source import FirstImages, ImageBatch, ImageSource

__all__ = [
    "ArrayImages",
    "FileImages",
    "FirstImages",
    "FolderImages",
    "ImageBatch",
    "ImageFindings",
    "ImageInspector",
    "ImageSource",
    "InspectedImages",
    "NoiseImages",
    "open_images",
]
