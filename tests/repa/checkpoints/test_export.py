import pytest
import torch
from tiny_run import QUIET, TINY

from repa.checkpoints import load_model
from repa.checkpoints.export import export_weights
from repa.errors import OutputExistsError
from repa.training.loop import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "run"
    train(TINY, out, reporting=QUIET)
    return out


def velocities(source):
    model = load_model(source).model
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 16, 16, generator=generator)
    return model(x, torch.linspace(0, 1, 4), torch.tensor([0, 3, 9, 10]))


def test_an_exported_run_gives_the_same_velocities(run, tmp_path):
    out = export_weights(run, tmp_path / "tiny.safetensors")
    assert torch.equal(velocities(out), velocities(run))
    assert load_model(out).settings.dataset == "digits"


def test_half_precision_halves_the_file_and_rounds_the_weights(run, tmp_path):
    full = export_weights(run, tmp_path / "full.safetensors")
    half = export_weights(run, tmp_path / "half.safetensors", half=True)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    # float16 keeps 11 significant bits.
    for a, b in zip(*(load_model(x).model.parameters() for x in (full, half)), strict=True):
        torch.testing.assert_close(a, b, rtol=2**-11, atol=2**-24)


def test_an_existing_file_is_kept_unless_overwritten(run, tmp_path):
    out = tmp_path / "precious.safetensors"
    out.write_text("precious")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        export_weights(run, out)
    assert out.read_text() == "precious"
    export_weights(run, out, overwrite=True)
    assert load_model(out).name == "precious.safetensors"
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
