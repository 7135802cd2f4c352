from pathlib import Path

import pytest
from pictures import class_folders, content
from worlds import run_world

CODE = """
import sys
from pathlib import Path
from repa.data.preparation import PrepareConfig, prepare
from repa.errors import RepaError
from repa_base.processes import joined_processes
source, out = map(Path, sys.argv[1:3])
with joined_processes() as world:
    config = PrepareConfig(source=source, out=out, image_size=16, batch_size=2, held_out=3)
    try:
        prepared = prepare(config, processes=world)
        print(prepared.was_finished, prepared.num_made)
    except RepaError as error:
        print(error)
"""


def test_two_processes_share_the_work_and_make_the_same_bytes(tmp_path):
    source = class_folders(tmp_path / "src")
    ((code, alone, error),) = run_world(1, "-c", CODE, source, tmp_path / "alone")
    assert code == 0 and alone == "False 15\n", error
    results = run_world(2, "-c", CODE, source, tmp_path / "two")
    assert [code for code, _, _ in results] == [0, 0], results
    assert [out for _, out, _ in results] == ["False 15\n", "False 15\n"]
    assert content(tmp_path / "two") == content(tmp_path / "alone")


@pytest.mark.parametrize("place", [0, 1])
def test_broken_file_of_one_process_is_an_error_of_all(tmp_path, place):
    source = class_folders(tmp_path / "src")
    (source / "cat" / f"{place}.png").write_bytes(b"no picture")
    results = run_world(2, "-c", CODE, source, Path(tmp_path / "out"))
    for code, out, error in results:
        assert code == 0 and f"{place}.png is not a readable image" in out, error
