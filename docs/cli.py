"""Print docs/cli.md from the commands' own --help: `python docs/cli.py > docs/cli.md`."""

import os
import subprocess
import sys

from typer.main import get_group

from repa_cli.app import app


def help_text(*arguments: str) -> str:
    """Return what `repa ARGUMENTS --help` prints, 100 columns wide."""
    environment = {**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100"}
    done = subprocess.run(
        [sys.executable, "-m", "repa_cli", *arguments, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return done.stdout.replace("python -m repa_cli", "repa").strip()


def page() -> str:
    """Return the whole page."""
    parts = ["# The repa command", "Made by `python docs/cli.py > docs/cli.md`."]
    parts += ["```\n" + help_text() + "\n```"]
    for command in get_group(app).commands:
        parts += [f"## repa {command}", "```\n" + help_text(command) + "\n```"]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
