"""`generate`: which images a file holds, what its manifest says, and what is refused."""

import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_checkpoint import save_tiny
from tiny_generation import NUM_IMAGES, read, run

from repa.checkpoints import load_model
from repa.errors import (
    CheckpointMismatchError,
    NoMemoryError,
    NonFiniteError,
    OutputExistsError,
    SettingError,
)
from repa.generation import Protocol, images_of, integration, job
from repa.generation.job import generate
from repa.generation.manifests import writing
from repa.generation.sample_files.sample_run import read_manifest
from repa.generation.settings import SampleConfig


@pytest.mark.parametrize("path_type", ["linear", "cosine"])
@pytest.mark.parametrize("solver", ["sde", "heun", "rk4", "dopri5", "dpm++", "dpm++sde", "ab2"])
def test_file_holds_the_images_of_its_indices(settings, tmp_path, solver, path_type):
    path = save_tiny(tmp_path / "x.safetensors", {"path_type": path_type})
    protocol = {"solver": solver, "seed": 9, "cfg_scale": 2.5, "guidance_interval": (0.2, 0.8)}
    protocol |= {"batch_size": 7, "num_steps": 4}
    images, labels = read(run(settings, model=str(path), **protocol))
    batches = images_of(load_model(path), range(NUM_IMAGES), Protocol(**protocol))
    for batch in batches:
        rows = slice(batch.indices[0], batch.indices[-1] + 1)
        assert np.array_equal(images[rows], batch.images)
        assert np.array_equal(labels[rows], batch.labels)
    assert rows.stop == NUM_IMAGES


def test_a_guide_makes_the_images_of_the_file(settings, tmp_path):
    worse = save_tiny(tmp_path / "worse.safetensors", depth=2)
    images, _ = read(run(settings, guide=str(worse)))
    model, protocol = load_model(settings["model"]), Protocol(num_steps=4, batch_size=7)
    made = images_of(model, range(NUM_IMAGES), protocol, guide=load_model(worse))
    assert np.array_equal(images, np.concatenate([batch.images for batch in made]))
    assert not np.array_equal(images, read(run(settings, out=tmp_path / "unguided.npz"))[0])


def test_path_and_solver_decide_the_images(settings, tmp_path):
    made = [
        read(run(settings, model=str(path), solver=solver, out=tmp_path / f"{n}-{solver}.npz"))[0]
        for n, path in enumerate(
            save_tiny(tmp_path / f"{kind}.safetensors", {"path_type": kind})
            for kind in ("linear", "cosine")
        )
        for solver in ("sde", "heun")
    ]
    different = [not np.array_equal(a, b) for i, a in enumerate(made) for b in made[:i]]
    # An ODE does not ask which path its velocity was trained on; the SDE's score does.
    assert different == [True, True, True, True, False, True]


def test_images_depend_on_the_batch_size_by_one_grey_level_at_most(settings, tmp_path):
    reference, labels = read(run(settings, batch_size=1))
    for batch_size in (2, 3, 7, 64):
        path = run(settings, batch_size=batch_size, out=tmp_path / f"{batch_size}.npz")
        images, same_labels = read(path)
        assert np.array_equal(labels, same_labels)
        assert np.abs(images.astype(int) - reference).max() <= 1
    assert len(np.unique(reference.reshape(NUM_IMAGES, -1), axis=0)) == NUM_IMAGES


def test_seed_changes_noise_and_labels(settings, tmp_path):
    images, labels = read(run(settings))
    others, other_labels = read(run(settings, seed=1, out=tmp_path / "other.npz"))
    assert not np.array_equal(labels, other_labels) and not np.array_equal(images, others)


def test_checkpoint_that_is_replaced_during_the_run_does_not_disturb_it(settings, tmp_path):
    expected = run(settings, out=tmp_path / "whole.npz").read_bytes()
    model = tmp_path / "tiny.safetensors"
    model.write_bytes(Path(settings["model"]).read_bytes())

    def replace(done, total):
        if done > 10:
            save_tiny(model, num_classes=6)

    generate(SampleConfig(**{**settings, "model": str(model)}), progress=replace)
    assert settings["out"].read_bytes() == expected


