"""REPA's own random numbers, against a replay of its script's rules that is written here.

The rules, of generate.py and samplers.py at 67f7145: process r of W seeds with seed * W + r; a
batch draws n latents, then n labels, then in float64 the noise of each step of the SDE but the
last; row j of batch i is image i n W + j W + r; there are as many batches as num_images needs, and
images beyond it are dropped.
"""

import json
import math
import signal
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_checkpoint import save_tiny
from tiny_generation import read, run
from worlds import run_world

from repa.autoencoders.pixels import images_from_pixels
from repa.checkpoints import load_model
from repa.errors import OutputExistsError, SettingError
from repa.generation import Protocol, images_of
from repa.generation.job import Job, generate
from repa.generation.sample_files.sample_file import NpzWriter
from repa.generation.sample_files.sample_run import read_manifest
from repa.generation.settings import SampleConfig
from repa_base.processes import Processes

NUM_CLASSES = 50  # so many that labels of another order are seen
SCALE, INTERVAL = 2.5, (0.2, 0.8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    return save_tiny(path, {"dataset": None}, num_classes=NUM_CLASSES)


@pytest.fixture
def settings(checkpoint, tmp_path):
    return {
        "model": str(checkpoint),
        "num_images": 11,
        "num_steps": 3,
        "cfg_scale": SCALE,
        "guidance_interval": INTERVAL,
        "seed": 5,
        "batch_size": 2,
        "rng": "reference",
        "world_size": 2,
        "device": "cpu",
        "out": tmp_path / "samples.npz",
    }


@torch.no_grad()
def velocity_of(model, x, t, labels):
    """The guided velocity in float64, the network's in float32."""

    def asked(labels):
        return model(x.float(), torch.full((len(x),), t).to(x), labels).double()

    if not INTERVAL[0] <= t <= INTERVAL[1]:
        return asked(labels)
    null = asked(torch.full_like(labels, NUM_CLASSES))
    return null + SCALE * (asked(labels) - null)


def solve(model, x, labels, solver, num_steps):
    """Euler, or Euler-Maruyama whose every step draws from PyTorch's global generator."""
    x = x.double()
    if solver == "euler":
        times = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64).tolist()
        for t, t_next in pairwise(times):
            x = x + (t_next - t) * velocity_of(model, x, t, labels)
        return x
    times = [*torch.linspace(1, 0.04, num_steps, dtype=torch.float64).tolist(), 0.0]
    for t, t_next in pairwise(times):
        velocity = velocity_of(model, x, t, labels)
        drift = velocity + x + (1 - t) * velocity  # -t times the score of the linear path
        noise = torch.randn_like(x) * math.sqrt(2 * t * (t - t_next)) if t_next else 0
        x = x + (t_next - t) * drift + noise
    return x


def replay(checkpoint, settings):
    """What the script would write on a CPU: images and labels of images 0 to num_images - 1."""
    model = load_model(checkpoint).model
    world, size, count = (settings[n] for n in ("world_size", "batch_size", "num_images"))
    batches = math.ceil(count / (size * world))
    images = np.zeros((batches * size * world, 8, 8, 3), np.uint8)
    labels = np.zeros(len(images), np.int64)
    solver = settings.get("solver", "sde")
    before = torch.get_rng_state()
    for rank in range(world):
        torch.manual_seed(settings["seed"] * world + rank)
        for batch in range(batches):
            x = torch.randn(size, 3, 8, 8)
            y = torch.randint(0, NUM_CLASSES, (size,))
            x = solve(model, x, y, solver, settings["num_steps"]).float()
            for row in range(size):
                index = batch * size * world + row * world + rank
                images[index], labels[index] = images_from_pixels(x)[row].numpy(), y[row]
    torch.set_rng_state(before)
    return images[:count], labels[:count]


def assert_same(found, expected):
    assert found[1].tolist() == expected[1].tolist()
    difference = np.abs(found[0].astype(int) - expected[0])
    # The replay rounds otherwise in float64, so that a value on the edge falls to the other side.
    assert difference.max() <= 1 and (difference == 0).mean() > 0.99


@pytest.mark.parametrize(
    ("world", "size", "count", "solver", "steps"),
    [
        (1, 4, 10, "sde", 3),  # the tail of the only process is dropped
        (2, 2, 11, "sde", 4),
        (3, 2, 13, "sde", 2),  # the last batches of two processes have no image left
        (4, 3, 7, "euler", 3),  # some processes have an image fewer than others
        (2, 3, 12, "euler", 2),
        (2, 2, 8, "sde", 1),  # no noise at all after the start
    ],
)
def test_images_are_those_of_a_replay_of_the_references_rules(
    settings, checkpoint, world, size, count, solver, steps
):
    sizes = {"world_size": world, "batch_size": size, "num_images": count}
    settings |= {**sizes, "solver": solver, "num_steps": steps}
    assert_same(read(run(settings)), replay(checkpoint, settings))


