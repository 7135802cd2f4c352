"""Set-up shared by all tests: checked shapes, few threads, recorded reference values."""

import signal
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

import pytest
import torch
from file_server import serving
from golden_files import Golden, load_golden
from jaxtyping import install_import_hook

# Before any test module imports them: beartype then checks every jaxtyping annotation.
install_import_hook(["samplers", "metrics"], "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with whole roads, the longest files: two processes then end together."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> None:
    """Small tensors run no faster on more threads, and test runs share the machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Let processes that tests start be interrupted, also where the run itself ignores it.

    A shell without job control starts what runs in its background so, and children inherit it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """Load tests/goldens/<name>.npz: `arrays, meta = golden("sit_a")`."""
    return load_golden


@pytest.fixture(scope="session")
def golden_sit() -> Callable[[str], torch.nn.Module]:
    """Build the SiT of tests/goldens/<name>.npz, recorded parameters loaded, in evaluation mode."""

    def build(name: str) -> torch.nn.Module:
        from repa import SiT

        arrays, meta = load_golden(name)
        kept = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads")
        kept += ("mlp_ratio", "num_classes", "encoder_depth", "projector_dim", "qk_norm")
        config = {key: meta["config"][key] for key in kept}
        model = SiT(**config, target_dims=meta["config"]["z_dims"])
        parameters = {
            key.removeprefix("param/"): torch.from_numpy(array)
            for key, array in arrays.items()
            if key.startswith("param/")
        }
        model.load_state_dict(parameters, strict=True)
        return model.eval()

    return build


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a server of `file_server.CONTENT`."""
    with serving() as address:
        yield address


@pytest.fixture
def repa(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[object, str, str]]:
    """Run the command: `code, out, err = repa("fid", "samples.npz")`."""
    from repa_cli.app import main

    # Lines that tell how far it is depend on the time that a test takes.
    monkeypatch.setattr("repa_cli.showing.bars._QUIET", inf)

    def run(*arguments: object) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return caught.value.code, output.out, output.err

    return run


@pytest.fixture
def training(
    repa: Callable[..., tuple[object, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[object, str, str]]:
    """Run `repa train` with a tiny network in a folder of its own."""
    from tiny_command import CLI_TINY

    monkeypatch.setattr("repa.training.previews._ROWS", 1)
    monkeypatch.setattr("repa.training.previews._STEPS", 1)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: repa("train", *CLI_TINY, "--out", "run", *arguments)