def test_output_is_checked_before_the_checkpoint_is_read(settings, tmp_path, monkeypatch):
    def fail(*arguments):
        raise AssertionError("the checkpoint was read")

    monkeypatch.setattr(job, "read_checkpoint", fail)
    (tmp_path / "samples.npz").write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="not made by this command"):
        run(settings)
    with pytest.raises(OSError, match="precious"):
        (tmp_path / "precious").write_bytes(b"")
        run(settings, out=tmp_path / "precious" / "x.npz")


def test_checkpoint_that_does_not_fit_its_network_is_found_before_any_file(
    settings, tmp_path, monkeypatch
):
    whole = load_file(settings["model"])
    with safe_open(settings["model"], "pt") as file:
        metadata = file.metadata()
    whole.pop("final_layer.linear.weight")
    broken = tmp_path / "broken" / "broken.safetensors"
    broken.parent.mkdir()
    save_file(whole, broken, metadata=metadata)
    monkeypatch.setattr(job, "open_output", pytest.fail)
    with pytest.raises(CheckpointMismatchError, match=r"missing final_layer\.linear\.weight"):
        run(settings, model=str(broken), num_images=10**12)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_labels_are_balanced_or_go_round_a_list(settings, tmp_path):
    _, labels = read(run(settings, labels="balanced"))
    assert labels.tolist() == [i % 5 for i in range(NUM_IMAGES)]
    _, labels = read(run(settings, labels=(4, 0, 0), out=tmp_path / "list.npz"))
    assert labels.tolist() == [[4, 0, 0][i % 3] for i in range(NUM_IMAGES)]


def test_label_that_is_no_class_is_refused_before_anything_is_written(settings, tmp_path):
    with pytest.raises(SettingError, match="label 5 is none of the 5 classes, 0 to 4"):
        run(settings, labels=(0, 5))
    assert list(tmp_path.iterdir()) == []


def test_image_that_is_nan_is_named_and_the_batches_before_it_are_kept(settings, tmp_path):
    broken = save_tiny(tmp_path / "nan.safetensors", nan_label=3)
    changes = {"model": str(broken), "labels": (0, 1, 2, 3), "batch_size": 2}
    message = r"image 3 has NaN or infinite pixels.*kept in .*samples\.npz\.part"
    with pytest.raises(NonFiniteError, match=message):
        run(settings, **changes)
    assert not settings["out"].exists()
    marks = (tmp_path / "samples.npz.progress").read_bytes().partition(b"\n")[2]
    assert len(marks) == 8 * NUM_IMAGES and marks[16:] == bytes(8 * (NUM_IMAGES - 2))
    assert marks[:8] != bytes(8) != marks[8:16]


def test_no_other_size_is_advised_to_a_run_that_has_images_and_then_no_memory(
    settings, monkeypatch
):
    made, batches = images_of, []

    def full_at_the_second(*arguments, **options):
        for batch in made(*arguments, **options):
            if batches:
                raise NoMemoryError("out of memory for 2 images at once: try --batch-size 1.")
            batches.append(batch)
            yield batch

    monkeypatch.setattr(job, "images_of", full_at_the_second)
    said = "for 2 images at once, the block size of the run: .* --batch-size 1 and another --out"
    with pytest.raises(NoMemoryError, match=said):
        run(settings, batch_size=2)


