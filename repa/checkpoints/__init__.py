"""Checkpoints: files of any known dialect to networks ready for sampling, and back to one file."""

from repa.checkpoints.export import export_weights
from repa.checkpoints.reading import Checkpoint, load_model, read_checkpoint

__all__ = ["Checkpoint", "export_weights", "load_model", "read_checkpoint"]
