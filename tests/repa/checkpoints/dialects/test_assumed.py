"""What nothing in a file says, nor a person: it is said whenever the file is used."""

import pytest
import torch
from golden_files import GOLDENS_DIR, load_golden

from repa.autoencoders.latent_space import SD_LATENTS
from repa.checkpoints import export_weights, read_checkpoint
from repa.errors import CheckpointFormatError
from repa.inspection import inspect_checkpoint
from repa.tensor_file import read_contents

FOLDER = GOLDENS_DIR / "dialects"
STATISTICS = FOLDER / "irepa_mlp_latents_stats.pt"
LATENTS = "four channels are latents of sd-vae-ft-ema times 0.18215, as in REPA's code"


def bare(folder, name, *, without=(), **changes):
    """The moving average of a recorded file alone, without what begins so."""
    tensors, extra = read_contents(FOLDER / f"{name}.pt")
    state = tensors or extra["ema"]
    path = folder / "x.pt"
    torch.save({n: t for n, t in state.items() if not n.startswith(tuple(without))} | changes, path)
    return path


def assumed(file, **hints):
    return read_checkpoint(file, **hints).assumed


def test_bare_file_is_taken_for_repa_s_and_what_else_it_may_be_is_said(tmp_path):
    found = assumed(bare(tmp_path, "repa_train"), num_heads=3)
    older = "it is REPA's; an older file of iREPA looks alike and needs --latents"
    assert found == (older, "the linear path, as REPA's", LATENTS)
    headless = bare(tmp_path, "repa_train", without=["projectors."])
    assert assumed(headless, num_heads=3)[0].startswith("it is REPA's; as it has no projectors, it")
    for dialect in ("sit", "sra"):
        said = read_checkpoint(headless, num_heads=3, dialect=dialect)
        assert not any("REPA's;" in taken for taken in said.assumed)


@pytest.mark.parametrize(
    ("name", "heads", "told"),
    [("repa_train", 3, "its trainer's arguments (legacy)"), ("repa_legacy", 4, None)],
)
def test_dialect_is_no_guess_where_arguments_or_names_tell_it(tmp_path, name, heads, told):
    file = FOLDER / f"{name}.pt" if told else bare(tmp_path, name)
    checkpoint = read_checkpoint(file, num_heads=heads)
    assert checkpoint.told["dialect"] == (told or "its older names (decoder_blocks)")
    assert not any("it is REPA's" in taken for taken in checkpoint.assumed)


def test_file_in_repa_s_names_with_statistics_of_latents_is_taken_for_irepa_s(tmp_path):
    # No arguments, and REPA's names: only the statistics speak for it, and iREPA decodes by ft-mse.
    file = bare(tmp_path, "repa_train")
    checkpoint = read_checkpoint(file, num_heads=3, latents=STATISTICS)
    assert checkpoint.dialect == "irepa"
    assert checkpoint.latent_space.autoencoder == "sd-vae-ft-mse"
    assert checkpoint.latent_space.num_channels == 4
    assert "it is iREPA's, decoded by sd-vae-ft-mse" in checkpoint.assumed[0]
    # The latents of a named autoencoder have one scale, as REPA's.
    named = read_checkpoint(file, num_heads=3, latents="sd-vae-ft-mse")
    assert (named.dialect, named.latent_space.scale) == ("repa", SD_LATENTS.scale)
    # Arguments of REPA's trainer decide, and the decoder is then still a guess.
    trained = inspect_checkpoint(FOLDER / "repa_train.pt", num_heads=3, latents=str(STATISTICS))
    plain = trained.to_dict()
    assert (plain["dialect"], plain["latent_space"]["autoencoder"]) == ("repa", "sd-vae-ft-ema")
    by = "assumed: the decoder sd-vae-ft-ema; scale and bias as said"
    assert plain["sources"]["latent_space"] == by
    irepa = inspect_checkpoint(FOLDER / "irepa_mlp.pt", num_heads=3, latents=str(STATISTICS))
    assert irepa.to_dict()["sources"]["latent_space"] == "scale and bias as said"


def test_sra_without_its_head_is_told_by_its_arguments(tmp_path):
    _, extra = read_contents(FOLDER / "sra_dts_as.pt")
    ema = {n: t for n, t in extra["ema"].items() if not n.startswith("ap_head.")}
    torch.save({"ema": ema, "args": extra["args"]}, tmp_path / "x.pt")
    checkpoint = read_checkpoint(tmp_path / "x.pt", num_heads=4)
    assert checkpoint.dialect == "sra"
    arrays, _ = load_golden("dialects/sra_dts_as")
    x, labels = (torch.from_numpy(arrays[name]) for name in ("x", "y"))
    with torch.no_grad():
        found = checkpoint.model(x, torch.full((4,), 0.5), labels)
    torch.testing.assert_close(found, torch.from_numpy(arrays["v_common"][2]), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("name", "other"), [("sit_train", "dit"), ("dit_train", "sit")])