def test_manifest_holds_every_setting_and_no_path_or_time(settings, checkpoint, tmp_path):
    path = run(settings, guidance_interval=(0.1, 0.6), quantizer="round", labels=(1, 2))
    manifest = read_manifest(path)
    assert manifest["versions"].keys() == {"torch", "numpy", "python"}
    known = {key: manifest[key] for key in manifest.keys() - {"versions", "toolkit", "device"}}
    assert manifest["device"].startswith("cpu (")
    assert known == {
        "format": 1,
        "model": "tiny.safetensors",
        "checkpoint_sha256": load_model(checkpoint).sha256,
        "dataset": "digits",
        "path_type": "linear",
        "solver": "sde",
        "num_steps": 4,
        "cfg_scale": 1.8,
        "guidance_interval": [0.1, 0.6],
        "seed": 0,
        "labels": [1, 2],
        "num_images": NUM_IMAGES,
        "image_size": 8,
        "autoencoder": None,
        "autoencoder_sha256": None,
        "quantizer": "round",
        "batch_size": 7,
        "dtype": "float32",
        "tf32": False,
    }
    first = path.read_bytes()
    assert str(tmp_path).encode() not in first
    assert run(settings, guidance_interval=(0.1, 0.6), quantizer="round", labels=(1, 2),
               out=tmp_path / "again.npz").read_bytes() == first  # fmt: skip


FEW_STEPS = [
    ({"solver": "dpm++"}, {"order": 2}),
    ({"solver": "sa", "order": 3}, {"order": 3}),
    ({"solver": "ab4", "times": "karras"}, {"times": "karras"}),
    (
        {"solver": "dpm++sde", "order": 1, "times": "shifted", "shift": 0.5},
        {"order": 1, "times": "shifted", "shift": 0.5},
    ),
    ({"times": (1.0, 0.7, 0.3, 0.1, 0.0)}, {"times": [1.0, 0.7, 0.3, 0.1, 0.0]}),
    ({"solver": "heun", "times": "uniform"}, {"times": "uniform"}),
]


@pytest.mark.parametrize(("changes", "said"), FEW_STEPS)
def test_manifest_names_order_and_times_where_they_are_not_the_published(settings, changes, said):
    manifest = read_manifest(run(settings, **changes))
    assert {key: manifest[key] for key in ("order", "times", "shift") if key in manifest} == said
    assert generate(SampleConfig(**settings, **changes)).was_finished


def test_times_and_orders_decide_the_images(settings, tmp_path):
    made = [
        read(run(settings, **changes, out=tmp_path / f"{number}.npz"))[0]
        for number, (changes, _) in enumerate([*FEW_STEPS, ({"solver": "heun"}, {})])
    ]
    same = [(i, j) for j, b in enumerate(made) for i, a in enumerate(made[:j]) if (a == b).all()]
    assert same == [(5, 6)]  # Heun's own times are uniform


@pytest.mark.parametrize("solver", ["sa", "ab4"])
def test_interval_of_no_guidance_neither_moves_times_nor_ends_a_history(settings, tmp_path, solver):
    settings |= {"solver": solver, "cfg_scale": 1.0, "num_images": 4, "num_steps": 8}
    inside = read(run(settings, guidance_interval=(0.2, 0.6)))[0]
    everywhere = run(settings, guidance_interval=(0.0, 1.0), out=tmp_path / "other.npz")
    assert np.array_equal(inside, read(everywhere)[0])


def test_sa_is_refused_on_another_path_than_the_linear_one(settings, tmp_path):
    path = save_tiny(tmp_path / "x.safetensors", {"path_type": "cosine"})
    with pytest.raises(SettingError, match=r"linear path; this one's is cosine: use dpm\+\+sde"):
        run(settings, model=str(path), solver="sa")
    assert not settings["out"].exists()


def test_manifest_names_what_was_held_out_of_the_checkpoints_data(settings, tmp_path):
    reference = {"name": "emoji@12345678", "sha256": "0f" * 32, "network": "inception"}
    path = save_tiny(tmp_path / "own.safetensors", {"reference": reference})
    assert read_manifest(run(settings, model=path))["reference"] == reference


def test_manifest_of_an_adaptive_solver_holds_the_batch_size_and_no_steps(settings):
    manifest = read_manifest(run(settings, solver="bosh3"))
    assert (manifest["batch_size"], manifest["num_steps"]) == (7, None)


