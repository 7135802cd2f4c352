"""One autoencoder for all that is watched of a run."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from prepared_sets import SPACE, held_out_set
from tiny_run import QUIET, TINY

import repa.data.samples.opening as opening
import repa.training.previews as previews
import repa.training.watching.decoder as decoder
import repa.training.watching.evaluations as evaluations
from repa.autoencoders.latent_space import PIXELS, LatentSpace
from repa.errors import DownloadError
from repa.training.loop import train
from repa.training.watching.decoder import SharedAutoencoder


@pytest.fixture
def loads(monkeypatch):
    """What is asked of `find_autoencoder`, and each loading of a network by it."""
    asked = []

    class Black:
        latent_channels = 4

        def __init__(self, device):
            self.device = device

        @property
        def network(self):
            asked.append("loaded")

        def encode(self, images):
            return torch.zeros(len(images), 8, 8, 8)

        def decode(self, x, latent_space):
            return -torch.ones(len(x), 3, 16, 16)

    def find(name, device, *, download):
        asked.append((name, device, download))
        if name == "elsewhere" and not download:
            raise DownloadError("not here")
        return Black(device)

    monkeypatch.setattr(decoder, "find_autoencoder", find)
    return asked


def test_it_is_loaded_when_it_is_first_asked_for_and_never_again(loads):
    shared = SharedAutoencoder("cpu")
    assert shared(PIXELS) is None and shared(LatentSpace(None, 0.5)) is None and not loads
    first = shared(SPACE, download=False)
    assert first is shared(SPACE) is shared(SPACE, download=False)
    assert loads == [(SPACE.autoencoder, "cpu", False), "loaded"]


def test_what_is_not_here_is_downloaded_for_who_needs_it_alone(loads):
    space, shared = replace(SPACE, autoencoder="elsewhere"), SharedAutoencoder("cpu")
    with pytest.raises(DownloadError):
        shared(space, download=False)
    assert shared(space) is shared(space, download=False)
    assert loads.count("loaded") == 1


def test_validation_evaluations_and_previews_of_a_run_load_one_autoencoder(
    loads, tmp_path, monkeypatch
):
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(previews, "_ROWS", 1)
    monkeypatch.setattr(previews, "_STEPS", 1)
    prepared = held_out_set(features=())
    monkeypatch.setattr(opening, "open_prepared", lambda path: replace(prepared, folder=path))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/prepared.json").write_text("{}")
    watched = replace(
        QUIET,
        validate_every=2,
        eval_every=2,
        eval_num=4,
        eval_reference="digits-heldout",
        preview_every=2,
    )
    config = replace(TINY, data=str(tmp_path / "set"), model="SiT-Pico/2", num_steps=2)
    few = SimpleNamespace(values={"solver": "heun", "num_steps": 1})
    monkeypatch.setattr(evaluations, "defaults_of_dataset", lambda name: few)
    report = SimpleNamespace(values={"FD": 1.0})
    judged = SimpleNamespace(reports={"samples": report})
    monkeypatch.setattr(evaluations.Measuring, "load", lambda self, network: None)
    monkeypatch.setattr(evaluations, "evaluate_file", lambda *arguments, **options: judged)
    train(config, tmp_path / "run", reporting=watched)
    assert loads == [(SPACE.autoencoder, "cpu", True), "loaded"]
    assert (tmp_path / "run/previews/step-0000002.png").exists()
    log = (tmp_path / "run/log.jsonl").read_text()
    assert '"held_out"' in log and '"metrics": {"FD": 1.0}' in log
