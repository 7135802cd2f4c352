"""Preparation of a set: look at every file, crop, encode, and write rows that survive a kill."""

from repa.data.preparation.making import Prepared, prepare
from repa.data.preparation.settings import PrepareConfig

__all__ = ["PrepareConfig", "Prepared", "prepare"]
