"""Prepare by several processes at once, with a kill of all of them, and by one alone.

`python shared_preparing.py FOLDER` makes up pictures and prepares them with moments of both sides
and a held-out reference: by one process; by two, which die as by SIGKILL when each has marked some
rows; and by two that go on. Both ends must be the same bytes, and the second run must have made
what the kill left. Imports are done once, and every process is a fork.
"""

import importlib
import os
import signal
import sys
from pathlib import Path

from pictures import class_folders, content
from tiny_autoencoder import save_tiny_autoencoder
from worlds import exit_codes, fork_world

from repa.data.preparation import PrepareConfig, pipeline, prepare
from repa.data.preparation.set_writer import SetWriter
from repa.evaluation import Measuring, reference_maker
from repa_base.processes import joined_processes

EACH = 4  # rows that a killed process has marked


def forked(size, work, *arguments):
    """Do the work in so many processes that find each other; return their exit codes."""
    return exit_codes(fork_world(size, work, *arguments))


def preparing(config, num_made):
    """Prepare, with a reference; the rows that are made are so many."""
    with joined_processes() as world:
        make = reference_maker(Measuring(network="efficientnet-lite0", processes=world))
        prepared = prepare(config, processes=world, make_reference=make)
        assert (prepared.was_finished, prepared.num_made) == (False, num_made), prepared


def dying(config):
    """Prepare until some rows are marked."""
    whole, marked = SetWriter.mark, []

    def mark(writer, rows):
        whole(writer, rows)
        marked.extend(rows)
        if len(marked) >= EACH:
            os.kill(os.getpid(), signal.SIGKILL)

    SetWriter.mark = mark
    preparing(config, 0)


def main(folder):
    pipeline._SECONDS_TO_MARK = 0  # every block
    os.environ["REPA_CACHE"] = str(folder / "cache")
    source = class_folders(folder / "src")
    assert forked(1, save_tiny_autoencoder, folder / "vae") == [0]
    made = {"image_size": 16, "autoencoder": str(folder / "vae"), "flip": True, "held_out": 3}
    made |= {"source": source, "batch_size": 2, "num_threads": 1}
    alone, shared = (PrepareConfig(out=folder / name, **made) for name in ("alone", "shared"))
    assert forked(1, preparing, alone, 15) == [0]
    assert forked(2, dying, shared) == [-signal.SIGKILL] * 2
    assert forked(2, preparing, shared, 15 - 2 * EACH) == [0, 0]
    expected, found = content(alone.out), content(shared.out)
    assert set(found) == set(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    sys.stdout.write(" ".join(expected))


if __name__ == "__main__":
    importlib.import_module("diffusers.models.autoencoders.autoencoder_kl")  # once, and no threads
    main(Path(sys.argv[1]))
