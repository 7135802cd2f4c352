"""A tiny randomly initialised AutoencoderKL on disk: 3 levels, so a factor of 4."""

import torch


def save_tiny_autoencoder(folder, **changes):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    network = AutoencoderKL(
        block_out_channels=(4, 4, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        **changes,
    )
    network.save_pretrained(folder)
    return folder
