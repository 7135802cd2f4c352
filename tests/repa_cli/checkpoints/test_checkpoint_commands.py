"""`repa inspect`, `models`, `download` and `export --to repa`, as a person types them."""

import json
from functools import partial

import pytest
import torch
from golden_files import GOLDENS_DIR

from repa import inspection as repa_inspection
from repa.checkpoints import read_checkpoint, repa_form
from repa.checkpoints.export import write_weights
from repa.checkpoints.settings import describe

FOLDER = GOLDENS_DIR / "dialects"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def test_inspect_shows_facts_with_their_source_and_the_authors_sampling(repa):
    code, out, err = repa("inspect", FOLDER / "sit_train.pt", "--num-heads", 3)
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for line in (
        "dialect sit its trainer's arguments (path_type, prediction, image_size)",
        "num heads 3 as said",
        "guided channels 3 its dialect",
        "sampled by: solver sde those of the authors of sit",
        "sampled by: cfg scale 1.5",
        "argument: path_type Linear",
    ):
        assert line in lines, line
    assert any(line.startswith("latent space: autoencoder sd-vae-ft-ema") for line in lines)


def test_inspect_as_json_says_the_same_and_lists_its_guesses(repa):
    code, out, _ = repa("inspect", FOLDER / "repa_release.pt", "--num-heads", 3, "--json")
    found = json.loads(out)
    assert code == 0 and found["dialect"] == "repa" and found["sampling"]["cfg_scale"] == 1.8
    assert set(found["assumed"]) <= set(found["sources"])
    assert found["latent_space"]["autoencoder"] == "sd-vae-ft-ema"


def test_check_passes_the_shipped_model_and_fails_a_turned_one(repa, monkeypatch):
    quick = partial(repa_inspection.check_checkpoint, num_steps=4)
    monkeypatch.setattr(repa_inspection, "check_checkpoint", quick)
    code, out, _ = repa("inspect", "digits", "--check", "--device", "cpu")
    assert code == 0 and out.rstrip().endswith("digits makes what looks like images.")
    assert "FAILED" not in out
    assert repa("export", "digits", "x.safetensors")[0] == 0
    checkpoint = read_checkpoint("x.safetensors")
    turned = {
        n: -t if n.startswith("final_layer.linear") else t for n, t in checkpoint.tensors.items()
    }
    write_weights(checkpoint.path, turned, describe(checkpoint.settings))
    code, out, _ = repa("inspect", "x.safetensors", "--check", "--device", "cpu", "--json")
    found = json.loads(out)
    assert code == 1 and found["passed"] is False
    failed = {check["name"] for check in found["checks"] if check["passed"] is False}
    assert "noise in the output at t = 1" in failed and "correlation of neighbours" in failed


def test_check_says_which_file_it_needs(repa, here):
    file = FOLDER / "repa_release.pt"
    code, out, _ = repa("inspect", file, "--num-heads", 3, "--check", "--device", "cpu")
    place = here / "cache" / "autoencoders" / "sd-vae-ft-ema"
    assert code == 1 and "not made: it needs a decoder: " in out and str(place) in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nothing.pt",), 2, "unknown model, file or folder 'nothing.pt'"),
        ((FOLDER / "repa_train.pt",), 1, "say --num-heads"),
        ((FOLDER / "reg_train.pt",), 1, "is REG's"),
        ((FOLDER / "sit_release.pt",), 1, "Say --dialect sit or dit"),
        ((FOLDER / "irepa_conv_latents_stats.pt",), 1, "holds statistics of latents"),
        (("digits", "--dialect", "sid"), 2, "did you mean 'sit'"),
        (("digits", "--autoencoder", "x"), 2, "no effect without --check"),
        (("digits", "--device", "cpu"), 2, "no effect without --check"),
        ((FOLDER / "irepa_mlp.pt", "--latents", "sdvae-f8d"), 2, "did you mean 'sdvae-f8d4'"),
    ],
)
def test_what_cannot_be_inspected_is_one_line(repa, arguments, code, message):
    found, out, err = repa("inspect", *arguments)
    assert (found, out) == (code, "") and err.count("\n") == 1 and message in err


