"""Data sets to train on and to compare with: digits, pictures of any source, prepared sets.

The public names are listed in `__init__.pyi` and loaded on first use: settings need no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