def test_manifest_holds_the_tolerances_that_an_adaptive_solver_was_given(
    settings, tmp_path, monkeypatch
):
    strict = run(settings, solver="bosh3", num_images=3)
    assert (read_manifest(strict)["rtol"], read_manifest(strict)["atol"]) == (1e-5, 1e-5)
    for module in (integration, writing):
        monkeypatch.setattr(module, "TOLERANCE", 0.4)
    loose = run(settings, solver="bosh3", num_images=3, out=tmp_path / "loose.npz")
    assert (read_manifest(loose)["rtol"], read_manifest(loose)["atol"]) == (0.4, 0.4)
    assert not np.array_equal(read(strict)[0], read(loose)[0])
    fixed = read_manifest(run(settings, out=tmp_path / "fixed.npz"))
    assert not {"rtol", "atol"} & fixed.keys()


def test_progress_rises_at_every_step_up_to_the_number_of_images(settings):
    seen = []
    generate(SampleConfig(**settings), progress=lambda done, total: seen.append((done, total)))
    done = [value for value, _ in seen]
    assert done == sorted(done) and (done[0], done[-1]) == (0, NUM_IMAGES)
    assert {total for _, total in seen} == {NUM_IMAGES}
    # Three batches of four steps, one call after each batch, one at the start.
    assert len(seen) == 3 * 4 + 3 + 1


def test_memory_does_not_grow_with_the_number_of_images(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys.modules["repa.generation.sample_files.sample_file"], "_CHUNK_BYTES", 4096
    )  # smaller than either file

    def peak(num_images):
        tracemalloc.start()
        changes = {"num_steps": 1, "solver": "euler", "cfg_scale": 1.0, "batch_size": 100}
        run(settings, num_images=num_images, out=tmp_path / f"{num_images}.npz", **changes)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(100)  # imports and caches
    small, large = peak(200), peak(3000)  # 40 and 600 kB
    assert large < small + 100_000, (small, large)


def test_latents_need_an_autoencoder_and_pixels_take_none(settings, tmp_path):
    latent = save_tiny(tmp_path / "latent.safetensors", in_channels=4)
    with pytest.raises(SettingError, match=r"latent\.safetensors makes latents: name one"):
        run(settings, model=str(latent))
    with pytest.raises(SettingError, match=r"tiny\.safetensors makes pixels, not latents"):
        run(settings, autoencoder="sd-vae-ft-ema")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_images": 0}, "num_images must be at least 1, got 0"),
        ({"num_steps": 0}, "num_steps must be from 1 to 10000, got 0"),
        ({"num_steps": 10_001}, "num_steps must be from 1 to 10000, got 10001"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, r"seed must be from 0 to 2\*\*63 - 1, got -1"),
        ({"cfg_scale": 0.5}, "cfg_scale must be at least 1, got 0.5"),
        ({"cfg_scale": float("nan")}, "cfg_scale must be at least 1, got nan"),
        ({"cfg_scale": float("inf")}, "cfg_scale must be a finite number, got inf"),
        ({"guidance_interval": (0.7, 0.0)}, "0 <= LOW <= HIGH <= 1, got 0.7,0"),
        ({"guidance_interval": (0.0, 1.1)}, "0 <= LOW <= HIGH <= 1, got 0,1.1"),
        ({"guidance_interval": (float("nan"), 1.0)}, "0 <= LOW <= HIGH <= 1, got nan,1"),
        ({"solver": "heum"}, "unknown solver 'heum'; did you mean 'heun'"),
        ({"quantizer": "truncat"}, "unknown quantizer 'truncat'; did you mean 'truncate'"),
        ({"labels": "balancd"}, "unknown labels 'balancd'; did you mean 'balanced'"),
        ({"labels": ()}, "labels must be one or more classes"),
        ({"labels": (0, -1)}, "labels must be one or more classes"),
    ],
)
def test_setting_out_of_range_is_an_error_that_names_it(changes, message):
    with pytest.raises(SettingError, match=message) as caught:
        SampleConfig(**changes)
    assert caught.value.field == next(iter(changes))