def test_pickle_that_wants_to_run_code_is_refused_and_does_not(repa, here):
    class Hostile:
        def __reduce__(self):
            import os

            return os.system, (f"touch {here / 'ran'}",)

    torch.save({"ema": {"x": torch.ones(1)}, "args": Hostile()}, here / "x.pt")
    for command in (("inspect", "x.pt"), ("export", "x.pt", "y.pt", "--to", "repa")):
        code, out, err = repa(*command)
        assert (code, out) == (1, "") and "asks to run code (posix.system)" in err
        assert err.count("\n") == 1
    code, _, err = repa("sample", "--model", "digits", "--num", 1, "--autoencoder", "x.pt")
    assert code == 2 and "makes pixels" in err
    file = FOLDER / "repa_train.pt"
    code, _, err = repa("sample", "--model", file, "--num-heads", 3, "--autoencoder", "x.pt")
    assert code == 1 and "asks to run code" in err
    assert not (here / "ran").exists()


def test_models_is_a_table_and_json(repa):
    code, out, err = repa("models")
    assert (code, err) == (0, "")
    row = next(line for line in out.splitlines() if line.startswith("sit-xl-2-repa-256"))
    assert "not known" in row and "1.42: sde 250, w 1.8 on [0, 0.7] (13 rows)" in row
    assert "inception" not in out and "inception" in repa("models", "--all")[1]
    listed = {entry["name"]: entry for entry in json.loads(repa("models", "--json")[1])}
    assert listed["dit-xl-2-256"]["licence"] == "CC-BY-NC" and listed["digits"]["path"]
    assert listed["dit-xl-2-256"]["published"]["dit-xl-2-256-cfg-1.5"]["metrics"]["fid"] == 2.27


def test_download_fetches_one_shows_it_and_pins_it(repa, server, here, monkeypatch):
    from repa.registry import entries

    entry = {"url": f"{server}/file", "file": "net.pth", "sha256": None, "size": None}
    content = {**entries.load_registry()}
    content["networks"] = {"net": entry | {"source": "a test"}}
    for module in ("repa.registry.entries", "repa.inspection.listing"):
        monkeypatch.setattr(f"{module}.load_registry", lambda: content)
    code, out, err = repa("download", "net")
    assert code == 0 and f"downloading net.pth from {server}/file" in err
    assert "(pinned on this machine)" in out
    assert (here / "cache" / "networks" / "net.pth").exists()
    (here / "cache" / "networks" / "net.pth").write_bytes(b"other")
    code, out, err = repa("download", "net", "--json")
    assert (code, out) == (1, "") and err.count("\n") == 1 and "was pinned in" in err


def test_download_of_what_is_not_there_is_one_line(repa):
    code, out, err = repa("download", "digit")
    assert (code, out) == (2, "") and "did you mean 'digits'?" in err and err.count("\n") == 1
    code, out, err = repa("download", "repa-e-ldm-256")
    assert code == 1 and "huggingface.co/REPA-E/sit-ldm-e2e-vavae" in err
    code, out, _ = repa("download", "digits", "--json")
    assert code == 0 and json.loads(out)["by"] == "package"


def test_export_to_repa_says_how_its_script_reads_it(repa, here, monkeypatch):
    tiny = {"hidden_size": 24, "depth": 3, "num_heads": 3, "patch_size": 2}
    monkeypatch.setitem(repa_form.MODELS, "SiT-T/2", tiny)
    monkeypatch.setitem(repa_form.RESOLUTIONS, 8, 64)
    command = ("export", FOLDER / "sit_train.pt", "x.pt", "--to", "repa", "--num-heads", 3)
    code, out, err = repa(*command)
    assert code == 0 and "generate.py --ckpt x.pt --model SiT-T/2" in out
    assert "guides all channels, not the first 3" in err
    assert "ema" in torch.load("x.pt", weights_only=True)
    code, _, err = repa(*command)
    assert code == 1 and "--overwrite" in err
    for arguments, message, expected in (
        (("digits", "y.pt", "--to", "repa"), "its scripts build", 1),
        (("digits", "y.pt", "--to", "repa", "--half"), "no effect with --to repa", 2),
        (("digits", "y.pt", "--to", "rape"), "did you mean 'repa'", 2),
        (("digits", "y.pt"), "OUT: must end in .safetensors", 2),
        (("digits", "y.safetensors", "--to", "repa"), "OUT: must end in .pt", 2),
    ):
        code, out, err = repa("export", *arguments)
        assert (code, out) == (expected, "") and message in err and err.count("\n") == 1
