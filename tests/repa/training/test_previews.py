import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny_run import QUIET, TINY, file_bytes, tiny_state

import repa.training.loop as loop
import repa.training.previews as module
from repa.autoencoders.pixels import images_from_pixels
from repa.checkpoints.settings import CheckpointSettings
from repa.errors import NonFiniteError
from repa.generation import Protocol, images_of
from repa.generation.images import InMemory
from repa.training.loop import Interrupted, train
from repa.training.previews import Previews
from samplers import initial_noise

OLD = replace(TINY, ema_decay=0.0)  # an average that is the weights
AT_THE_END = replace(QUIET, preview_every=100)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Let a sheet have ten images in five steps, not a hundred in 25."""
    monkeypatch.setattr(module, "_ROWS", 1)
    monkeypatch.setattr(module, "_STEPS", 5)


@pytest.fixture
def drawn(monkeypatch):
    """The images and titles of every sheet that is drawn."""
    sheets = []

    def noted(images, labels, *, title):
        sheets.append((images, title))
        return contact_sheet(images, labels, title=title)

    contact_sheet = module.contact_sheet
    monkeypatch.setattr(module, "contact_sheet", noted)
    return sheets


def names(out):
    return sorted(path.name for path in (out / "previews").glob("*"))


def network_of(state):
    return InMemory(state, CheckpointSettings(model=MODEL))


MODEL = {"input_size": 16, "in_channels": 3, "num_classes": 10, "patch_size": 8}
MODEL |= {"hidden_size": 48, "depth": 3, "num_heads": 3}


def previews_of(state, config=TINY, out=None, **reporting):
    settings = CheckpointSettings(model=MODEL)
    return Previews(config, out, settings, replace(QUIET, **reporting))


def test_a_young_average_is_shown_with_the_raw_weights_below(tmp_path, drawn):
    # An average that never moves stays the untrained network, whose velocity is zero everywhere:
    # its samples are the noise that they start from.
    config = replace(TINY, ema_decay=1.0, learning_rate=0.1, num_steps=3, seed=4)
    train(config, tmp_path, reporting=replace(AT_THE_END, preview_cfg_scale=3.0))
    (average, title), (raw, raw_title) = drawn
    noise = images_from_pixels(initial_noise(4, range(10), (3, 16, 16))).numpy()
    assert np.array_equal(average, noise) and not np.array_equal(raw, noise)
    assert title == (
        "moving average · step 3 · heun in 5 steps · guidance 3 for t in [0, 0.7] · seed 4"
    )
    assert raw_title.startswith("raw weights (the average is young) · step 3")
    with Image.open(tmp_path / "previews/step-0000003.png") as sheet:
        assert sheet.height > 2 * (64 + 14)


def test_raw_samples_are_those_of_the_trained_weights_which_stay_in_training(tmp_path, drawn):
    state = tiny_state()
    state.model.final_layer.linear.bias.data.fill_(0.5)
    state.step = 1
    assert state.model.training
    assert previews_of(state, out=tmp_path).draw(state, lambda: False)
    assert state.model.training and not state.ema.training
    protocol = Protocol(
        solver="heun", num_steps=5, cfg_scale=2.0, labels=tuple(range(10)), batch_size=10
    )
    (expected,) = images_of(network_of(state.model), range(10), protocol)
    assert np.array_equal(drawn[1][0], expected.images)
    assert not np.array_equal(drawn[0][0], expected.images)


@pytest.mark.parametrize(
    ("decay", "step", "sheets"),
    [(0.999, 2994, 2), (0.999, 2995, 1), (0.9999, 29955, 2), (0.9999, 29956, 1), (0.0, 1, 1)],
)
def test_an_average_is_young_while_it_holds_a_twentieth_of_the_initial_weights(
    decay, step, sheets, tmp_path, drawn, monkeypatch
):
    # 0.999 ** 2994 = 0.05001, 0.999 ** 2995 = 0.04996; 0.9999 ** 29955 = 0.050004.
    state = tiny_state()
    state.step = step
    previews = previews_of(state, replace(TINY, ema_decay=decay, num_steps=99_999), tmp_path)
    assert previews.draw(state, lambda: False)
    assert len(drawn) == sheets


def test_previews_come_as_often_as_asked_and_at_the_end(tmp_path):
    train(replace(OLD, num_steps=3), tmp_path, reporting=replace(QUIET, preview_every=2))
    assert names(tmp_path) == ["step-0000002.png", "step-0000003.png"]
    with Image.open(tmp_path / "previews/step-0000002.png") as sheet:
        assert sheet.width == 4 + 10 * 68


def test_previews_can_be_turned_off_also_that_of_the_last_step(tmp_path):
    off = replace(QUIET, preview_every=0)
    train(replace(TINY, num_steps=3), tmp_path, reporting=off)
    train(replace(TINY, num_steps=3), tmp_path, resume=True, reporting=off)
    assert not (tmp_path / "previews").exists()


def test_a_preview_tells_how_far_it_is(tmp_path):
    told = []
    reporting = replace(AT_THE_END, on_preview=lambda step, share: told.append((step, share)))
    train(replace(TINY, num_steps=3), tmp_path, reporting=reporting)
    shares = [share for _, share in told]
    assert {step for step, _ in told} == {3}
    assert shares[0] == 0 and shares[-1] == 1 and shares == sorted(shares) and len(shares) > 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [3, 2, 6])
def test_a_signal_gives_a_preview_up_at_once_and_it_is_drawn_when_the_run_goes_on(
    tmp_path, number, step
):
    told, killed = [], []

    def stop(at, share):
        told.append(share)
        if at == step and share > 0.2:
            killed.append(len(told))
            os.kill(os.getpid(), number)

    # Checkpoints at 3 and 6, so that the preview of step 2 is drawn of what is not saved yet.
    reporting = replace(QUIET, preview_every=step, on_preview=stop)
    with pytest.raises(Interrupted, match="saved") as caught:
        train(TINY, tmp_path / "run", reporting=reporting)
    assert caught.value.signal == number
    assert killed == [len(told)]  # not a step of the solver more
    path = f"step-{step:07d}.png"
    assert path not in names(tmp_path / "run")
    again = replace(QUIET, preview_every=step)
    last = train(TINY, tmp_path / "run", resume=True, reporting=again)
    whole = train(TINY, tmp_path / "whole", reporting=again)
    assert file_bytes(last) == file_bytes(whole)
    assert file_bytes(tmp_path / "run/previews") == file_bytes(tmp_path / "whole/previews")
    assert path in names(tmp_path / "run")


def test_a_preview_that_a_kill_took_is_drawn_when_the_run_goes_on_and_no_other_again(tmp_path):
    reporting = replace(QUIET, preview_every=3)
    train(replace(TINY, num_steps=3), tmp_path, reporting=reporting)
    path = tmp_path / "previews/step-0000003.png"
    content = path.read_bytes()
    path.unlink()
    train(replace(TINY, num_steps=4), tmp_path, resume=True, reporting=reporting)
    assert path.read_bytes() == content
    path.write_bytes(b"a picture of one's own")
    train(replace(TINY, num_steps=4), tmp_path, resume=True, reporting=reporting)
    assert path.read_bytes() == b"a picture of one's own"


def test_a_run_without_a_preview_to_come_is_not_interrupted_after_its_end(tmp_path):
    def stop(step, losses):
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    reporting = replace(QUIET, preview_every=0, on_step=stop)
    assert train(TINY, tmp_path, reporting=reporting).name == "step-0000006"


def test_a_network_that_overflows_has_no_preview_and_the_run_goes_on(tmp_path, monkeypatch):
    def overflow(*arguments, **options):
        raise NonFiniteError("image 3 has NaN or infinite pixels: the network overflowed.")

    notes = []
    monkeypatch.setattr(module, "images_of", overflow)
    reporting = replace(QUIET, preview_every=3, on_note=notes.append)
    assert train(TINY, tmp_path, reporting=reporting).name == "step-0000006"
    assert notes[0].endswith("is trained on 901 images of digits, 8 a step, up to step 6.")
    assert notes[1] == (
        "no preview of step 3: image 3 has NaN or infinite pixels: the network overflowed."
    )


def test_a_signal_before_the_first_step_leaves_a_run_that_starts_when_it_goes_on(
    tmp_path, monkeypatch
):
    def signalled(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return log(*arguments)

    log = loop.Log
    with monkeypatch.context() as patch:
        patch.setattr(loop, "Log", signalled)
        with pytest.raises(Interrupted, match="before the first step"):
            train(TINY, tmp_path, reporting=QUIET)
    assert train(TINY, tmp_path, resume=True, reporting=AT_THE_END).name == "step-0000006"
