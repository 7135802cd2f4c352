"""Preparation of a set: look at every file, crop, encode, and write rows that survive a kill.

The public names are listed in `__init__.pyi` and loaded on first use: settings need no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
