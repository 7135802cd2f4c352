"""Evaluation on the way: the numbers of `repa fid` on a file of `repa sample`."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import TINY, tiny_state

import repa.training.watching.evaluations as module
from repa.checkpoints.settings import CheckpointSettings, describe
from repa.data import PixelData, load_digits, open_training_data
from repa.data.held_out import HeldOutReference
from repa.errors import SettingError, UnknownNameError
from repa.evaluation import evaluate_file
from repa.generation import SampleConfig, generate
from repa.generation.images import SampledImages
from repa.training.run.state import model_settings
from repa.training.settings import Reporting
from repa.training.watching.decoder import SharedAutoencoder
from repa.training.watching.evaluations import open_evaluations
from repa.training.watching.regular import regular_work

NUM = 12


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def reference(tmp_path):
    """A few held-out digits in a file: quick to measure."""
    path = tmp_path / "few.npz"
    np.savez(path, load_digits("heldout", 16)[0][:30])
    return str(path)


def settings_of_run(dataset="digits", **changes):
    image = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    data = PixelData("digits", image, torch.zeros(1, dtype=torch.int64), num_classes=10)
    model = model_settings(TINY, data, [])
    return CheckpointSettings(model=model, dataset=dataset, **changes)


def perturbed_state():
    """A state whose raw weights are not their average, which alone is judged."""
    state = tiny_state()
    with torch.no_grad():
        for parameter in state.ema.parameters():
            parameter += 0.05
    return state


def test_the_numbers_are_those_of_repa_fid_on_a_file_of_repa_sample(tmp_path, reference):
    settings, state = settings_of_run(), perturbed_state()
    notes, told = [], []
    reporting = Reporting(
        eval_every=1,
        eval_num=NUM,
        eval_reference=reference,
        on_note=notes.append,
        on_progress=lambda *done: told.append(done),
    )
    found = open_evaluations(settings, reporting, "cpu", None)(state, lambda: False)
    checkpoint = state.save(tmp_path / "checkpoints", TINY, describe(settings))
    out = tmp_path / "samples.npz"
    model = str(checkpoint / "ema.safetensors")
    generate(SampleConfig.for_model(model, num_images=NUM, out=out, device="cpu"))
    values = evaluate_file(out, reference=reference).reports["samples"].values
    assert found == {"metrics": dict(values), "metrics_of": NUM}
    assert "FD-lite0" in values and np.isfinite(list(values.values())).all()
    assert "few.npz" in notes[0] and told[-1][0] != told[0][0] == "samples of step 0"


def test_the_protocol_is_that_of_checkpoints_of_the_same_data():
    reporting = Reporting(eval_every=1, eval_reference="digits-heldout")
    digits = open_evaluations(settings_of_run(), reporting, "cpu", None).protocol
    assert (digits.solver, digits.num_steps, digits.cfg_scale) == ("heun", 25, 2.0)
    other = open_evaluations(settings_of_run("mine@0"), reporting, "cpu", None).protocol
    assert (other.solver, other.num_steps, other.cfg_scale) == ("sde", 250, 1.8)


def test_without_a_name_the_reference_is_what_the_data_have(monkeypatch):
    notes = []
    reporting = Reporting(on_note=notes.append)
    open_evaluations(settings_of_run(), reporting, "cpu", None)
    assert "digits-heldout by efficientnet-lite0: the manifest's data set is digits" in notes[0]
    lost = HeldOutReference("mine@0", "a" * 64, "inception")
    with pytest.raises(SettingError, match=r"needs a reference: .*--eval-ref.*mine@0") as caught:
        open_evaluations(settings_of_run("mine@0", reference=lost), reporting, "cpu", None)
    assert caught.value.field == "eval_every" and "\n" not in str(caught.value)
    with pytest.raises(SettingError, match="needs a reference"):
        open_evaluations(settings_of_run("mine@0"), reporting, "cpu", None)


def test_a_reference_that_there_is_not_is_named():
    reporting = Reporting(eval_every=1, eval_reference="digits-held")
    with pytest.raises(UnknownNameError, match="did you mean 'digits-heldout'"):
        open_evaluations(settings_of_run(), reporting, "cpu", None)


def test_latents_that_nothing_decodes_cannot_be_evaluated():
    from repa.autoencoders.latent_space import SD_LATENTS

    settings = settings_of_run()
    model = {**settings.model, "in_channels": 4}
    space = replace(SD_LATENTS, autoencoder="sd-vae-ft-mse")
    with pytest.raises(SettingError, match="sd-vae-ft-mse") as caught:
        open_evaluations(
            CheckpointSettings(model=model, latent_space=space), Reporting(), "cpu", None
        )
    assert caught.value.field == "eval_every"


def evaluating(state, reference, notes):
    """What a run does at an evaluation."""
    reporting = Reporting(eval_every=1, eval_num=4, eval_reference=reference, on_note=notes.append)
    data = open_training_data("digits", 16)
    regular = regular_work(
        TINY, data, settings_of_run(), reporting, "cpu", SharedAutoencoder("cpu")
    )
    return regular[1].work(state, lambda: False)


def test_a_network_that_overflows_has_no_metrics_and_the_run_goes_on(reference):
    state, notes = tiny_state(), []
    with torch.no_grad():
        state.ema.final_layer.linear.bias += torch.inf
    assert evaluating(state, reference, notes) == {}
    assert notes[-1].startswith("no evaluation of step 0: image 0 has NaN")


def test_a_reference_that_is_lost_meanwhile_is_noted_and_the_run_goes_on(reference, monkeypatch):
    def lose(*arguments):
        Path(reference).unlink()
        return images_of(*arguments)

    notes, images_of = [], module._filled
    monkeypatch.setattr(module, "_filled", lose)
    assert evaluating(tiny_state(), reference, notes) == {}
    assert notes[-1].startswith("no evaluation of step 0: ") and "few.npz" in notes[-1]


def test_an_evaluation_is_given_up_when_the_run_shall_end(reference):
    reporting = Reporting(eval_every=1, eval_num=4, eval_reference=reference)
    evaluations = open_evaluations(settings_of_run(), reporting, "cpu", None)
    assert evaluations(tiny_state(), lambda: True) is None


def test_samples_are_held_once_as_their_batches_are_made():
    side, count = 256, 24
    batches = [
        SampledImages(range(8 * n, 8 * n + 8), np.full((8, side, side, 3), n, np.uint8), None)
        for n in range(3)
    ]
    tracemalloc.start()
    images = module._filled(iter(batches), count)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert images[:, 0, 0, 0].tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert peak < 1.1 * images.nbytes
