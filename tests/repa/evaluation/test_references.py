"""What a reference is follows from its content; what is typed means the same everywhere."""

import hashlib
import json
import shutil
from dataclasses import fields

import numpy as np
import pytest
from stand_in import stand_in

from metrics import ArrayImages, InputError, MetricSettings, open_images, write_reference
from repa.errors import SettingError, UnknownNameError
from repa.evaluation import (
    Measuring,
    evaluate_file,
    measuring,
    open_named_reference,
    plan_evaluation,
    provenance,
)
from repa.evaluation import references as references_module
from repa.evaluation.references import baselines, reference_path
from repa.registry import cached_path, find_entry, load_registry

NAME = "adm-imagenet-256"
FILE = "VIRTUAL_imagenet256_labeled.npz"
COUNT, SIDE = 12, 8
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
STATISTICS = {"mu": np.zeros(6), "sigma": np.eye(6), "mu_s": np.zeros(9), "sigma_s": np.eye(9)}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working folder, an empty cache, and an entry whose file has as many images as a test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    changes = {"num_images": COUNT, "image_size": SIDE}
    monkeypatch.setitem(
        load_registry()["references"], NAME, find_entry("references", NAME) | changes
    )
    return tmp_path


def save(path, **changes):
    arrays = {"arr_0": IMAGES, **STATISTICS} | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return str(path)


def found(path):
    known = provenance(path, open_named_reference(path, None))
    return known.name, known.verified


@pytest.mark.parametrize(
    "changes",
    [
        {"arr_0": IMAGES[1:]},
        {"arr_0": IMAGES[:, 1:]},
        {"arr_0": None},
        {"mu_s": None, "sigma_s": None},
        {"network": np.array("inception")},
        {"count": np.array(50)},
        dict.fromkeys(STATISTICS),
    ],
)
def test_a_file_of_the_name_with_another_content_is_not_the_registered_one(here, changes):
    path = save(here / FILE, **changes)
    assert found(path) == (path, True)


def test_the_form_of_a_registered_file_is_an_unverified_claim_under_any_name(here):
    for name in (FILE, "mine.npz"):
        path = save(here / name)
        assert found(path) == (NAME, False)
        (warning,) = provenance(path, open_named_reference(path, None)).lint(
            open_named_reference(path, None)
        )
        assert warning.check == "reference-unverified" and "unverified" in warning.reason


def test_without_a_hash_the_cached_file_and_its_copies_are_unverified_alike(here):
    kept = save(cached_path("references", find_entry("references", NAME)))
    copy = shutil.copy(kept, here / "copy.npz")
    assert found(NAME) == found(kept) == found(str(copy)) == (NAME, False)


def test_a_recorded_hash_decides_alone(here, monkeypatch):
    entry = find_entry("references", NAME)
    kept = save(cached_path("references", entry))
    copy = shutil.copy(kept, here / "mine.npz")
    content = copy.read_bytes()
    known = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    monkeypatch.setitem(load_registry()["references"], NAME, entry | known)
    assert found(NAME) == found(kept) == found(str(copy)) == (NAME, True)
    other = save(here / FILE, arr_0=255 - IMAGES)  # of the same form
    assert found(other) == (other, True)


def test_a_file_of_another_form_is_not_the_reference_whose_name_fetched_it(here):
    kept = save(cached_path("references", find_entry("references", NAME)), arr_0=IMAGES[:7])
    copy = shutil.copy(kept, here / FILE)
    assert found(NAME) == found(kept) == (kept, True)
    assert found(str(copy)) == (str(copy), True)


def test_a_name_whose_form_is_unknown_stays_that_entry_unverified(here):
    name = "adm-imagenet-64"
    kept = save(cached_path("references", find_entry("references", name)))
    assert found(name) == (name, False)
    opened = open_named_reference(name, None)
    (warning,) = provenance(name, opened).lint(opened)
    assert f"{kept} was asked for as {name}" in warning.reason
    assert "has the form" not in warning.reason and "None" not in warning.reason


def test_of_two_entries_of_one_form_it_is_the_one_asked_for(monkeypatch):
    later = "adm-lsun-cat-256"
    form = {"num_images": COUNT, "image_size": SIDE}
    entry = find_entry("references", later) | form
    monkeypatch.setitem(load_registry()["references"], later, entry)
    save(cached_path("references", entry))
    assert found(later) == (later, False)


def test_a_file_spelt_like_a_name_is_written_with_a_dot_in_every_place(here, monkeypatch):
    monkeypatch.setitem(
        references_module._BUILT_IN, "digits", lambda split, size: (IMAGES, np.arange(COUNT))
    )
    name, path = "digits-heldout", "./digits-heldout"
    np.savez(here / "file.npz", 255 - IMAGES, network=np.array("inception"), **STATISTICS)
    (here / "file.npz").rename(here / name)
    samples, shape = ArrayImages(IMAGES), (SIDE, SIDE, 3)
    for typed, is_name in ((name, True), (path, False)):
        plan = plan_evaluation(samples, typed)
        opened = open_named_reference(typed, shape)
        assert plan.network == ("efficientnet-lite0" if is_name else "inception")
        assert (reference_path(typed) is None) == is_name
        assert (opened.file is None) == (opened.statistics is None) == is_name
        assert (provenance(typed, opened).published_count is None) == is_name
        assert ("real" in baselines(typed, shape, 5)) == is_name


