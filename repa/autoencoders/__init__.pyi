from .autoencoder import Autoencoder as Autoencoder
from .autoencoder import find_autoencoder as find_autoencoder
from .autoencoder import load_autoencoder as load_autoencoder
from .latent_space import PIXELS as PIXELS
from .latent_space import SD_LATENTS as SD_LATENTS
from .latent_space import LatentSpace as LatentSpace
from .pixels import images_from_pixels as images_from_pixels
