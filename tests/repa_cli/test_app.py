"""What all commands share: empty values, completion in a shell."""

import os
import subprocess
import sys

import pytest
import torch

from repa_cli.app import main


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("fid", ""), "an argument"),
        (("fid", "x.npz", "--ref", ""), "--ref"),
        (("stats", "x", "--out="), "--out"),
        (("train", "--out", ""), "--out"),
        (("export", "digits", ""), "an argument"),
    ],
)
def test_empty_value_is_a_mistyped_one_and_no_path(repa, tmp_path, monkeypatch, arguments, option):
    monkeypatch.chdir(tmp_path)
    code, out, err = repa(*arguments)
    assert (code, out, err) == (2, "", f"repa: error: Invalid value for {option}: is empty.\n")
    assert not list(tmp_path.iterdir())


def shell(code, **environment):
    """Run `repa` as a shell does for its completion."""
    command = "import sys; sys.argv[0] = 'repa'\nfrom repa_cli.__main__ import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", command, *code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.stderr == "", done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["bash", "zsh"])
def test_shells_get_a_script_that_asks_the_command(kind):
    script = shell([], _REPA_COMPLETE=f"source_{kind}")
    assert "_REPA_COMPLETE=complete_" + kind in script and "repa" in script
    if subprocess.run(["which", kind], capture_output=True, check=False).returncode == 0:
        subprocess.run([kind, "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("repa sa", ["sample"]),
        ("repa sample --solver he", ["heun", "heun2", "heun3"]),
        ("repa sample --labels b", ["balanced"]),
        ("repa sample --inter", ["--interval"]),
    ],
)
def test_shell_is_offered_commands_options_and_names(typed, offered):
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    assert shell([], _REPA_COMPLETE="complete_bash", **words).split() == offered


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_memory_that_ends_wherever_nobody_looked_is_one_line(repa, monkeypatch, error):
    def full(*_arguments, **_options):
        raise error

    monkeypatch.setattr("repa.checkpoints.export.export_weights", full)
    code, out, err = repa("export", "digits", "small.safetensors")
    said = "out of memory: end what else is in it, or compute on a device that has more."
    assert (code, out, err.splitlines()[-1]) == (1, "", f"repa: error: {said}")


def test_what_else_is_raised_keeps_its_traceback(monkeypatch):
    def broken(*_arguments, **_options):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("repa.checkpoints.export.export_weights", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["export", "digits", "small.safetensors"])
