"""Training: what a step consumes, the step, the loop around it, its state and its folder.

The public names are listed in `__init__.pyi` and loaded on first use: `settings` needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
