"""The registry, checkpoints.json: what has a name, where its file is, and what was published of it.

Does not import torch, and does not know what the files hold.
"""

from repa.registry.entries import (
    Entry,
    cache_dir,
    cached_path,
    check_file,
    default_checkpoint,
    entry_names,
    fetch,
    find_entry,
    is_registered,
    load_registry,
    own_file,
)
from repa_base.checksums import file_sha256

__all__ = [
    "Entry",
    "cache_dir",
    "cached_path",
    "check_file",
    "default_checkpoint",
    "entry_names",
    "fetch",
    "file_sha256",
    "find_entry",
    "is_registered",
    "load_registry",
    "own_file",
]
