"""Kill a process before each of its calls that change a file, one call after the other.

`python killed_anywhere.py FOLDER STEP` forks a process for every STEP-th call of a made-up sampling
run, lets it die there at once, as by SIGKILL, and finishes the run; so for each of the scenarios.
It writes how many kills there were; whatever is lost or different is an AssertionError.
"""

import os
import shutil
import sys
from itertools import count
from pathlib import Path

from sample_files import OTHER, beside, finish, made_up, open_writer

LONG = {"num_images": 9}
CALLS = ("open", "pwrite", "ftruncate", "posix_fallocate", "unlink", "rename", "replace", "mkdir")
CALLS += ("rmdir", "chmod", "fsync")


def begin(path, **changes):
    with open_writer(path, **changes) as writer:
        writer.write(1, *(rows[1:4] for rows in made_up(writer.run.num_images)))


def leave_marks_only(path):
    begin(path)
    beside(path, "part").unlink()


def damage(path):
    """Leave a run that has all its images, of which the disk has lost two."""
    with open_writer(path) as writer:
        writer.write(0, *made_up())
        offset = writer.run.members[0].data_offset
    with beside(path, "part").open("r+b") as part:
        part.seek(offset + 2 * 48 + 40)
        part.write(bytes(16))


SCENARIOS = {
    "fresh": (lambda path: None, {}),
    "continued": (begin, {}),
    "without a part": (leave_marks_only, {}),
    "damaged": (damage, {}),
    "replacing an unfinished one": (begin, {**OTHER, "overwrite": True}),
    "replacing a finished one": (finish, {**OTHER, "overwrite": True}),
    "extending a finished one": (finish, LONG),
    "extending an unfinished one": (begin, LONG),
}
"""What is there before the run, and the settings of the run."""


def die_before(number, torn):
    """Let this process die before its call of this number; a torn write is half done."""
    calls = count(1)

    def dying(call, name):
        def wrapped(*arguments, **options):
            if next(calls) == number:
                if torn and name == "pwrite":
                    descriptor, content, offset = arguments
                    call(descriptor, bytes(content)[: len(content) // 2], offset)
                os._exit(9)
            return call(*arguments, **options)

        return wrapped

    for name in CALLS:
        setattr(os, name, dying(getattr(os, name), name))


def kill_everywhere(folder, step, prepare, changes):
    """Return how many times a run was killed."""
    path = folder / "here" / "samples.npz"
    shutil.rmtree(folder / "whole", ignore_errors=True)
    expected = finish(folder / "whole" / "samples.npz", **changes)
    for kills, number in enumerate(count(1, step)):
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        prepare(path)
        before = path.read_bytes() if path.exists() else None
        if (child := os.fork()) == 0:
            die_before(number, torn=number % 2)
            finish(path, **changes)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        now = path.read_bytes() if path.exists() else None
        assert now in (before, expected), f"call {number}: the finished file is lost"
        assert finish(path, **changes) == expected, f"call {number}: another end"
        left = sorted(file.name for file in path.parent.iterdir())
        assert left == ["samples.npz"], f"call {number} leaves {left}"
        if status == 0:
            return kills


if __name__ == "__main__":
    os.fsync = lambda descriptor: None  # nobody pulls the plug here
    for name, scenario in SCENARIOS.items():
        kills = kill_everywhere(Path(sys.argv[1]), int(sys.argv[2]), *scenario)
        sys.stdout.write(f"{kills} {name}\n")
