"""Images that are not finite: which, since when, and why, by networks that break on purpose."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from repa.autoencoders.latent_space import PIXELS, SD_LATENTS
from repa.errors import NonFiniteError, SettingError
from repa.generation.finite import Batch, Watch
from repa.generation.images import images_of
from repa.generation.settings import Protocol
from repa.models.prediction import Prediction

HEUN = Protocol(solver="heun", num_steps=4, cfg_scale=1, batch_size=4)


class Network(SimpleNamespace):
    """What the sampler asks of a network; called, it is DiT's, with twice the channels."""

    def __call__(self, x, t, labels):
        return torch.cat([self.velocity(x, t / 1000, labels)] * 2, dim=1)

    def parameters(self):
        return iter([torch.zeros(1)])

    def state_dict(self):
        return self.tensors


def model(velocity, *, space=PIXELS, path_type="linear", tensors=None, out_channels=None):
    sizes = {"in_channels": 3, "input_size": 4, "num_classes": 5, "null_label": 5}
    network = Network(**sizes, velocity=velocity, tensors=tensors or {})
    settings = SimpleNamespace(
        path_type=path_type,
        latent_space=space,
        prediction=Prediction(),
        guided_channels=None,
        num_classes=5,
        model={"out_channels": out_channels},
    )
    return SimpleNamespace(model=network, settings=settings, velocity_model=velocity)


def breaking(below, value=float("nan"), row=1):
    """A velocity of zero that has another value in a row of the batch from some time on."""

    def velocity(x, t, labels):
        rows = torch.arange(len(x)) % 4 == row
        broken = (rows & (t <= below + 1e-6)).reshape(-1, 1, 1, 1)
        return torch.where(broken, value, torch.zeros_like(x))

    return velocity


