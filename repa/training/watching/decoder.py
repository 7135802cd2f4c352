"""The autoencoder of a run's latents, which validation, evaluations and previews share."""

import torch

from repa.autoencoders.autoencoder import Autoencoder, find_autoencoder
from repa.autoencoders.latent_space import LatentSpace


class SharedAutoencoder:
    """Called with the latent space of a run's data, it finds and loads their autoencoder, once."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = device
        self._loaded: Autoencoder | None = None

    def __call__(self, space: LatentSpace, *, download: bool = True) -> Autoencoder | None:
        """Return what encodes and decodes latents; None for pixels, and where its name is unknown.

        Raises:
            RepaError: It is not on this machine, and could not be downloaded or was not to be; or
                it cannot be loaded.
        """
        if space.is_pixels or space.autoencoder is None:
            return None
        if self._loaded is None:
            found = find_autoencoder(space.autoencoder, self._device, download=download)
            _ = found.network
            self._loaded = found
        return self._loaded
