"""Contact sheets of samples from the moving average, drawn as a run goes on."""

import torch
from PIL import Image

from repa.autoencoders.pixels import images_from_pixels
from repa.models.sit import SiT
from repa.sheets.contact_sheet import contact_sheet
from samplers import classifier_free_velocity, initial_noise, sample_ode


def preview(model: SiT, seed: int, cfg_scale: float) -> Image.Image:
    """Sample a contact sheet of pixels, ten images of up to ten classes, by Heun.

    Args:
        model: A pixel-space network in evaluation mode; a run's moving average.
        seed: Decides the noise that the images start from.
        cfg_scale: Guidance, in t from 0 to 0.7.
    """
    device = model.pos_embed.device
    columns = [model.num_classes * i // 10 for i in range(10)]
    labels = torch.tensor(columns * 10, device=device)
    shape = (model.in_channels, model.input_size, model.input_size)
    noise = initial_noise(seed, range(len(labels)), shape).to(device)
    velocity = classifier_free_velocity(model, labels, model.null_label, cfg_scale)
    pixels = sample_ode(velocity, noise, num_steps=25, guidance_interval=(0.0, 0.7))
    return contact_sheet(images_from_pixels(pixels).cpu().numpy(), labels.tolist())
