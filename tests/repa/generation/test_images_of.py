"""Images of indices: closed forms, by networks whose velocity is known."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from repa.autoencoders.latent_space import PIXELS, LatentSpace
from repa.autoencoders.pixels import Quantizer, images_from_pixels
from repa.errors import NoMemoryError, NonFiniteError, SettingError
from repa.generation import images as images_module
from repa.generation.images import images_of
from repa.generation.integration import solver_of, times_of
from repa.generation.settings import Protocol
from repa.models.prediction import Prediction
from repa_base.device import float32_precision
from samplers import (
    PATHS,
    draw_labels,
    grid_times,
    initial_noise,
    ode_times,
    sample_exponential,
    sde_times,
)

SHAPE, CLASSES = (3, 8, 8), 5
HEUN = Protocol(solver="heun", num_steps=4, cfg_scale=1, seed=9, batch_size=3)


def still(x, t, labels):
    return torch.zeros_like(x)


def pulled(x, t, labels):
    """A velocity that is the label's: a class moves x by minus its number over the whole time."""
    return labels.to(x.dtype).reshape(-1, 1, 1, 1).expand_as(x) / 10


@dataclass
class Known:
    """A model whose velocity is known in closed form."""

    velocity_model: object = still
    latent_space: LatentSpace = PIXELS
    prediction: Prediction = Prediction()  # noqa: RUF009
    guided_channels: int | None = None
    model: object = field(
        default_factory=lambda: SimpleNamespace(
            num_classes=CLASSES,
            null_label=CLASSES,
            in_channels=SHAPE[0],
            input_size=SHAPE[1],
            parameters=lambda: iter([torch.zeros(1)]),
            state_dict=dict,
        )
    )

    @property
    def settings(self):
        return SimpleNamespace(
            path_type="linear",
            latent_space=self.latent_space,
            prediction=self.prediction,
            guided_channels=self.guided_channels,
            num_classes=CLASSES,
        )


def collected(model, indices, protocol, **options):
    made = list(images_of(model, indices, protocol, **options))
    return np.concatenate([m.images for m in made]), np.concatenate([m.labels for m in made])


def shown(x):
    return images_from_pixels(x).numpy()


@pytest.mark.parametrize("solver", ["euler", "heun", "rk4", "dopri5"])
def test_where_nothing_moves_an_image_is_the_noise_of_its_index(solver):
    indices = [4, 0, 7, 7, 1000]
    images, labels = collected(Known(), indices, replace(HEUN, solver=solver))
    assert np.array_equal(images, shown(initial_noise(9, indices, SHAPE)))
    assert labels.tolist() == draw_labels(9, indices, CLASSES).tolist()


@pytest.mark.parametrize("quantizer", ["truncate", "round"])
def test_pixels_are_made_bytes_as_asked(quantizer):
    images, _ = collected(Known(), range(3), replace(HEUN, quantizer=quantizer))
    ways = {
        q: images_from_pixels(initial_noise(9, range(3), SHAPE), q) for q in get_args(Quantizer)
    }
    assert [q for q, way in ways.items() if np.array_equal(images, way)] == [quantizer]


def test_guidance_acts_on_the_steps_that_start_in_the_interval_and_no_others():
    # Steps of 1/4 start at 1, 3/4, 1/2 and 1/4: two of them in [0.3, 0.8], and 0.3 is none's start.
    protocol = replace(
        HEUN, solver="euler", cfg_scale=3, guidance_interval=(0.3, 0.8), labels=(1, 4)
    )
    images, labels = collected(Known(pulled), range(4), protocol)
    assert labels.tolist() == [1, 4, 1, 4]
    velocity, null = labels / 10, CLASSES / 10
    moved = -(2 * velocity + 2 * (null + 3 * (velocity - null))) / 4
    expected = initial_noise(9, range(4), SHAPE).double() + torch.tensor(moved)[:, None, None, None]
    assert np.abs(images.astype(int) - shown(expected.float())).max() <= 1


def test_labels_go_round_by_index_not_by_place_in_the_batch():
    balanced = collected(Known(), [7, 2, 12], replace(HEUN, labels="balanced"))[1]
    assert balanced.tolist() == [2, 2, 2]
    assert collected(Known(), [1, 2, 3], replace(HEUN, labels=(0, 3)))[1].tolist() == [3, 0, 3]


def test_latents_are_decoded_from_the_models_own_space():
    seen = []

    class Decoder:
        latent_channels = SHAPE[0]

        def decode(self, latents, space):
            seen.append(space.to_autoencoder(latents))
            return latents

    space = LatentSpace("some", scale=2.0, bias=1.0)
    images, _ = collected(Known(latent_space=space), range(2), HEUN, autoencoder=Decoder())
    noise = initial_noise(9, range(2), SHAPE)
    assert torch.equal(seen[0], 2 * noise + 1)
    assert np.array_equal(images, shown(noise))


def test_the_decoder_is_that_of_the_models_space_unless_one_is_handed_in(monkeypatch):
    asked = []

    class Decoder:
        latent_channels = SHAPE[0]

        def decode(self, latents, space):
            return latents

    def load(name, device):
        asked.append((name, device.type))
        return Decoder()

    monkeypatch.setattr(images_module, "load_autoencoder", load)
    space = LatentSpace("its-own", scale=2.0)
    collected(Known(latent_space=space), range(2), HEUN)
    assert asked == [("its-own", "cpu")]
    collected(Known(latent_space=space), range(2), HEUN, autoencoder=Decoder())
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("model", "changes", "field"),
    [
        (Known(latent_space=LatentSpace(None, scale=5.0)), {}, "autoencoder"),
        (Known(), {"labels": (0, CLASSES)}, "labels"),
        (Known(prediction=Prediction("noise")), {}, "solver"),
    ],
)
def test_what_does_not_suit_the_model_is_refused_before_any_step(model, changes, field):
    with pytest.raises(SettingError) as caught:
        next(images_of(model, range(2), replace(HEUN, **changes)))
    assert caught.value.field == field


