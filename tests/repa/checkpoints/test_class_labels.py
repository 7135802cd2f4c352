"""Classes by their names: what a checkpoint says of its own, and which names fit a model."""

import pytest
from tiny_checkpoint import save_tiny

from repa.checkpoints.classes import labels_called
from repa.checkpoints.export import export_weights
from repa.checkpoints.reading import load_model
from repa.errors import CheckpointFormatError, SettingError
from repa.generation import Protocol, SampleConfig


@pytest.fixture
def save(tmp_path):
    def saved(dataset=None, num_classes=3, **described):
        known = {"dataset": dataset, **described}
        return save_tiny(tmp_path / "own.safetensors", known, num_classes=num_classes)

    return saved


def test_names_in_a_checkpoint_are_those_of_its_classes_and_stay_when_it_is_exported(
    save, tmp_path
):
    path = save(class_names=["cat", "dog", "emu"])
    assert labels_called(("emu", 0, "CAT"), path) == (2, 0, 0)
    exported = export_weights(path, tmp_path / "exported.safetensors", half=True)
    assert load_model(exported).settings.class_names == ("cat", "dog", "emu")


@pytest.mark.parametrize(
    ("dataset", "num_classes", "own", "known"),
    [
        ("imagenet-256", 1000, None, True),
        ("imagenet-512", 1000, None, True),
        ("imagenet-256", 1000, ["a", "b"], True),  # its own are not as many
        ("imagenet-256", 3, None, False),
        ("imagenet-256", 100, None, False),
        ("imagenet-256@12345678", 1000, None, False),
        (None, 1000, None, False),
        ("own", 3, ["a", "b"], False),
        ("own", 3, ["a", "b", "c", "d"], False),
    ],
)
def test_names_are_used_only_where_there_are_as_many_as_classes(
    save, dataset, num_classes, own, known
):
    path = save(dataset, num_classes, **({} if own is None else {"class_names": own}))
    if known:
        assert labels_called(("golden retriever",), path) == (207,)
        return
    message = f"'a': the names of .*own.safetensors's .* only numbers, 0 to {num_classes - 1}"
    with pytest.raises(SettingError, match=message):
        labels_called(("a",), path)


def test_own_names_come_before_those_of_the_data_set(save):
    path = save("imagenet-256", 1000, class_names=[f"class {k}" for k in range(1000)])
    assert labels_called(("class 5",), path) == (5,)
    with pytest.raises(SettingError, match="no class is called 'golden retriever'"):
        labels_called(("golden retriever",), path)


@pytest.mark.parametrize("names", [["a", 7, "c"], "abc", {"a": 1}])
def test_what_are_no_names_is_refused(save, names):
    with pytest.raises(CheckpointFormatError, match=r"own\.safetensors: class_names are no"):
        load_model(save(class_names=names))


def test_a_registered_model_is_not_downloaded_for_its_names(tmp_path, monkeypatch):
    monkeypatch.setenv("REPA_CACHE", str(tmp_path))
    assert labels_called((3, "golden retriever"), "sit-xl-2-repa-256") == (3, 207)
    config = SampleConfig.for_model("sit-xl-2-repa-256", labels=("goldfish", 207))
    assert config.labels == (1, 207) and not list(tmp_path.iterdir())


def test_settings_take_names_only_with_a_model(save):
    path = save(class_names=["cat", "dog", "emu"])
    assert Protocol.for_model(path, labels=("emu",)).labels == (2,)
    assert Protocol.for_model(path, labels=(1, 0)).labels == (1, 0)
    with pytest.raises(SettingError, match="labels must be numbers here, got 'emu'"):
        Protocol(labels=("emu",))
    with pytest.raises(SettingError, match="unknown labels 'balancd'; did you mean 'balanced'"):
        Protocol.for_model(path, labels=("balancd",))
