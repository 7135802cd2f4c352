"""What a person sees of `repa train`: bar, previews, losses and metrics on the way, plots."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
from pictures import class_folders
from tqdm import tqdm

import repa.training.watching.validation as validation
import repa_cli.train as train_command
from repa.data import load_digits


def test_the_bar_keeps_its_length_beside_all_that_is_said_in_120_columns():
    losses = {"loss": "12.345", "align": "-0.999", "grad": "123.456", "img/s": "12345"}
    postfix = "".join(f", {name}={value}" for name, value in losses.items())
    shown = tqdm.format_meter(
        399_999,
        400_000,
        360_000,
        ncols=120,
        prefix="training",
        unit=" steps",
        bar_format=train_command._BAR,
        postfix=postfix.removeprefix(", "),
    )
    assert shown.count("█") + shown.count("▉") >= 18 and shown.endswith("img/s=12345]")
    assert len(shown) <= 120


def test_the_bar_shows_loss_alignment_gradient_norm_and_images_a_second(
    training, tmp_path, monkeypatch
):
    shown, bar = [], train_command.progress_bar

    @contextmanager
    def watched(*arguments, **options):
        with bar(*arguments, **options) as real:
            real.set_postfix = lambda values: shown.append(dict(values))
            yield real

    monkeypatch.setattr(train_command, "progress_bar", watched)
    monkeypatch.setattr(train_command, "_SOON", 0.0)
    code, _, error = training("--steps", 3, "--log-every", 1, "--preview-every", 0)
    assert code == 0, error
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert len(shown) == len(log) == 3
    for values, entry in zip(shown, log, strict=True):
        assert list(values) == ["loss", "align", "grad", "img/s"]
        names = ("loss", "alignment", "gradient_norm")
        assert [values[k] for k in list(values)[:3]] == [f"{entry[name]:.3f}" for name in names]
    assert float(shown[-1]["img/s"]) > 0


def test_a_preview_says_that_it_is_being_drawn(training, monkeypatch):
    told = []

    def bars():
        return lambda name, done, total: told.append((name, done, total))

    monkeypatch.setattr(train_command, "progress_bars", bars)
    assert training("--steps", 2)[0] == 0
    assert {(name, total) for name, _, total in told} == {("preview of step 2", 100)}
    assert told[0][1] == 0 and told[-1][1] == 100
    told.clear()
    assert training("--steps", 2, "--out", "other", "--preview-every", 0)[0] == 0
    assert not told


def test_a_run_is_judged_on_the_way_and_the_log_and_the_plot_show_it(
    training, repa, tmp_path, monkeypatch
):
    monkeypatch.setattr(validation, "NUM_IMAGES", 8)
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    np.savez(tmp_path / "few.npz", load_digits("heldout", 16)[0][:12])
    judged = ("--validate-every", 2, "--eval-every", 4, "--eval-num", 10, "--eval-ref", "few.npz")
    code, _, error = training("--steps", 3, *judged, "--log-every", 1)
    assert code == 0, error
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    held = [entry for entry in log if "held_out" in entry]
    metrics = [entry for entry in log if "metrics" in entry]
    assert [entry["step"] for entry in held] == [2, 3]
    assert [(entry["step"], entry["metrics_of"]) for entry in metrics] == [(3, 10)]
    assert all(entry["processes"] == 1 for entry in log if "loss" in entry)
    code, out, error = repa("plot", "run", "--out", "c.png", "--json")
    assert code == 0, error
    assert json.loads(out)["panels"][:2] == ["velocity loss", "FD-lite0"]
    # What was not done when the run was stopped is done when it goes on, and no more.
    (tmp_path / "run/log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in log[:-1]))
    code, _, error = repa("train", "--out", "run", "--resume", *judged)
    again = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert code == 0 and again == log


@pytest.mark.parametrize(
    ("arguments", "option", "said"),
    [
        (["--validate-every", 2], "--validate-every", "none: prepare the data with"),
        (["--eval-every", 2], "--eval-every", "needs a reference"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_a_run_begins(
    training, tmp_path, arguments, option, said
):
    class_folders(tmp_path / "mine")
    code, out, error = training("--data", "mine", "--steps", 2, *arguments)
    assert code == 2 and not out and error.count("\n") == 1
    assert option in error and said in error
    assert not list(tmp_path.glob("run/*.json"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing", "--out", "c.png"], 1, "nothing holds no run (no such folder)"),
        (["empty", "--out", "c.png"], 1, "empty holds no run (no config.json in it)"),
        (["empty", "--out", "c.jpg"], 2, "--out: the curves are a PNG"),
        (["--out", "c.png"], 2, "'runs'"),
        (["empty"], 2, "--out"),
    ],
)
def test_a_plot_of_what_is_no_run_is_one_line(repa, tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    found, out, error = repa("plot", *arguments)
    assert found == code and not out and error.count("\n") == 1 and said in error
    assert not (tmp_path / "c.png").exists()
