"""Values that were recorded by running the reference implementations."""

import json
from pathlib import Path

import numpy as np

GOLDENS_DIR = Path(__file__).parent / "goldens"

Golden = tuple[dict[str, np.ndarray], dict]


def load_golden(name: str) -> Golden:
    """Return the arrays of goldens/<name>.npz by their names, and what is said of them."""
    with np.load(GOLDENS_DIR / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return arrays, json.loads(str(arrays.pop("meta_json")))
