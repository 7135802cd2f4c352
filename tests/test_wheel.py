import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*build, str(ROOT)], capture_output=True, text=True, check=False, cwd=out)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


def test_wheel_holds_the_packages_and_the_files_they_read(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    read = {"checkpoints.json", "weights/digits.safetensors", "evaluation/recorded/self_test.npz"}
    assert {f"repa/{name}" for name in read} <= names
    tops = {name.split("/")[0] for name in names if "dist-info" not in name}
    assert tops == {"repa", "repa_base", "repa_cli", "samplers", "metrics"}


def test_installed_wheel_samples_digits_from_another_folder(wheel, tmp_path):
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(target), str(wheel)], check=True)
    # Site packages still hold the dependencies; the project itself must come from the target.
    command = [sys.executable, str(target / "bin" / "repa"), "sample", "--model", "digits"]
    done = subprocess.run(
        [*command, "--num", "16", "--steps", "2", "--out", "d.npz", "--json"],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(target)},
    )
    assert done.returncode == 0, done.stderr
    with np.load(elsewhere / "d.npz") as file:
        assert file["arr_0"].shape == (16, 32, 32, 3)
        assert json.loads(str(file["manifest"]))["model"] == "digits"
    where = subprocess.run(
        [sys.executable, "-c", "import repa; print(repa.__file__)"],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(target)},
    )
    assert where.stdout.startswith(str(target))