def test_batches_are_made_when_they_are_asked_for():
    calls = []

    def counting(x, t, labels):
        calls.append(len(x))
        return torch.zeros_like(x)

    made = images_of(Known(counting), range(7), replace(HEUN, num_steps=1))
    assert not calls
    assert list(next(made).indices) == [0, 1, 2] and calls == [3]
    assert [len(batch.images) for batch in made] == [3, 1] and calls == [3, 3, 1]


def test_progress_counts_images_and_the_time_gone_by_of_the_batch_in_work():
    told = []
    protocol = replace(HEUN, solver="euler", num_steps=2)
    list(images_of(Known(), range(4), protocol, progress=lambda *seen: told.append(seen)))
    assert told == [(0, 4), (1.5, 4), (3, 4), (3, 4), (3.5, 4), (4, 4)]


class Reads(TorchDispatchMode):
    """Counts the values of tensors that Python asks for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("solver", ["heun", "sde"])
def test_the_device_is_not_read_at_a_step_nor_once_an_image(solver):
    with Reads() as reads:
        list(
            images_of(Known(), range(6), replace(HEUN, solver=solver, cfg_scale=2), progress=print)
        )
    assert reads.count == 0


def test_an_image_that_is_not_finite_is_named():
    def broken(x, t, labels):
        rows = torch.arange(len(x)).reshape(-1, 1, 1, 1)
        return torch.where(rows == 1, float("nan"), torch.zeros_like(x))

    made = images_of(Known(broken), [5, 6, 7, 8], HEUN)
    with pytest.raises(NonFiniteError, match="image 6 has NaN or infinite pixels"):
        next(made)


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_allowed_as_asked_in_products_and_convolutions_and_put_back(tf32):
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    seen = []

    def watching(x, t, labels):
        seen.append((matmul.allow_tf32, convolution.allow_tf32))
        return torch.zeros_like(x)

    with float32_precision(tf32=not tf32):
        next(images_of(Known(watching), range(1), replace(HEUN, tf32=tf32)))
        assert set(seen) == {(tf32, tf32)}
        assert (matmul.allow_tf32, convolution.allow_tf32) == (not tf32, not tf32)


def test_times_are_the_published_the_named_or_the_typed():
    linear, cosine, whole = PATHS["linear"], PATHS["cosine"], (0.0, 1.0)
    published = {"sde": None, "heun": None, "dopri5": None}
    published |= {"dpm++": ode_times(5), "ab2": ode_times(5)}
    published |= {"sa": sde_times(5), "dpm++sde": sde_times(5)}
    for solver, times in published.items():
        assert times_of(Protocol(solver=solver, num_steps=5), linear, whole) == times
    shifted = Protocol(solver="sde", num_steps=5, times="shifted", shift=0.3)
    assert times_of(shifted, linear, whole) == grid_times("shifted", 5, shift=0.3)
    karras = Protocol(solver="heun", num_steps=5, times="karras")
    for path in (linear, cosine):
        assert times_of(karras, path, (0.0, 0.7)) == grid_times("karras", 5, interpolant=path)
    fitted = times_of(replace(karras, solver="ab4"), linear, (0.0, 0.7))
    assert 0.7 in fitted and len(set(fitted) - set(grid_times("karras", 5))) == 1
    typed = Protocol(solver="dpm++", num_steps=3, times=(1.0, 0.8, 0.5, 0.0))
    assert times_of(typed, linear, (0.0, 0.7)) == [1.0, 0.8, 0.5, 0.0]


@pytest.mark.parametrize("order", [None, 1, 2, 3])
def test_order_of_the_protocol_is_the_solver_s(order):
    noise = torch.linspace(-2, 2, 5, dtype=torch.float64).reshape(-1, 1)

    def velocity(x, t, guided):
        return torch.sin(3 * x) + t.reshape(-1, 1)

    protocol = Protocol(solver="dpm++", num_steps=7, order=order, cfg_scale=1)
    ours = solver_of(protocol, PATHS["linear"], lambda step: noise)(velocity, noise)
    settings = {"num_steps": 7, "order": order or 2, "interpolant": PATHS["linear"]}
    assert torch.equal(ours, sample_exponential(velocity, noise, **settings))


@pytest.mark.parametrize(("size", "less"), [(7, "--batch-size 3"), (1, "--precision bf16")])
def test_a_batch_that_does_not_fit_is_said_with_one_that_may(size, less):
    def full(x, t, labels):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    said = f"^out of memory for {size} images at once: try repa sample {less}\\.$"
    with pytest.raises(NoMemoryError, match=said):
        list(images_of(Known(full), range(size), replace(HEUN, batch_size=9)))


def test_one_image_in_half_precision_has_nothing_smaller_to_try():
    said = "for 1 images at once: try a device with more of it"
    half = images_module.memory_for(1, replace(HEUN, precision="bf16"))
    with pytest.raises(NoMemoryError, match=said), half:
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_a_batch_that_does_not_fit_when_it_is_decoded_is_said_so(monkeypatch):
    def full(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(images_module, "images_from_pixels", full)
    with pytest.raises(NoMemoryError, match="--batch-size 1"):
        list(images_of(Known(), range(3), HEUN))
