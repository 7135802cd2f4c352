"""Checkpoints of other conventions give images like those of the toolkit's own."""

import numpy as np
import pytest
import torch
from tiny_checkpoint import MODEL, tiny_sit

from repa.autoencoders.autoencoder import load_autoencoder
from repa.autoencoders.latent_space import PIXELS, LatentSpace
from repa.autoencoders.pixels import images_from_pixels
from repa.checkpoints import load_model
from repa.checkpoints.export import write_weights
from repa.checkpoints.settings import CheckpointSettings, describe
from repa.generation.job import generate
from repa.generation.settings import SampleConfig
from repa.models.prediction import Prediction
from samplers import classifier_free_velocity, initial_noise, sample_ode


def images(path, model, settings, **changes):
    write_weights(path, model.state_dict(), describe(settings))
    config = SampleConfig(
        **{
            "model": str(path),
            "out": path.with_suffix(".npz"),
            "num_images": 3,
            "num_steps": 4,
            "device": "cpu",
            **changes,
        }
    )
    with np.load(generate(config).path) as file:
        return file["arr_0"]


@pytest.mark.parametrize("solver", ["heun", "sde"])
def test_network_whose_time_runs_the_other_way_gives_the_images_of_its_twin(tmp_path, solver):
    model = tiny_sit()
    # Blind to time, so that the twin is the same network with the opposite sign.
    torch.nn.init.zeros_(model.t_embedder.mlp[2].weight)
    plain = images(
        tmp_path / "a.safetensors", model, CheckpointSettings(model=MODEL), solver=solver
    )
    for parameter in model.final_layer.linear.parameters():
        parameter.data.neg_()
    settings = CheckpointSettings(model=MODEL, prediction=Prediction(reversed_time=True))
    twin = images(tmp_path / "b.safetensors", model, settings, solver=solver)
    assert np.array_equal(plain, twin)
    assert plain.std() > 10


def test_latents_are_decoded_by_the_scale_and_bias_of_their_checkpoint(tmp_path):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    AutoencoderKL(latent_channels=4, block_out_channels=(4,), norm_num_groups=2).save_pretrained(
        tmp_path / "vae"
    )
    scale, bias = (0.5, 2.0, -1.0, 1.0), (0.0, 1.0, 0.0, -3.0)
    space = LatentSpace(str(tmp_path / "vae"), scale=scale, bias=bias)
    model = tiny_sit(in_channels=4)
    settings = CheckpointSettings(model={**MODEL, "in_channels": 4}, latent_space=space)
    path = tmp_path / "x.safetensors"
    changes = {"solver": "euler", "labels": (2,), "cfg_scale": 1.0}
    made = images(path, model, settings, **changes)

    velocity = classifier_free_velocity(load_model(path).model, torch.full((3,), 2), 5, 1.0)
    x = sample_ode(velocity, initial_noise(0, range(3), (4, 8, 8)), num_steps=4, method="euler")
    scale, bias = (torch.tensor(each).reshape(4, 1, 1) for each in (scale, bias))
    pixels = load_autoencoder(str(tmp_path / "vae")).decode(x.float() * scale + bias, PIXELS)
    difference = made.astype(int) - images_from_pixels(pixels).numpy()
    assert abs(difference).max() <= 1 and made.std() > 10
