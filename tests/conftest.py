"""Set-up shared by all tests: checked shapes, few threads, recorded reference values."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

# Before any test module imports them: beartype then checks every jaxtyping annotation.
install_import_hook(["samplers", "metrics"], "beartype.beartype")

GOLDENS_DIR = Path(__file__).parent / "goldens"

Golden = tuple[dict[str, np.ndarray], dict]


def _load_golden(name: str) -> Golden:
    with np.load(GOLDENS_DIR / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return arrays, json.loads(str(arrays.pop("meta_json")))


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> None:
    """Small tensors run no faster on more threads, and test runs share the machine."""
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """Load tests/goldens/<name>.npz: `arrays, meta = golden("sit_a")`."""
    return _load_golden
