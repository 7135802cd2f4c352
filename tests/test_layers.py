import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "samplers": set(),
    "metrics": set(),
    "repa": {"metrics", "samplers"},
    "repa_cli": {"repa", "metrics", "samplers"},
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_downwards_only(package):
    files = sorted((ROOT / package).glob("*.py"))
    assert files
    for path in files:
        forbidden = set(ALLOWED) - ALLOWED[package] - {package}
        assert not forbidden & set(imported(path)), path


def test_packages_have_no_drawers_for_odds_and_ends():
    names = {path.stem for package in ALLOWED for path in (ROOT / package).glob("*.py")}
    assert not names & {"utils", "common", "helpers", "misc"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *([name, "--help"] for name in ("sample", "fid", "stats", "cache", "train", "export")),
    ],
)
def test_help_answers_without_torch(arguments):
    code = (
        "import sys; from repa_cli.app import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert not {'torch', 'numpy', 'PIL'} & set(sys.modules), sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
