import json
import subprocess
import sys
import urllib.error
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from metrics import open_images
from repa import SIT_SIZES, SiT
from repa.autoencoders.autoencoder import load_autoencoder
from repa.autoencoders.latent_space import SD_LATENTS
from repa.autoencoders.pixels import images_from_pixels
from repa.checkpoints import load_model
from samplers import classifier_free_velocity, initial_noise, sample_ode


def save_checkpoint(path, dataset="digits", **changes):
    torch.manual_seed(0)
    sizes = {"input_size": 8, "in_channels": 3, "num_classes": 5, "encoder_depth": 1}
    settings = {**SIT_SIZES["SiT-Pico/4"], **sizes, "target_dims": [], **changes}
    model = SiT(**settings)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    description = {"format": 1, "model": settings, "path_type": "linear", "dataset": dataset}
    save_file(model.state_dict(), path, metadata={"repa": json.dumps(description)})
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder that holds tiny.safetensors, with an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    save_checkpoint(tmp_path / "tiny.safetensors")
    return tmp_path


TINY = ("sample", "--model", "tiny.safetensors", "--num", 12, "--steps", 3, "--device", "cpu")
PLAN = (
    "repa: tiny.safetensors (data set digits, so the defaults of digits): 12 images, "
    "heun in 3 steps, guidance 2 for t in [0, 0.7], 8 network rows an image.\n"
)
"""Steps start at 1, 2/3 (guided, so four rows) and 1/3 (the last, guided but not corrected)."""


def test_command_writes_images_labels_manifest_and_contact_sheet(repa, here):
    code, out, err = repa(*TINY, "--labels", "balanced", "--grid", "sheet.png")
    assert (code, err) == (0, PLAN)
    assert "samples.npz" in out and "images/s" in out
    with np.load("samples.npz", allow_pickle=False) as file:
        assert sorted(file.files) == ["arr_0", "arr_1", "manifest"]
        assert file["arr_0"].shape == (12, 8, 8, 3) and file["arr_0"].dtype == np.uint8
        assert file["arr_1"].tolist() == [i % 5 for i in range(12)]
        images, manifest = file["arr_0"], json.loads(str(file["manifest"]))
    assert (manifest["cfg_scale"], manifest["guidance_interval"]) == (2, [0, 0.7])
    with Image.open("sheet.png") as sheet:
        pixels = np.asarray(sheet)
    # The first cell is the first image of class 0, eight times enlarged, below title and caption.
    assert np.array_equal(pixels[41:105:8, 4:68:8], images[0])
    assert np.array_equal(pixels[41:105:8, 72:136:8], images[5])
    assert (pixels[4:20, 4:300] < 100).any()
    assert repa("grid", "samples.npz", "--out", "same.png")[0] == 0
    assert (here / "same.png").read_bytes() == (here / "sheet.png").read_bytes()


def test_png_files_are_the_images_of_the_npz_and_are_made_once(repa, here):
    arguments = (*TINY, "--png", "png")
    assert repa(*arguments)[0] == 0
    ours, theirs = open_images(here / "png"), open_images(here / "samples.npz")
    assert ours.count == 12 and ours.labels.tolist() == theirs.labels.tolist()
    assert np.array_equal(next(ours.batches(12)), next(theirs.batches(12)))
    before = {path.name: path.stat().st_mtime_ns for path in (here / "png").glob("*.png")}
    code, out, _ = repa(*arguments, "--json")
    assert (code, json.loads(out)["PNG files"]) == (0, "png")
    assert before == {path.name: path.stat().st_mtime_ns for path in (here / "png").glob("*.png")}
    code, _, err = repa(*TINY, "--png", "png", "--out", "other.npz")
    assert code == 1 and err.endswith(
        "png holds other images; use --overwrite, or another --png.\n"
    )
    assert not (here / "other.npz").exists()


def test_repeated_command_says_that_it_is_finished_and_changes_nothing(repa, here):
    arguments = (*TINY, "--grid", "sheet.png")
    repa(*arguments)
    before = {path.name: path.read_bytes() for path in here.glob("*.[np]*")}
    code, out, err = repa(*arguments)
    assert (code, err) == (0, "repa: samples.npz was finished before, with the same settings.\n")
    assert "samples.npz" in out
    assert before == {path.name: path.read_bytes() for path in here.glob("*.[np]*")}


