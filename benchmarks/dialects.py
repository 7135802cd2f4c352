"""Print the table of docs/checkpoints.md: how far each dialect is from its recording at most.

The recordings are in tests/goldens/dialects; what is compared is what the tests there compare. Run
`python benchmarks/dialects.py`; the columns are the velocity (of networks that predict noise: the
raw output), absolute, and whole samples with the recorded noise, over the largest value.
"""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch

TESTS = Path(__file__).parents[1] / "tests"


def load(name: str) -> ModuleType:
    """Import a module of the tests by its file, as pytest does."""
    path = TESTS / "repa/checkpoints/dialects" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows() -> Iterator[tuple[str, str, float, float, int]]:
    """Yield file, dialect, the two differences and the number of samples, file by file."""
    velocities, noises = load("test_recorded"), load("test_recorded_noise")
    for name, dialect in velocities.DIALECTS.items():
        differences = [
            (found - expected).abs().max().item()
            for found, expected in velocities.velocities_of(name)
        ]
        yield (
            name,
            dialect,
            max(differences),
            *samples(velocities, name, velocities.samples_of(name)),
        )
    for name, dialect in noises.DIALECTS.items():
        differences = [
            (found - expected).abs().max().item() for found, expected in noises.outputs_of(name)
        ]
        yield name, dialect, max(differences), *samples(noises, name, noises.cases_of(name))


def samples(module: ModuleType, name: str, cases: list[str]) -> tuple[float, int]:
    """Return the largest difference of whole samples, over each one's largest value."""
    largest = 0.0
    for case in cases:
        expected = torch.from_numpy(module.recorded(name)[0][case]).double()
        found = module.sampled(module.load(name), name, case)
        largest = max(largest, ((found - expected).abs().max() / expected.abs().max()).item())
    return largest, len(cases)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    sys.path.insert(0, str(TESTS))
    print("| recorded file | dialect | velocity or output | samples (cases) |")
    print("| --- | --- | --- | --- |")
    for name, dialect, velocity, sample, count in rows():
        print(f"| `{name}` | `{dialect}` | {velocity:.1e} | {sample:.1e} ({count}) |", flush=True)


if __name__ == "__main__":
    main()
