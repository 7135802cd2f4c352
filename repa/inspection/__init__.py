"""What is known of a checkpoint before images are made of it, and what is registered.

`inspect_checkpoint` tells what a file holds and where that is from, `check_checkpoint` samples a
batch and says whether it looks like images, `list_entries` and `download_entry` are the registry.
The public names are listed in `__init__.pyi` and loaded on first use: `listing` needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
