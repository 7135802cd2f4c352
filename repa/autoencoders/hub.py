"""Where the files of registered autoencoders are, and how to get them. Does not import torch."""

from pathlib import Path
from typing import Any

from repa.errors import DownloadError, first_line
from repa.registry import cache_dir, find_entry

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
REFERENCE_AUTOENCODER = "sd-vae-ft-mse"
"""Name of that with which the reference prepares its latents."""


def autoencoder_folder(name: str, *, download: bool = True) -> Path:
    """Return the folder of a registered autoencoder, as diffusers wrote it.

    It is looked for in the cache folder (where it can be put by hand), in Hugging Face's cache, and
    on the network, at the registry's revision or the newest one when that is null. Without
    `download` nothing is looked for on the network.

    Raises:
        UnknownNameError: No such name.
        DownloadError: It is not on this machine and could not be downloaded.
    """
    entry = find_entry("autoencoders", name)
    identifier, revision = entry["hugging_face"], entry["revision"]
    by_hand = cache_dir() / "autoencoders" / name
    files = [CONFIG, WEIGHTS]
    if all((by_hand / file).exists() for file in files):
        return by_hand
    from huggingface_hub import snapshot_download

    try:
        options: dict[str, Any] = {} if download else {"local_files_only": True}
        found = snapshot_download(identifier, revision=revision, allow_patterns=files, **options)
        return Path(found)
    except Exception as error:  # the hub's client and its transport have errors of their own
        why = f"cannot download the autoencoder {name} ({first_line(error).rstrip('.')})"
        why = why if download else f"the autoencoder {name} is not on this machine"
        raise DownloadError(
            f"{why}; download {CONFIG} and {WEIGHTS} from https://huggingface.co/{identifier}/tree/"
            f"{revision or 'main'} and put them into {by_hand}"
        ) from error


def cached_autoencoder(name: str) -> Path | None:
    """Return the folder of a registered autoencoder if its files are on this machine."""
    try:
        folder = autoencoder_folder(name, download=False)
    except DownloadError:
        return None
    # A folder of Hugging Face's cache may hold some of the files.
    return folder if all((folder / file).exists() for file in (CONFIG, WEIGHTS)) else None
