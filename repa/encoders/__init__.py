"""Frozen representation encoders and their preprocessing: images to the features of alignment.

The public names are listed in `__init__.pyi` and loaded on first use: `names` needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
