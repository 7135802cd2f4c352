import pytest
from tiny_checkpoint import save_tiny
from tiny_generation import small_run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture
def settings(checkpoint, tmp_path):
    return small_run(checkpoint, tmp_path)