def test_run_that_only_lacked_its_last_touch_is_not_called_finished_before(repa, here, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("repa.generation.sample_files.sample_file.NpzWriter.finish", interrupt)
        assert repa(*TINY)[0] == 130
    code, out, err = repa(*TINY)
    assert (code, err) == (0, "") and "samples.npz" in out


def test_interrupted_run_says_where_it_goes_on(repa, here, monkeypatch):
    from repa.generation.sample_files.sample_file import NpzWriter

    def interrupted(self, first, *rows):
        if first:
            raise KeyboardInterrupt
        write(self, first, *rows)

    write = NpzWriter.write
    with monkeypatch.context() as patch:
        patch.setattr(NpzWriter, "write", interrupted)
        code, _, err = repa(*TINY, "--batch-size", 5)
        assert code == 130 and err.startswith(PLAN)
    code, _, err = repa(*TINY, "--batch-size", 5)
    assert (code, err) == (0, f"{PLAN}repa: going on at 5 of 12.\n")


def test_after_the_first_block_the_time_it_needs_is_told(repa, here, monkeypatch):
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(
        "repa_cli.showing.sampling.time", SimpleNamespace(monotonic=lambda: next(clock))
    )
    code, _, err = repa(*TINY, "--batch-size", 3, "--json")
    plan, took, *rest = err.splitlines()
    # Told at the start, before each of 5 evaluations and after the block: 60 s for 3 of 12 images.
    assert (code, rest) == (0, []) and f"{plan}\n" == PLAN
    assert took == "repa: 3 images took 1 min; about 3 min left."


def test_model_without_defaults_of_its_own_gets_the_published_protocol(repa, here):
    save_checkpoint(here / "other.safetensors", dataset="flowers")
    arguments = ("--model", "other.safetensors", "--num", 2, "--steps", 3, "--cfg", 1)
    code, _, err = repa("sample", *arguments)
    plan = "2 images, sde in 3 steps, no guidance, 3 network rows an image."
    assert (code, err) == (0, f"repa: other.safetensors: {plan}\n")


def test_steps_go_where_typed_times_say_and_the_command_tells_what_they_cost(repa, here):
    code, _, err = repa(*TINY, "--solver", "dpm++", "--times", "1,0.7,0.4,0", "--cfg", "2")
    assert code == 0
    said = (
        "dpm++ of order 2 in 3 steps at 1,0.7,0.4,0, guidance 2 for t in [0, 0.7], 5 network rows"
    )
    assert said in err


def test_fast_makes_the_images_of_the_options_that_its_help_names(repa, here):
    arguments = ["sample", "--model", "tiny.safetensors", "--num", "3"]
    shown = " ".join(repa("sample", "--help")[1].split())
    typed = shown.split(" --fast ")[1].split("Few steps: ")[1].split(";")[0].split()
    assert typed[::2] == ["--solver", "--times", "--shift", "--steps"]
    code, _, err = repa(*arguments, "--fast", "--out", "fast.npz")
    assert code == 0 and " in 12 steps, shifted times (shift 0.5)" in err
    assert repa(*arguments, *typed, "--out", "typed.npz")[0] == 0
    assert (here / "fast.npz").read_bytes() == (here / "typed.npz").read_bytes()
    code, out, err = repa(*arguments, "--fast", "--solver", "heun", "--out", "heun.npz")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "--fast: chooses the solver: leave out one of the two." in err


def test_steps_that_an_adaptive_solver_ignores_are_noted_when_they_were_asked_for(repa, here):
    code, _, err = repa(*TINY, "--solver", "dopri5")
    ignored, plan = err.splitlines()
    assert (code, ignored) == (0, "repa: --steps is ignored: dopri5 chooses its own steps.")
    assert plan.endswith("12 images, dopri5, guidance 2 for t in [0, 0.7].")
    without = [argument for argument in TINY if argument not in ("--steps", 3)]
    for arguments in ((*without, "--solver", "dopri5"), (*TINY, "--solver", "heun")):
        code, _, err = repa(*arguments, "--overwrite")
        assert code == 0 and "--steps" not in err


def test_interval_of_guidance_that_is_turned_off_is_noted_when_it_was_asked_for(repa, here):
    off = ["--cfg", "1", "--interval", "0,0.3", "--ig", "1", "--ig-interval", "0,0.3"]
    code, _, err = repa(*TINY, "--solver", "euler", *off)
    assert code == 0
    assert err.splitlines()[:2] == [
        "repa: --interval is ignored: --cfg 1 turns its guidance off.",
        "repa: --ig-interval is ignored: --ig 1 turns its guidance off.",
    ]
    code, _, err = repa(*TINY, "--solver", "euler", "--cfg", "1", "--out", "plain.npz")
    assert code == 0 and "ignored" not in err


def test_json_goes_to_stdout_alone(repa, here):
    code, out, _ = repa(*TINY, "--json", "--out", "a/b.npz")
    result = json.loads(out)
    assert (
        code == 0
        and result["file"] == "a/b.npz"
        and result["images"] == 12
        and result["images/s"] > 0
    )


def test_latent_checkpoint_is_decoded_by_the_autoencoder(repa, here):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    network = AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
    )
    network.save_pretrained(here / "vae")
    save_checkpoint(here / "latent.safetensors", in_channels=4, input_size=4)
    options = ("--autoencoder", "vae", "--labels", "3", "--cfg", 1, "--solver", "euler")
    code, _, err = repa(
        "sample", "--model", "latent.safetensors", "--num", 3, "--steps", 2, *options
    )
    assert (code, err.count("\n")) == (0, 1)
    with np.load("samples.npz") as file:
        images, manifest = file["arr_0"], json.loads(str(file["manifest"]))
    assert (manifest["autoencoder"], manifest["image_size"]) == ("vae", 8)
    model = load_model("latent.safetensors").model
    velocity = classifier_free_velocity(model, torch.full((3,), 3), 5, 1.0)
    latents = sample_ode(
        velocity, initial_noise(0, range(3), (4, 4, 4)), num_steps=2, method="euler"
    )
    pixels = load_autoencoder("vae").decode(latents, SD_LATENTS)
    assert np.array_equal(images, images_from_pixels(pixels).numpy())


