"""Memory that does not suffice: where a run ends with a line, and where it goes on with a note."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny_run import QUIET, TINY

import repa.training.planning.dry_run as planning
import repa.training.previews as previews
import repa.training.step as step_module
from repa.errors import NoMemoryError
from repa.models import SiT
from repa.training.batch import Share
from repa.training.loop import train
from repa.training.planning.dry_run import dry_run
from repa.training.run.state import TrainState
from repa.training.step import less_memory
from repa.training.watching.regular import _noted
from repa.training.watching.validation import Validation
from repa_base.processes import Processes

ON_A_CPU = "[enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate memory: you"
ERRORS = [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(ON_A_CPU), MemoryError()]


def failing(error):
    def fail(*arguments, **options):
        raise error

    return fail


@pytest.mark.parametrize("error", ERRORS)
def test_a_step_that_does_not_fit_ends_the_run_with_what_would_help(tmp_path, monkeypatch, error):
    monkeypatch.setattr(step_module, "losses_of", failing(error))
    with pytest.raises(NoMemoryError) as caught:
        train(replace(TINY, accumulate=2), tmp_path, reporting=QUIET)
    assert str(caught.value) == (
        "out of memory in a step: try --accumulate 4 (same batch, in more parts), or --recompute, "
        "or --precision bf16, or more processes, each on a GPU or machine of its own; then "
        "--resume."
    )


@pytest.mark.parametrize(
    ("batch_size", "parts", "processes", "accumulate"),
    [(12, 1, 1, 2), (12, 2, 1, 3), (12, 4, 1, 6), (12, 1, 4, 3), (7, 1, 1, 7), (12, 3, 4, None)],
)
def test_only_parts_that_divide_the_batch_are_advised(batch_size, parts, processes, accumulate):
    share = Share(batch_size, parts, Processes(size=processes))
    said = less_memory(replace(TINY, batch_size=batch_size, accumulate=parts), share)
    assert said.startswith(f"--accumulate {accumulate} (" if accumulate else "--recompute")
    assert said.endswith("machine of its own") == (accumulate is not None)
    if accumulate:
        Share(batch_size, accumulate, Processes(size=processes))


def test_where_no_setting_helps_another_run_of_a_smaller_network_is_advised(tmp_path, monkeypatch):
    config = replace(TINY, batch_size=1, recompute=True, precision="bf16")
    monkeypatch.setattr(step_module, "losses_of", failing(MemoryError()))
    with pytest.raises(NoMemoryError) as caught:
        train(config, tmp_path / "run", reporting=QUIET)
    said = "out of memory in a step: start another run (--out) with a smaller --model or --preset."
    assert str(caught.value) == said
    monkeypatch.setattr(planning, "measured_timing", failing(MemoryError()))
    plan = dry_run(config, tmp_path / "other")
    assert plan.unmeasured == "out of memory in a step: try a smaller --model or --preset"


@pytest.mark.parametrize("error", ERRORS)
def test_a_state_that_does_not_fit_is_one_line(tmp_path, monkeypatch, error):
    monkeypatch.setattr(TrainState, "create", failing(error))
    said = "^out of memory in this run: repa train --dry-run with the same settings, and with --res"
    with pytest.raises(NoMemoryError, match=said):
        train(TINY, tmp_path, reporting=QUIET)


@pytest.mark.parametrize("error", ERRORS)
def test_previews_and_held_out_losses_that_do_not_fit_are_noted_and_the_run_goes_on(
    tmp_path, monkeypatch, error
):
    notes = []
    monkeypatch.setattr(previews, "_ROWS", 1)
    monkeypatch.setattr(Validation, "loss", failing(error))
    monkeypatch.setattr(SiT, "forward", guarded(SiT.forward, error))
    reporting = replace(QUIET, preview_every=3, validate_every=3, on_note=notes.append)
    assert train(TINY, tmp_path, reporting=reporting).name == "step-0000006"
    assert [note for note in notes if note.startswith("no ")] == [
        f"no {what}"
        for step in (3, 6)
        for what in (
            f"held-out loss of step {step}: out of memory beside what the steps need.",
            f"preview of step {step}: out of memory beside the run; --preview-every 0 leaves "
            "previews out.",
        )
    ]
    again = replace(TINY, num_steps=7)
    assert train(again, tmp_path, resume=True, reporting=reporting).name == "step-0000007"


def test_an_evaluation_that_does_not_fit_names_no_batch_size():
    notes = []

    def work(state, is_stopped):
        raise NoMemoryError("out of memory for 6 images at once: try a batch size of 3.")

    assert _noted("evaluation", work, notes.append)(SimpleNamespace(step=3), bool) == {}
    assert notes == ["no evaluation of step 3: out of memory beside what the steps need."]


def guarded(forward, error):
    """Let a network fail on the ten images of a preview, plain or guided, and on no others."""

    def call(self, x, *arguments, **options):
        if len(x) in (10, 20):
            raise error
        return forward(self, x, *arguments, **options)

    return call


@pytest.mark.parametrize("error", ERRORS)
def test_a_dry_run_says_what_of_the_settings_asked_for_would_help(tmp_path, monkeypatch, error):
    monkeypatch.setattr(planning, "measured_timing", failing(error))
    plan = dry_run(replace(TINY, accumulate=2, recompute=True), tmp_path)
    assert plan.timing is None and plan.unmeasured == (
        "out of memory in a step: try --accumulate 4 (same batch, in more parts), or --precision "
        "bf16, or more processes, each on a GPU or machine of its own"
    )
