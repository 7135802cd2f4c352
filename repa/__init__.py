"""The method: SiT with representation alignment, its losses, training, generation and evaluation.

The public names are listed in `__init__.pyi` and loaded on first use, so that `import repa` (and
with it `repa --help`) does not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