def test_dialect_that_is_said_against_the_arguments_is_followed_and_doubted(name, other):
    right = name.split("_")[0]
    checkpoint = read_checkpoint(FOLDER / f"{name}.pt", num_heads=3, dialect=other)
    assert checkpoint.dialect == other
    doubt = f"it is {other}'s, as said, although its arguments are those of {right}"
    assert checkpoint.assumed[0] == doubt
    assert not any(
        "as said" in each for each in assumed(FOLDER / f"{name}.pt", num_heads=3, dialect=right)
    )


def test_twice_as_many_channels_out_are_no_file_of_repa_s(tmp_path):
    for dialect in ("repa", "haste"):
        with pytest.raises(CheckpointFormatError, match=f"dialect {dialect}: .* those of sit"):
            read_checkpoint(FOLDER / "sit_train.pt", num_heads=3, dialect=dialect)
        with pytest.raises(CheckpointFormatError, match="Say --dialect sit or dit"):
            read_checkpoint(bare(tmp_path, "sit_train"), num_heads=3, dialect=dialect)


def test_channels_of_self_flow_are_assumed():
    taken = "4 channels, which patches of 16 numbers do not tell"
    assert taken in assumed(FOLDER / "selfflow_wrapped.pt", num_heads=3)
    plain = inspect_checkpoint(FOLDER / "selfflow_wrapped.pt", num_heads=3).to_dict()
    assert "input" in plain["assumed"]


def test_export_says_what_was_assumed_and_its_file_assumes_nothing(tmp_path):
    notes, file = [], bare(tmp_path, "repa_train")
    out = export_weights(file, tmp_path / "y.safetensors", on_note=notes.append, num_heads=3)
    assert notes == [f"x.pt: assumed {taken}." for taken in assumed(file, num_heads=3)]
    assert len(notes) == 3 and assumed(out) == ()


@pytest.mark.parametrize(
    "extra", [{"args": {}}, {"iteration": 3}, {"optimizer_state": {}}, {"global_step": 3}]
)
def test_raw_weights_beside_anything_of_a_training_are_refused(tmp_path, extra):
    _, trained = read_contents(FOLDER / "repa_train.pt")
    torch.save({"model": trained["model"], **extra}, tmp_path / "x.pt")
    with pytest.raises(CheckpointFormatError, match="raw weights of a training run"):
        read_checkpoint(tmp_path / "x.pt", num_heads=3)


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        ({"num_heads": 8}, "its description says 3 heads, not 8"),
        ({"encoder_depth": 1}, "its description says 2 blocks before the features, not 1"),
    ],
)
def test_what_is_said_against_a_description_is_refused(tmp_path, hints, message):
    said = {"num_heads": 3, "encoder_depth": 2}
    out = export_weights(FOLDER / "repa_train.pt", tmp_path / "x.safetensors", **said)
    assert read_checkpoint(out, **said).dialect == "ours"
    with pytest.raises(CheckpointFormatError, match=f"x.safetensors: {message}"):
        read_checkpoint(out, **hints)


def test_depth_beyond_the_blocks_is_refused():
    with pytest.raises(CheckpointFormatError, match="has 3 blocks, so nothing after block 99"):
        read_checkpoint(FOLDER / "repa_train.pt", num_heads=3, encoder_depth=99)


@pytest.mark.parametrize("count", [1, 8])
def test_statistics_of_another_number_of_channels_are_named(tmp_path, count):
    file = tmp_path / "stats.pt"
    content = {"latents_scale": torch.ones(count), "latents_bias": torch.zeros(count)}
    torch.save({**content, "num_images": 5}, file)  # something else beside them does not matter
    message = f"irepa_mlp.pt: has 4 channels, and the statistics {file} are for {count}"
    with pytest.raises(CheckpointFormatError, match=message):
        read_checkpoint(FOLDER / "irepa_mlp.pt", num_heads=3, latents=file)


def test_statistics_that_are_no_tensors_are_refused_by_what_they_are(tmp_path):
    file = tmp_path / "stats.pt"
    torch.save({"latents_scale": [1.0] * 4, "latents_bias": [0.0] * 4}, file)
    with pytest.raises(CheckpointFormatError, match="latents_scale is a list, not a tensor"):
        read_checkpoint(FOLDER / "irepa_mlp.pt", num_heads=3, latents=file)
