"""Seeds to images: the protocol, the images of indices, and the sample file that survives a kill.

The public names are listed in `__init__.pyi` and loaded on first use: `settings` needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
