"""Frozen representation encoders and their preprocessing: images to the features of alignment."""

from repa.encoders.encoder import Encoder, load_encoder

__all__ = ["Encoder", "load_encoder"]
