import os
import subprocess
import sys
from pathlib import Path

import pytest
import shared_preparing
from pictures import class_folders
from worlds import run_world

CODE = """
import sys
from pathlib import Path
from repa.data.preparation import PrepareConfig, prepare
from repa.errors import RepaError
from repa_base.processes import joined_processes
source, out = map(Path, sys.argv[1:3])
with joined_processes() as world:
    config = PrepareConfig(source=source, out=out, image_size=16)
    try:
        prepared = prepare(config, processes=world)
        print(prepared.was_finished, prepared.num_made)
    except RepaError as error:
        print(error)
"""


def test_two_processes_share_the_work_and_make_the_same_bytes_also_after_a_kill(tmp_path):
    script = Path(shared_preparing.__file__)
    done = subprocess.run(
        [sys.executable, script, tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    others = {"moments-flipped.npy", "held-out.zip", "held-out-efficientnet-lite0.npz"}
    assert {"images.zip", "moments.npy", *others} <= set(done.stdout.split())


@pytest.mark.parametrize("place", [0, 1])
def test_broken_file_of_one_process_is_an_error_of_all(tmp_path, place):
    source = class_folders(tmp_path / "src")
    (source / "cat" / f"{place}.png").write_bytes(b"no picture")
    results = run_world(2, "-c", CODE, source, Path(tmp_path / "out"))
    for code, out, error in results:
        assert code == 0 and f"{place}.png is not a readable image" in out, error
