import subprocess
import sys
from pathlib import Path

import killed_preparing
import pytest


def kill(folder, numbers):
    script = Path(killed_preparing.__file__)
    done = subprocess.run(
        [sys.executable, script, folder, numbers], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


def test_preparation_that_is_killed_three_times_ends_with_the_same_bytes(tmp_path):
    assert kill(tmp_path, "30,70,110") == 3


@pytest.mark.slow
def test_preparation_may_be_killed_before_any_call(tmp_path):
    assert kill(tmp_path, "1") > 50
