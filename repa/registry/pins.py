"""Pins: the hash of a download whose hash the registry does not know, kept from the first time on.

They stand in pinned.json in the cache folder. A later download, or a file put there by hand, has to
be the same bytes. Does not import torch.
"""

import json
from pathlib import Path
from typing import Any

from repa.errors import ChecksumError
from repa_base.checksums import file_sha256, parse_json
from repa_base.files import write_text
from repa_base.locks import locked


class Pins:
    """The pins of a cache folder, by "section/name".

    Raises:
        ChecksumError: From every method: the file of pins is damaged.
    """

    def __init__(self, cache: Path) -> None:
        self.path = cache / "pinned.json"

    def find(self, section: str, name: str) -> dict[str, Any] | None:
        """Return the pin of an entry: sha256, size and the url that it came from."""
        return self._read().get(f"{section}/{name}")

    def check(self, section: str, name: str, file: Path) -> None:
        """Compare a file with the pin of an entry, if there is one.

        Raises:
            ChecksumError: They differ.
        """
        pin = self.find(section, name)
        if pin is not None and (found := file_sha256(file)) != pin["sha256"]:
            raise ChecksumError(
                f"{file}: its SHA-256 is {found}, but {pin['sha256']} was pinned in {self.path} "
                f"when {name} was first downloaded. If this file is meant, remove {section}/{name} "
                "there, else remove the file."
            )

    def add(self, section: str, name: str, file: Path, url: str) -> None:
        """Pin an entry to the bytes of a file, unless it is pinned."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = self.path.with_name(f"{self.path.name}.lock")
        lock.touch()
        with locked(lock):
            pins = self._read()
            pin = {"sha256": file_sha256(file), "size": file.stat().st_size, "url": url}
            if f"{section}/{name}" not in pins:
                pins[f"{section}/{name}"] = pin
                write_text(self.path, json.dumps(pins, indent=2, sort_keys=True) + "\n")

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self.path.exists():
            return {}
        try:
            pins = parse_json(self.path.read_bytes())
            if not all(isinstance(pin["sha256"], str) for pin in pins.values()):
                raise ValueError("a hash is no text")
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ChecksumError(
                f"{self.path}: is damaged ({error}); remove it, and downloads are pinned anew."
            ) from error
        return pins