def message(made, protocol=HEUN, indices=(5, 6, 7, 8), **options):
    with pytest.raises(NonFiniteError) as caught:
        list(images_of(made, indices, protocol, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


TIMES = (1.0, 0.8, 0.5, 0.2, 0.0)


@pytest.mark.parametrize(
    ("protocol", "below", "where"),
    [
        # Heun's second evaluation of step 2 is at its end, 0.5.
        (HEUN, 0.5, "from step 2 of 4 (t = 0.5) on"),
        (HEUN, 0.4, "from step 3 of 4 (t = 0.25) on"),
        (HEUN, 1.0, "from step 1 of 4 (t = 1) on"),
        (replace(HEUN, solver="euler"), 0.5, "from step 3 of 4 (t = 0.5) on"),
        (replace(HEUN, solver="rk4"), 0.5, "from step 2 of 4 (t = 0.5) on"),
        (replace(HEUN, solver="midpoint"), 0.7, "from step 2 of 4 (t = 0.625) on"),
        (replace(HEUN, solver="sde", times=TIMES), 0.3, "from step 4 of 4 (t = 0.2) on"),
        (replace(HEUN, solver="dpm++", times=TIMES), 0.5, "from step 3 of 4 (t = 0.5) on"),
        # Guided until 0.6, where the second step is cut in two.
        (
            replace(
                HEUN, solver="ab2", times="karras", cfg_scale=2, guidance_interval=(0.0, 0.6)
            ),
            0.6,
            "(t = 0.6) on",
        ),
        (replace(HEUN, solver="explicit_adams"), 0.3, "from evaluation "),
    ],
)  # fmt: skip
def test_image_step_and_time_are_named(protocol, below, where):
    said = message(model(breaking(below)), protocol)
    assert said.startswith("image 6 has NaN or infinite pixels, "), said
    assert where in said


def test_of_several_the_first_image_is_named_and_earlier_batches_are_kept():
    made = images_of(model(breaking(0.5, row=3)), range(4, 11), replace(HEUN, batch_size=3))
    assert list(next(made).indices) == [4, 5, 6]
    assert list(next(made).indices) == [7, 8, 9]  # a batch of three has no row 3
    assert message(model(breaking(0.5, row=0)), indices=range(9)).startswith("image 0 has")


@pytest.mark.parametrize(
    ("value", "gave"), [(float("nan"), "NaN"), (float("inf"), "infinite values")]
)
def test_a_network_that_overflows_on_a_sound_state_is_to_blame(value, gave):
    said = message(model(breaking(1, value)))
    assert f": the network gave {gave} for a state whose largest value is " in said
    assert float(said.rstrip(".").split()[-1]) < 6


def test_a_state_that_grew_blames_guidance_and_steps():
    grown = model(lambda x, t, labels: -1e15 * x * (1 + (labels < 5).reshape(-1, 1, 1, 1)))
    said = message(grown, replace(HEUN, solver="euler", cfg_scale=7.5))
    assert "the state had grown " in said
    assert "weaker guidance (--cfg 7.5 here), or more steps (--steps 4 here)" in said
    assert "order" not in said and "guidance" not in message(grown, HEUN)
    few = replace(HEUN, solver="sa", order=3, num_steps=8, cfg_scale=2)
    assert "or a solver of lower order" in message(grown, few)
    assert "or a solver of lower order" in message(grown, replace(few, solver="ab2", order=None))
    assert "lower order" not in message(grown, replace(few, order=1))


def test_weights_that_are_not_finite_are_named_whoever_has_them():
    tensors = {"sound": torch.ones(2), "blocks.3.attn.qkv.weight": torch.tensor([1, torch.inf])}
    broken, sound = model(breaking(0.5), tensors=tensors), model(breaking(0.5))
    name = "the tensor blocks.3.attn.qkv.weight of the "
    assert f"(t = 0.5) on: {name}checkpoint is NaN or infinite." in message(broken)
    guided = replace(HEUN, cfg_scale=2)
    sound.settings.model |= {"in_channels": 3, "input_size": 4}
    broken.settings.model |= {"in_channels": 3, "input_size": 4}
    assert f"{name}guide is NaN" in message(sound, guided, guide=broken)


def autoencoder(tensors, value=float("nan")):
    def decode(x, space):
        return torch.where(torch.arange(len(x)).reshape(-1, 1, 1, 1) == 2, value, x)

    network = SimpleNamespace(state_dict=lambda: tensors)
    return SimpleNamespace(decode=decode, network=network, latent_channels=3)


def test_pixels_of_finite_latents_blame_the_decoder():
    latent = model(breaking(-1), space=SD_LATENTS)
    said = message(latent, autoencoder=autoencoder({}))
    assert said.startswith("image 7 has NaN or infinite pixels, in the decoder: the latents are fi")
    half = {"decoder.conv_in.bias": torch.tensor([torch.inf], dtype=torch.float16)}
    said = message(latent, autoencoder=autoencoder(half))
    assert "decoder.conv_in.bias of the autoencoder is NaN or infinite as float16" in said
    far = model(breaking(1, 1e5, row=2), space=SD_LATENTS)
    assert "in the decoder: the state had grown to 1e+05" in message(
        far, autoencoder=autoencoder({})
    )


def test_half_precision_is_blamed_where_it_was_asked_for():
    watch = Watch()
    velocity = watch.watched(lambda x, t, guided: x / 0)
    watch.timed(lambda t: None)(0.7)
    velocity(torch.ones(1, 3, 2, 2), torch.full((1,), 0.7), False)
    for precision, blamed in (("fp16", True), ("bf16", False)):
        protocol = replace(HEUN, solver="euler", num_steps=1, precision=precision)
        said = str(Batch(watch, [3], None, protocol, dict).error(0))
        assert ("fp16 overflowed" in said and "use --precision bf16" in said) == blamed
        assert "step 1 of 1 (t = 0.7)" in said


def test_an_adaptive_solver_names_the_image_that_ended_it():
    said = message(model(breaking(0.5)), replace(HEUN, solver="dopri5"))
    assert said.startswith("image 6 has NaN or infinite pixels, from evaluation ")
    assert "the network gave NaN" in said


def test_an_adaptive_solver_without_steps_short_enough_is_refused_in_a_line(monkeypatch):
    def underflow(velocity, noise, **_):
        raise ValueError("dopri5 failed (underflow in dt)")

    monkeypatch.setattr("repa.generation.integration.sample_ode", underflow)
    with pytest.raises(SettingError, match="dopri5 finds no steps short enough") as caught:
        list(images_of(model(breaking(-1)), range(2), replace(HEUN, solver="dopri5")))
    assert caught.value.field == "solver"
    with pytest.raises(ValueError, match="underflow"):  # a fault of ours keeps its traceback
        list(images_of(model(breaking(-1)), range(2), HEUN))


def test_ddpm_is_watched_too():
    dit = model(breaking(0.6), path_type="ddpm", out_channels=6)
    said = message(dit, replace(HEUN, solver="ddpm", num_steps=4))
    # Of 1000 times, 4 are visited: 1000, 667, 334 and 1, of which 334 is the first below 600.
    assert said.startswith("image 6 has NaN or infinite pixels, from step 3 of 4 (t = 0.334) on")


def test_ddpm_is_guided_in_the_interval_of_the_protocol():
    guided = []

    def velocity(x, t, labels):
        guided.append(len(labels.unique()) > 1)
        return torch.zeros_like(x)

    dit = model(velocity, path_type="ddpm", out_channels=6)
    protocol = Protocol(solver="ddpm", num_steps=4, guidance_interval=(0.334, 0.667), labels=(0,))
    list(images_of(dit, range(2), protocol))
    assert guided == [False, True, True, False]


def test_rows_of_the_references_batches_are_those_of_their_images():
    protocol = replace(HEUN, rng="reference", world_size=2, batch_size=4)
    # Image 2 is the second row of the first process.
    said = message(model(breaking(0.5)), protocol, indices=[0, 2])
    assert said.startswith("image 2 has NaN or infinite pixels, from step 2 of 4")