def test_what_is_neither_a_name_nor_there_gets_the_closest_name():
    with pytest.raises(UnknownNameError, match="did you mean 'digits-heldout'"):
        reference_path("digits-heldoud")
    with pytest.raises(UnknownNameError):
        reference_path("")


@pytest.fixture
def judged(here, monkeypatch):
    """Judge images of the published protocol by a stand-in for Inception."""
    row = load_registry()["published"]["repa-xl-2-cfg-1.8-interval-0.7"]
    monkeypatch.setitem(row["settings"], "num_images", COUNT)
    made = row["settings"] | {"model": row["checkpoint"], "dataset": row["dataset"]}
    save(here / "samples.npz", **dict.fromkeys(STATISTICS), manifest=np.array(json.dumps(made)))
    weights = find_entry("networks", "inception")["sha256_prefix"].ljust(64, "0")
    network = stand_in("inception", weights_sha256=weights)
    monkeypatch.setattr(measuring, "load_named_network", lambda *_, **__: network)

    def judge(images=here / "samples.npz", **options):
        names = {field.name for field in fields(Measuring)} & set(options)
        how = Measuring(**{name: options.pop(name) for name in names})
        return evaluate_file(images, how=how, **options)

    return judge


def test_the_row_beside_an_unverified_reference_says_so(here, judged):
    told = []
    found = judged(reference=save(here / "mine.npz"), on_warning=told.append)
    row = found.to_dict()["samples"]["published"]
    assert not row["differences"] and row["reference_verified"] is False
    assert "reference-unverified" in {warning.check for warning in found.warnings}
    assert [text for text in told if "unverified" in text]
    kept = cached_path("references", find_entry("references", NAME))
    save(kept)
    by_name = judged()
    assert by_name.published.comparable and not by_name.published.reference_verified
    assert "reference-unverified" in {warning.check for warning in by_name.warnings}
    save(kept, arr_0=IMAGES[:7])
    other = judged()
    (difference,) = other.published.differences
    assert (difference.setting, difference.here) == ("reference", str(kept))
    assert "reference-unverified" not in {warning.check for warning in other.warnings}


def test_splits_as_large_as_the_settings_say_are_looked_at_for_their_classes(here, judged):
    images = ArrayImages(IMAGES, labels=np.repeat(np.arange(3), 4))
    path = save(here / "mine.npz")
    for split_size, warned in ((4, True), (12, False)):
        result = judged(images, reference=path, settings=MetricSettings(split_size=split_size))
        assert ("class-order" in {warning.check for warning in result.warnings}) == warned


def test_statistics_of_other_weights_of_the_network_are_warned_of(here, judged):
    path = here / "mine.npz"
    same = measuring.load_named_network().weights_sha256
    for weights, warned in (("f" * 64, True), (same, False)):
        network = stand_in("inception", weights_sha256=weights)
        write_reference(path, ArrayImages(IMAGES), network)
        reasons = {warning.check: warning.reason for warning in judged(reference=path).warnings}
        assert ("other weights of inception" in reasons.get("reference-network", "")) == warned


def test_a_reference_file_is_opened_once(here, judged, monkeypatch):
    opened = []
    original = references_module.open_reference

    def counting(path):
        opened.append(str(path))
        return original(path)

    monkeypatch.setattr(references_module, "open_reference", counting)
    path = save(here / "mine.npz")
    judged(reference=path)
    assert opened == [path]
    opened.clear()
    kept = save(cached_path("references", find_entry("references", NAME)))
    judged(reference=NAME)
    assert opened == [kept]


def test_one_call_tells_by_its_callbacks_and_prints_nothing(here, judged, capsys):
    notes, warnings = [], []
    path = save(here / "mine.npz")
    result = judged(
        reference=path, baselines=True, on_note=notes.append, on_warning=warnings.append
    )
    assert notes == [
        f"reference {path}, network inception: as asked.",
        f"no real training images are known for {path}: noise only.",
    ]
    assert warnings == [str(warning) for warning in result.warnings] != []
    assert list(result.reports) == ["samples", "noise"]
    assert json.loads(json.dumps(result.to_dict()))["samples"]["run"]["processes"] == 1
    assert capsys.readouterr() == ("", "")


def test_open_images_are_judged_like_their_file(here, judged):
    path = save(here / "mine.npz")
    wanted = judged(reference=path, cached=False).reports["samples"]
    images = open_images(here / "samples.npz")
    found = judged(images, reference=path, cached=False).reports["samples"]
    assert found == wanted
    assert not (here / "cache").exists()


def test_settings_that_do_not_fit_are_named_by_their_field(here, judged):
    path = save(here / "mine.npz", arr_0=None)
    with pytest.raises(SettingError, match="holds statistics alone") as caught:
        judged(reference=path, settings=MetricSettings(kernel_distance=True))
    assert caught.value.field == "kernel_distance"
    with pytest.raises(InputError, match="12 images, 99 were asked for"):
        judged(reference=path, num=99)
