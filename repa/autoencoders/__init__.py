"""Latent spaces, the autoencoder that decodes them, and pixels to the uint8 that is measured.

The public names are listed in `__init__.pyi` and loaded on first use: `pixels` needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
