import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "repa_base": (),
    "samplers": (),
    "metrics": ("repa_base",),
    "repa": ("samplers", "metrics", "repa_base"),
    "repa_cli": ("repa", "samplers", "metrics", "repa_base"),
}
"""What each package may import of ours."""

_METRICS_GROUND = ("errors", "settings")
_REPA_ORDER = (
    "errors",
    "tensor_file",
    "registry",
    "sheets",
    "models",
    "autoencoders",
    "encoders",
    "data",
)
_REPA_ORDER += ("checkpoints", "generation", "inspection", "evaluation", "training")
ROOMS = {
    "metrics": {
        "errors": (),
        "settings": (),
        "images": _METRICS_GROUND,
        "networks": _METRICS_GROUND,
        "formulas": _METRICS_GROUND,
        "extraction": (*_METRICS_GROUND, "images", "networks", "formulas"),
        "report": (*_METRICS_GROUND, "images", "networks", "formulas", "extraction"),
    },
    "repa": {room: _REPA_ORDER[:place] for place, room in enumerate(_REPA_ORDER)},
}
"""What each room, or file outside the rooms, may import of its own package."""


def modules(package, root=ROOT):
    """Every file of a package by its dotted name, however deep."""
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(path, module):
    """The dotted names that a file imports, anywhere in it, relative ones made whole."""
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            name = ".".join([*(base if node.level else []), *filter(None, [node.module])])
            # `from repa import training` names a room, `from repa import SiT` does not.
            yield from (f"{name}.{alias.name}" for alias in node.names)


def violations(root=ROOT):
    """Every import that points upwards or sideways, as "module imports name"."""
    found = []
    for package, allowed in PACKAGES.items():
        for module, path in modules(package, root):
            for name in imported(path, module):
                top, _, rest = name.partition(".")
                if top in PACKAGES and top not in (package, *allowed):
                    found.append(f"{module} imports {name}")
                own, room = module.split(".")[1:2], rest.split(".")[0]
                rooms = ROOMS.get(package)
                if top != package or rooms is None or not own or room not in rooms:
                    continue
                if room not in (*own, *rooms[own[0]]):
                    found.append(f"{module} imports {name}")
    return found


def test_imports_point_downwards_only():
    assert not violations()


@pytest.mark.parametrize(
    ("file", "line", "caught"),
    [
        ("repa/checkpoints/dialects/ours.py", "import repa.training.loop", True),
        ("repa/checkpoints/dialects/ours.py", "from repa.training import loop", True),
        ("repa/checkpoints/dialects/ours.py", "from repa import training", True),
        ("repa/checkpoints/dialects/ours.py", "from ...training import loop", True),
        ("repa/checkpoints/dialects/ours.py", "def late():\n    from repa import training", True),
        ("repa/checkpoints/dialects/ours.py", "from repa.models import SiT", False),
        ("metrics/formulas/new.py", "from metrics.images import ArrayImages", True),
        ("metrics/images/new.py", "from metrics.networks import network", True),
        ("metrics/report/new.py", "from metrics.images import ArrayImages", False),
        ("metrics/images/new.py", "from repa.errors import RepaError", True),
        ("samplers/new.py", "import repa_base", True),
        ("repa_base/deep/new.py", "import metrics", True),
        ("repa/training/new.py", "import repa_cli.app", True),
    ],
)
def test_the_check_of_imports_sees_what_it_should(tmp_path, file, line, caught):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert bool(violations(tmp_path)) == caught


def test_every_file_is_in_a_known_room():
    for package, rooms in ROOMS.items():
        found = {module.split(".")[1] for module, _ in modules(package) if "." in module}
        assert found <= set(rooms), package


def test_rooms_are_small_and_say_what_they_are_for():
    for package in PACKAGES:
        folders = {path.parent for _, path in modules(package)}
        for folder in folders:
            assert (folder / "__init__.py").exists(), folder
            docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
            assert docstring, folder
            files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
            assert len(files) <= 12, folder


def test_packages_have_no_drawers_for_odds_and_ends():
    names = {path.stem for package in PACKAGES for _, path in modules(package)}
    assert not names & {"utils", "common", "helpers", "misc"}


def test_tests_stand_in_the_room_that_they_test():
    for path in (ROOT / "tests").rglob("test_*.py"):
        folder = path.parent.relative_to(ROOT / "tests")
        assert (ROOT / folder).is_dir(), path


def test_packaged_files_are_found_without_the_path_of_a_module():
    for package in PACKAGES:
        for module, path in modules(package):
            if path.stem != "__init__":  # lazy_loader reads the list of names beside the package
                assert "__file__" not in path.read_text(), module


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *(
            [name, "--help"]
            for name in (
                "sample",
                "fid",
                "stats",
                "grid",
                "cache",
                "prepare",
                "train",
                "plot",
                "export",
            )
        ),
        *([name, "--help"] for name in ("inspect", "models", "download")),
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
