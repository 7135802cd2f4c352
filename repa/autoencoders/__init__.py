"""Latent spaces, the autoencoder that decodes them, and pixels to the uint8 that is measured."""