def test_heun_begins_from_the_noise_and_labels_of_euler(settings, checkpoint):
    ours = read(run(settings, solver="heun", num_steps=1))  # whose one step is Euler's
    assert_same(ours, replay(checkpoint, {**settings, "solver": "euler", "num_steps": 1}))
    more = read(run(settings, solver="heun", num_steps=2, overwrite=True))
    assert more[1].tolist() == ours[1].tolist()


def test_images_of_some_indices_are_those_of_the_whole_run(settings, checkpoint):
    images, labels = read(run(settings))
    names = ("num_steps", "cfg_scale", "guidance_interval", "seed", "batch_size", "rng")
    protocol = Protocol(**{name: settings[name] for name in (*names, "world_size")})
    made = list(images_of(load_model(checkpoint), [9, 2, 4, 10], protocol))
    # Batches of two processes: images 0 2, 1 3, 4 6, 5 7, 8 10, 9 11.
    assert [tuple(batch.indices) for batch in made] == [(2,), (4,), (10,), (9,)]
    for batch in made:
        assert np.array_equal(batch.images, images[list(batch.indices)])
        assert np.array_equal(batch.labels, labels[list(batch.indices)])


KILLED_RUN = """
import json, os, signal, sys
from pathlib import Path
from repa.generation.job import generate
from repa.generation.settings import SampleConfig

def kill(done, total):
    if done > 5:
        os.kill(os.getpid(), signal.SIGKILL)

settings = json.loads(sys.argv[1])
generate(SampleConfig(**{**settings, "out": Path(settings["out"])}), progress=kill)
"""


def as_json(settings):
    return json.dumps({**settings, "out": str(settings["out"])})


def test_killed_run_goes_on_and_ends_with_the_bytes_of_an_uninterrupted_one(settings, tmp_path):
    expected = run(settings, out=tmp_path / "whole.npz").read_bytes()
    arguments = [sys.executable, "-c", KILLED_RUN, as_json(settings)]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
    done = []
    generate(SampleConfig(**settings), progress=lambda made, total: done.append((made, total)))
    # Two batches of two processes were done, images 0 to 3; the third was in work.
    assert done[0] == (4, 11) and done[-1] == (11, 11)
    assert [made for made, _ in done] == sorted(made for made, _ in done)
    assert settings["out"].read_bytes() == expected


def interrupted(settings, enough, **changes):
    def interrupt(done, total):
        if done >= enough:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(SampleConfig(**{**settings, **changes}), progress=interrupt)


@pytest.mark.parametrize(("enough", "solver"), [(2, "sde"), (8, "sde"), (10, "euler")])
def test_a_run_that_is_interrupted_anywhere_ends_with_the_same_bytes(
    settings, tmp_path, enough, solver
):
    settings |= {"solver": solver}
    expected = run(settings, out=tmp_path / "whole.npz").read_bytes()
    interrupted(settings, enough)
    assert run(settings).read_bytes() == expected


def test_a_shorter_file_is_extended_to_that_of_a_run_of_the_whole_length(settings, tmp_path):
    expected = run(settings, num_images=21, out=tmp_path / "whole.npz").read_bytes()
    run(settings)
    assert run(settings, num_images=21).read_bytes() == expected
    interrupted({**settings, "out": tmp_path / "third.npz"}, 6)
    assert run(settings, num_images=21, out=tmp_path / "third.npz").read_bytes() == expected


def test_image_that_the_disk_lost_is_made_again(settings, tmp_path, monkeypatch):
    expected = run(settings, out=tmp_path / "whole.npz").read_bytes()
    finish, left = NpzWriter.finish, [None]

    def spoil(writer):
        if left:
            left.pop()
            with writer.path.with_name("samples.npz.part").open("r+b") as part:
                part.seek(writer.run.members[0].data_offset + 7 * 192)
                part.write(bytes(100))
        return finish(writer)

    monkeypatch.setattr(NpzWriter, "finish", spoil)
    done = []
    generate(SampleConfig(**settings), progress=lambda made, total: done.append(made))
    assert not left and settings["out"].read_bytes() == expected
    # Images 5 and 7 alone, those of a batch, were made again.
    assert [after for before, after in pairwise(done) if after < before] == [9]


RANK = """
import json, sys
from pathlib import Path
from repa.generation.job import generate
from repa.generation.settings import SampleConfig
from repa_base.processes import joined_processes

settings, *shares = sys.argv[1:]
settings = json.loads(settings)
totals = set()
with joined_processes() as processes:
    generate(SampleConfig(**{**settings, "out": Path(settings["out"])}), processes=processes,
             progress=lambda done, total: totals.add(total))
assert totals == {int(shares[processes.rank])}
"""


