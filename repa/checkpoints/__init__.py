"""Checkpoints: files of any known dialect to networks ready for sampling, and back to one file.

The public names are listed in `__init__.pyi` and loaded on first use: `names` needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
