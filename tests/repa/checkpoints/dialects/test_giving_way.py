"""What is said of another file gives way to what a file tells, and else counts as if said of it."""

import pytest
import torch
from golden_files import GOLDENS_DIR
from tiny_checkpoint import save_tiny, tiny_sit

from repa.checkpoints import read_checkpoint
from repa.errors import CheckpointFormatError

FOLDER = GOLDENS_DIR / "dialects"
STATISTICS = FOLDER / "irepa_conv_latents_stats.pt"


def read(file, **hints):
    return read_checkpoint(file, giving_way=True, **hints)


def facts(checkpoint):
    """What hints could have changed."""
    settings = checkpoint.settings
    space = settings.latent_space
    return checkpoint.dialect, settings.model["num_heads"], space.scale, space.bias


@pytest.mark.parametrize(
    ("name", "said", "hints"),
    [
        ("sit_train", {"num_heads": 3}, {"dialect": "dit"}),
        ("sra_release", {"num_heads": 4}, {"dialect": "repa"}),
        ("repa_qknorm", {}, {"num_heads": 2}),
        ("repa_qknorm", {}, {"num_heads": 5}),
        ("repa_train", {"num_heads": 3}, {"dialect": "self-flow"}),
        ("repae_e2e", {"num_heads": 4}, {"latents": STATISTICS}),
        ("sit_train", {"num_heads": 3}, {"latents": STATISTICS}),
    ],
)
def test_what_a_file_tells_stays(name, said, hints):
    file = FOLDER / f"{name}.pt"
    assert facts(read(file, **{**said, **hints})) == facts(read_checkpoint(file, **said))


def test_what_our_own_files_describe_stays(tmp_path):
    file = save_tiny(tmp_path / "x.safetensors", in_channels=4)
    hints = {"dialect": "repa", "num_heads": 4, "latents": STATISTICS}
    assert facts(read(file, **hints)) == facts(read_checkpoint(file))


def test_heads_of_a_named_size_stay_where_what_is_said_divides_no_width(tmp_path):
    pico = {"hidden_size": 48, "depth": 3, "num_heads": 3}
    torch.save(tiny_sit(**pico).state_dict(), tmp_path / "x.pt")
    assert read(tmp_path / "x.pt", num_heads=5).settings.model["num_heads"] == 3
    assert read(tmp_path / "x.pt", num_heads=6).settings.model["num_heads"] == 6
    with pytest.raises(CheckpointFormatError, match="width 24 is no multiple of 5 heads"):
        read(FOLDER / "repa_train.pt", num_heads=5)


@pytest.mark.parametrize(
    ("name", "hints"),
    [
        ("repa_train", {"num_heads": 2}),
        ("repa_train", {"num_heads": 3, "latents": STATISTICS}),
        ("sit_release", {"dialect": "sit", "num_heads": 3}),
        ("dit_release", {"dialect": "dit", "num_heads": 3}),
        ("irepa_conv", {"num_heads": 4, "latents": STATISTICS}),
    ],
)
def test_what_a_file_does_not_tell_is_as_said(name, hints):
    file = FOLDER / f"{name}.pt"
    given = read(file, **hints)
    assert facts(given) == facts(read_checkpoint(file, **hints))
    keys = {"latents": "latent_space"}
    assert all(given.told[keys.get(hint, hint)] == "as said" for hint in hints)


def test_a_file_that_may_be_of_two_dialects_is_still_asked_about():
    with pytest.raises(CheckpointFormatError, match="Say --dialect sit or dit"):
        read(FOLDER / "sit_release.pt", num_heads=3)