def test_two_processes_share_the_references_three_and_give_the_bytes_of_one(settings, tmp_path):
    settings |= {"world_size": 3}
    expected = run(settings, out=tmp_path / "one.npz").read_bytes()
    interrupted(settings, 4)
    # Of the reference's processes, 0 and 2 are the first one's here: images 0 3, 2 5, 6 9, 8.
    assert run_world(2, "-c", RANK, as_json(settings), 7, 4) == [(0, "", "")] * 2
    assert settings["out"].read_bytes() == expected


def test_more_processes_than_the_references_are_refused(settings):
    with pytest.raises(SettingError, match="start at most 2 processes here, not 3") as caught:
        Job.plan(SampleConfig(**settings), Processes(rank=2, size=3))
    assert caught.value.field == "world_size"


def test_batch_size_decides_the_images_and_so_belongs_to_the_settings(settings, tmp_path):
    images, _ = read(run(settings))
    with pytest.raises(OutputExistsError, match=r"rank_batch_size 2 there, 3 here"):
        run(settings, batch_size=3)
    others, _ = read(run(settings, batch_size=3, out=tmp_path / "three.npz"))
    assert not np.array_equal(images, others)
    interrupted({**settings, "out": tmp_path / "four.npz"}, 2)
    with pytest.raises(OutputExistsError, match=r"world_size 2 there, 1 here"):
        run(settings, world_size=1, out=tmp_path / "four.npz")


def test_manifest_names_whose_random_numbers_they_are_and_where_they_were_drawn(settings, tmp_path):
    manifest = read_manifest(run(settings))
    names = ("rng", "world_size", "rank_batch_size", "rng_device")
    assert [manifest[name] for name in names] == ["reference", 2, 2, "cpu"]
    ours = run(settings, rng="image", world_size=None, out=tmp_path / "ours.npz")
    assert not set(names) & read_manifest(ours).keys()


def test_a_run_on_a_cpu_says_that_it_is_none_of_those_published(settings):
    notes = []
    generate(SampleConfig(**settings), on_note=notes.append)
    assert len(notes) == 1 and "no published run" in notes[0] and "GPU" in notes[0]
    notes.clear()
    image = {**settings, "rng": "image", "world_size": None, "overwrite": True}
    generate(SampleConfig(**image), on_note=notes.append)
    assert not notes


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"world_size": None}, "world_size", "must be said with rng reference: how many processes"),
        ({"rng": "image"}, "world_size", "world_size is of rng reference alone"),
        ({"rng": "ours"}, "rng", "unknown rng 'ours' .known: image, reference"),
        ({"world_size": 0}, "world_size", "must be a whole number from 1, got 0"),
        ({"world_size": 2.0}, "world_size", "must be a whole number from 1, got 2.0"),
        ({"labels": "balanced"}, "labels", "labels must be random with rng reference"),
        ({"labels": (1, 2)}, "labels", "labels must be random with rng reference"),
        ({"solver": "dopri5"}, "solver", "one of sde, euler, heun with rng reference"),
        ({"solver": "ddpm"}, "solver", "one of sde, euler, heun with rng reference"),
        ({"times": "uniform"}, "times", "must be the published ones with rng reference"),
        ({"seed": 1 << 62, "world_size": 5}, "seed", r"must be below 2\*\*64"),
    ],
)
def test_settings_that_contradict_it_are_refused(settings, changes, field, message):
    with pytest.raises(SettingError, match=message) as caught:
        SampleConfig(**{**settings, **changes})
    assert caught.value.field == field


def test_the_largest_seed_is_drawn_with(settings):
    settings |= {"seed": (1 << 62) - 1, "world_size": 4, "num_images": 4, "num_steps": 1}
    assert len(np.unique(read(run(settings))[0].reshape(4, -1), axis=0)) == 4


@pytest.mark.gpu
def test_on_a_gpu_the_numbers_are_those_of_its_global_generator(settings, checkpoint):
    device = torch.device("cuda")
    model = load_model(checkpoint, device)
    names = ("cfg_scale", "guidance_interval", "seed", "batch_size", "rng", "world_size")
    protocol = Protocol(num_steps=2, solver="sde", **{n: settings[n] for n in names})
    made = {tuple(b.indices): b for b in images_of(model, range(8), protocol)}
    torch.manual_seed(settings["seed"] * 2 + 1)
    for indices in ((1, 3), (5, 7)):
        x = torch.randn(2, 3, 8, 8, device=device)
        y = torch.randint(0, NUM_CLASSES, (2,), device=device)
        x = solve(model.model, x, y, "sde", 2).float()
        difference = made[indices].images.astype(int) - images_from_pixels(x).cpu().numpy()
        assert made[indices].labels.tolist() == y.tolist() and np.abs(difference).max() <= 1
