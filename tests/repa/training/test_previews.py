from dataclasses import replace

import numpy as np
from PIL import Image
from tiny_run import QUIET, TINY

from repa.autoencoders.pixels import images_from_pixels
from repa.sheets.contact_sheet import contact_sheet
from repa.training.loop import train
from samplers import initial_noise


def test_previews_are_drawn_from_the_moving_average_and_not_from_the_weights(tmp_path):
    # An average that never moves stays the untrained network, whose velocity is zero everywhere:
    # its samples are the noise that they start from.
    config = replace(TINY, ema_decay=1.0, learning_rate=0.1, num_steps=3)
    train(config, tmp_path, reporting=QUIET)
    noise = images_from_pixels(initial_noise(config.seed, range(100), (3, 16, 16))).numpy()
    expected = contact_sheet(noise, list(range(10)) * 10)
    with Image.open(tmp_path / "previews/step-0000003.png") as sheet:
        assert np.array_equal(np.asarray(sheet), np.asarray(expected))


def test_previews_come_as_often_as_asked_and_at_the_end(tmp_path):
    train(replace(TINY, num_steps=3), tmp_path, reporting=replace(QUIET, preview_every=2))
    names = sorted(path.name for path in (tmp_path / "previews").iterdir())
    assert names == ["step-0000002.png", "step-0000003.png"]
    with Image.open(tmp_path / "previews" / names[0]) as sheet:
        assert sheet.size == (4 + 10 * 68, 4 + 10 * 82)