def test_published_command_without_network_says_which_file_to_put_where(repa, here, monkeypatch):
    def fail(*arguments, **options):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    code, out, err = repa("sample", "--steps", 250, "--cfg", 1.8, "--interval", "0,0.7")
    assert (code, out) == (1, "")
    assert err.startswith("repa: error: cannot download sit-xl-2-repa-256.pt from https://")
    assert err.endswith(f"put it at {here / 'cache/checkpoints/sit-xl-2-repa-256.pt'}\n")
    assert err.count("\n") == 1
    assert not list(here.glob("samples*"))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--model", "digit"], ["--model", "file or folder 'digit'; did you mean 'digits'"]),
        (["--solver", "heum"], ["--solver", "unknown solver 'heum'; did you mean 'heun'"]),
        (["--labels", "balancd"], ["--labels", "unknown labels", "did you mean 'balanced'"]),
        (["--labels", "all"], ["--labels", "'all': the names of", "not known, only numbers, 0 to"]),
        (["--cfg", "inf"], ["--cfg", "must be a finite number, got inf"]),
        (["--cfg", "nan"], ["--cfg", "equal to 1"]),
        (["--model", ""], ["--model", "is empty"]),
        (["--labels", "-1"], ["--labels", "one or more classes from 0, got [-1]"]),
        (["--labels", "1,x"], ["--labels", "'x': the names of tiny.safetensors's", "0 to 4"]),
        (["--labels", "1,,2"], ["--labels", "'1,,2' is no list of classes"]),
        (["--labels", ""], ["--labels", "is empty"]),
        (["--labels", "0,5"], ["--labels", "label 5 is none of the 5 classes"]),
        (["--order", "2"], ["--order", "a choice of the solvers dpm++, dpm++sde, sa alone"]),
        (["--solver", "sa", "--order", "4"], ["--order", "from 1 to 3 for sa, got 4"]),
        (["--solver", "dpm++sde", "--order", "3"], ["--order", "from 1 to 2 for dpm++sde, got 3"]),
        (["--solver", "dpm++", "--order", "x"], ["--order", "'x' is not a whole number from 1"]),
        (["--times", "karas"], ["--times", "unknown times 'karas'; did you mean 'karras'"]),
        (["--times", "1,0.5,0.7,0"], ["--times", "must fall, got 0.7 after 0.5"]),
        (["--times", "1,0.5,0.5,0"], ["--times", "must fall, got 0.5 after 0.5"]),
        (["--times", "1,nan,0"], ["--times", "must fall"]),
        (["--times", "0.9,0"], ["--times", "must begin with 1"]),
        (["--times", "1,0.1"], ["--times", "end with 0"]),
        (["--times", "1"], ["--times", "must begin with 1"]),
        (["--times", "1,x,0"], ["--times", "'1,x,0' is not a list of times"]),
        (["--times", "1,0.5,0", "--steps", "3"], ["--steps", "2 by the times, got 3"]),
        (["--times", "karras", "--steps", "1"], ["--steps", "at least 2 for karras times"]),
        (["--times", "uniform", "--solver", "dopri5"], ["--times", "dopri5 has times of its own"]),
        (["--times", "karras", "--solver", "explicit_adams"], ["--times", "equal steps: use ab2"]),
        (["--shift", "2"], ["--shift", "add --times shifted"]),
        (["--times", "shifted", "--shift", "0"], ["--shift", "above 0, got 0"]),
        (["--times", "shifted", "--shift", "1e300"], ["--shift", "from 1e-6 to 1e6, got 1e+300"]),
        (["--quantizer", "rond"], ["--quantizer", "did you mean 'round'"]),
        (["--interval", "0.7,0"], ["--interval: must be LOW,HIGH with 0 <= LOW", "got 0.7,0"]),
        (["--interval", "0,1.5"], ["--interval", "0 <= LOW <= HIGH <= 1, got 0,1.5"]),
        (["--interval", "-0.1,1"], ["--interval", "0 <= LOW <= HIGH <= 1"]),
        (["--interval", "a,b"], ["--interval", "'a,b' is not LOW,HIGH"]),
        (["--interval", "0.5"], ["--interval", "'0.5' is not LOW,HIGH"]),
        (["--interval", "nan,1"], ["--interval", "0 <= LOW <= HIGH <= 1"]),
        (["--ig-interval", "0,0.3"], ["--ig-interval: changes nothing", "give --ig"]),
        (["--device", "gpu"], ["--device", "unknown device 'gpu'", "cuda"]),
        (["--device", "cpu:3"], ["--device", "unknown device 'cpu:3'"]),
        (["--cfg", "0.9"], ["--cfg"]),
        (["--cfg", "nan"], ["--cfg"]),
        (["--num", "0"], ["--num"]),
        (["--steps", "0"], ["--steps"]),
        (["--steps", "2000000"], ["--steps", "10000"]),
        (["--batch-size", "0"], ["--batch-size"]),
        (["--seed", "-1"], ["--seed"]),
        (["--out", "samples.png"], ["--out", ".npz"]),
        (["--autoencoder", "vae"], ["--autoencoder", "makes pixels"]),
    ],
)
def test_option_out_of_range_is_one_line_with_its_name_and_exit_code_2(
    repa, here, arguments, parts
):
    code, out, err = repa(*TINY, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("repa: error: ") and err.count("\n") == 1
    assert all(part in err for part in parts), err
    assert sorted(path.name for path in here.iterdir()) == ["tiny.safetensors"]


def test_what_is_found_wrong_is_one_line_and_exit_code_1(repa, here):
    (here / "text.pt").write_text("not a checkpoint")
    (here / "file").write_text("not a folder")
    (here / "photo.png").write_bytes(b"precious")
    (here / "photo.npz").write_bytes(b"precious")
    before = sorted(path.name for path in here.iterdir())
    for arguments, part in (
        (["--model", "text.pt"], "text.pt: is no checkpoint"),
        (["--out", "file/samples.npz"], "file"),
        (["--out", "photo.npz"], "photo.npz was not made by this command; use --overwrite"),
        (["--grid", "photo.png"], "photo.png exists; use --overwrite"),
        (["--device", "cuda:99"], "'cuda:99' is not available"),
        (["--num", "1000000000000"], "No space: the file needs"),
    ):
        code, out, err = repa(*TINY, *arguments)
        assert (code, out) == (1, ""), err
        assert err.startswith("repa: error: ") and err.count("\n") == 1 and part in err, err
    assert sorted(path.name for path in here.iterdir()) == before
    assert (here / "photo.png").read_bytes() == (here / "photo.npz").read_bytes() == b"precious"


def test_other_settings_ask_for_overwrite_or_another_name(repa, here):
    repa(*TINY)
    before = (here / "samples.npz").read_bytes()
    code, _, err = repa(*TINY, "--cfg", 3)
    assert code == 1
    assert "cfg_scale 2.0 there, 3.0 here" in err and "use --overwrite" in err and "--out" in err
    assert (here / "samples.npz").read_bytes() == before
    assert repa(*TINY, "--cfg", 3, "--overwrite")[0] == 0
    assert (here / "samples.npz").read_bytes() != before


def test_another_picture_is_not_replaced_by_the_sheet_of_a_finished_run(repa, here):
    repa(*TINY)
    Image.new("RGB", (9, 9)).save(here / "photo.png")
    before = (here / "photo.png").read_bytes()
    made = (here / "samples.npz").read_bytes()
    for longer in ([], ["--num", 20]):
        code, _, err = repa(*TINY, "--grid", "photo.png", *longer)
        assert code == 1 and "photo.png exists; use --overwrite" in err
    assert (here / "samples.npz").read_bytes() == made
    assert (here / "photo.png").read_bytes() == before
    assert repa(*TINY, "--grid", "photo.png", "--overwrite")[0] == 0
    assert (here / "photo.png").read_bytes() != before


def test_longer_run_extends_a_finished_file_and_says_what_is_not_as_asked(repa, here):
    long = [20 if argument == 12 else argument for argument in TINY]
    assert repa(*long, "--batch-size", 8, "--out", "whole.npz")[0] == 0
    assert repa(*TINY, "--batch-size", 8)[0] == 0
    code, _, err = repa(*long, "--batch-size", 6)
    assert code == 0
    assert err.splitlines()[:2] == [
        "repa: extending samples.npz: 8 of its images stay.",
        "repa: going on with the run's blocks of 8 images, not 6.",
    ]
    assert err.endswith("repa: going on at 8 of 20.\n")
    assert (here / "samples.npz").read_bytes() == (here / "whole.npz").read_bytes()
    code, _, err = repa(*TINY)
    assert code == 1 and "samples.npz holds 20 images of these settings, not 12" in err


def test_output_that_is_a_link_stays_one_and_a_strangers_progress_file_stays(repa, here):
    (here / "disk").mkdir()
    (here / "samples.npz").symlink_to(here / "disk" / "real.npz")
    assert repa(*TINY)[0] == 0
    assert (here / "samples.npz").is_symlink() and (here / "disk" / "real.npz").is_file()
    (here / "lost.npz").symlink_to(here / "gone" / "real.npz")
    code, _, err = repa(*TINY, "--out", "lost.npz")
    assert code == 1 and err.count("\n") == 1 and "lost.npz: is a link into " in err
    (here / "other.npz.progress").write_text("precious")
    code, _, err = repa(*TINY, "--out", "other.npz", "--overwrite")
    message = "other.npz.progress was not made by this command; use another --out.\n"
    assert (code, err) == (1, f"repa: error: {message}")
    assert (here / "other.npz.progress").read_text() == "precious"


def test_checkpoint_that_does_not_fit_is_found_before_room_is_asked_for(repa, here):
    tensors = {"x_embedder.proj.weight": torch.zeros(1)}
    with safe_open("tiny.safetensors", "pt") as file:
        description = file.metadata()
    save_file(tensors, "other.safetensors", metadata=description)
    before = sorted(path.name for path in here.iterdir())
    code, _, err = repa(*TINY, "--model", "other.safetensors", "--num", 10**12)
    assert code == 1 and err.count("\n") == 1
    assert "does not hold the network it should: missing" in err
    assert sorted(path.name for path in here.iterdir()) == before


def test_help_does_not_import_torch():
    script = (
        "import sys\n"
        "from repa_cli.app import main\n"
        "try: main(['sample', '--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for option in ("--model", "--num", "--steps", "--cfg", "--interval", "--solver", "--seed"):
        assert option in result.stdout
