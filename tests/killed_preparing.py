"""Kill a preparation before some of its calls that change a file.

`python killed_preparing.py FOLDER LIST|STEP` prepares made-up pictures with moments. With a LIST of
numbers, such as 9,30,60, it starts a preparation for each of them, which dies at once before its
call of that number, as by SIGKILL, and then finishes it. With a STEP it does so for one kill a
preparation, before every STEP-th call until there are no more. Every end must be the same bytes,
and nothing unfinished may count as prepared. It writes how many kills there were.
"""

import importlib
import os
import shutil
import sys
from itertools import count
from pathlib import Path

from pictures import class_folders, content
from tiny_autoencoder import save_tiny_autoencoder
from worlds import exit_codes, fork_world

from repa.data import open_prepared
from repa.data.preparation import PrepareConfig, pipeline, prepare
from repa.errors import DataError

CALLS = ("open", "pwrite", "ftruncate", "posix_fallocate", "unlink", "rename", "replace", "mkdir")
CALLS += ("fsync",)
DIED = 9


def die_before(number):
    """Let this process die before its call of this number; half of the writes are half done."""
    calls = count(1)

    def dying(call, name):
        def wrapped(*arguments, **options):
            if next(calls) == number:
                if number % 2 and name == "pwrite":
                    descriptor, written, offset = arguments
                    call(descriptor, bytes(written)[: len(written) // 2], offset)
                os._exit(DIED)
            return call(*arguments, **options)

        return wrapped

    for name in CALLS:
        setattr(os, name, dying(getattr(os, name), name))


def apart(work, *arguments):
    """Do the work in a process of its own, alone, and return its exit code."""
    (code,) = exit_codes(fork_world(1, work, *arguments))
    return code


def prepared(config):
    """Prepare to the end."""
    assert apart(prepare, config) == 0


def killed(config, number):
    """Return whether a preparation died before a call of this number."""

    def dying():
        die_before(number)
        prepare(config)

    code = apart(dying)
    assert code in (0, DIED), code
    return code == DIED


def check_left(out, expected):
    """What a kill left is whole, or no prepared set."""
    try:
        open_prepared(out)
    except DataError:
        return
    for name, data in expected.items():
        assert (out / name).read_bytes() == data, name


def main(folder, numbers):
    pipeline._SECONDS_TO_MARK = 0  # every block
    source, out = class_folders(folder / "src"), folder / "out"
    assert apart(save_tiny_autoencoder, folder / "vae") == 0
    made = {"image_size": 16, "autoencoder": str(folder / "vae"), "flip": True, "held_out": 3}
    config = PrepareConfig(source=source, out=out, batch_size=2, num_threads=2, **made)
    prepared(config)
    expected, kills = content(out), 0
    shutil.rmtree(out)
    together = "," in numbers
    for number in map(int, numbers.split(",")) if together else count(1, int(numbers)):
        died = killed(config, number)
        kills += died
        check_left(out, expected)
        if not together:
            prepared(config)
            assert content(out) == expected, f"call {number}: another end"
            shutil.rmtree(out)
            if not died:
                break
    if together:
        prepared(config)
        assert content(out) == expected, f"calls {numbers}: another end"
    sys.stdout.write(f"{kills}\n")


if __name__ == "__main__":
    importlib.import_module("diffusers.models.autoencoders.autoencoder_kl")  # once, and no threads
    os.fsync = lambda descriptor: None  # nobody pulls the plug here
    main(Path(sys.argv[1]), sys.argv[2])
