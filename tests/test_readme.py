import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"python -c '\n(.*?)\n'\n", README, flags=re.DOTALL)


@pytest.mark.parametrize("code", SNIPPETS, ids=lambda code: code.split("\n")[0])
def test_snippets_of_the_readme_run(code, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_readme_has_snippets_and_its_links_lead_somewhere():
    assert len(SNIPPETS) >= 4
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_page_of_the_command_is_the_commands_own_help():
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs/cli.py")], capture_output=True, text=True, check=True
    )
    stored = (ROOT / "docs/cli.md").read_text()
    assert done.stdout == stored, "run: python docs/cli.py > docs/cli.md"


def test_loss_plot_says_what_its_curves_are(tmp_path):
    script = runpy.run_path(str(ROOT / "docs/digits.py"))
    entries = ({"step": 50 * n, "velocity": 1 / n, "alignment": -n} for n in range(1, 21))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    figure = script["draw_losses"](tmp_path, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size
    for axis, name in zip(figure.axes, ("velocity", "alignment"), strict=True):
        assert name in axis.get_title()
        shown = [text.get_text() for text in axis.get_legend().get_texts()]
        assert shown == ["single batch, as logged", "mean of the last 10"]
        single, mean = axis.get_lines()
        assert mean.get_ydata()[0] == pytest.approx(sum(single.get_ydata()[:10]) / 10)
        assert (mean.get_xdata()[0], single.get_xdata()[-1]) == (500, 1000)


def test_tests_and_benchmarks_named_in_the_pages_exist():
    pages = [page.read_text() for page in (ROOT / "docs").glob("*.md")]
    names = {name for page in pages for name in re.findall(r"\b(?:test_|benchmarks/)\w+\.py", page)}
    assert len(names) > 10
    for name in names:
        assert (ROOT / name).exists() or list((ROOT / "tests").rglob(name)), name


def test_everything_named_in_the_readmes_tree_exists():
    tree = README.split("## What is where")[1].split("##")[0]
    for line in tree.strip().splitlines():
        name = line.split()[0]
        assert (ROOT / name).exists(), name
