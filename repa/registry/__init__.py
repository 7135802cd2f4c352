"""The registry, checkpoints.json: what has a name, where its file is, and what was published of it.

Does not import torch, and does not know what the files hold.
"""

from repa.registry.class_names import ClassName as ClassName
from repa.registry.class_names import class_called as class_called
from repa.registry.class_names import class_names_of_dataset as class_names_of_dataset
from repa.registry.entries import Entry as Entry
from repa.registry.entries import cache_dir as cache_dir
from repa.registry.entries import cached_path as cached_path
from repa.registry.entries import check_file as check_file
from repa.registry.entries import default_checkpoint as default_checkpoint
from repa.registry.entries import entry_names as entry_names
from repa.registry.entries import fetch as fetch
from repa.registry.entries import find_entry as find_entry
from repa.registry.entries import is_packaged as is_packaged
from repa.registry.entries import is_registered as is_registered
from repa.registry.entries import load_registry as load_registry
from repa.registry.entries import own_file as own_file
from repa.registry.entries import packaged_path as packaged_path
from repa.registry.pins import Pins as Pins
from repa_base.checksums import file_sha256 as file_sha256
