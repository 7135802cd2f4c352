"""Samples of one's own data find the reference of what was held out, by its hash alone."""

import hashlib
import json
import urllib.error
import urllib.request
import zipfile

import numpy as np
import pytest
from PIL import Image
from stand_in import stand_in

from metrics import ArrayImages, FeatureStatistics, InputError, open_images, write_reference
from repa.data.held_out import HeldOutReference, remember_held_out
from repa.errors import DataError, DownloadError, UnknownNameError
from repa.evaluation import Measuring, evaluate_file, measuring, plan_evaluation, reference_maker
from repa.evaluation.held_out import find_held_out, stated_reference

NETWORK = "efficientnet-lite0"
FILE = f"held-out-{NETWORK}.npz"
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working folder and an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def prepared(here):
    """A reference in a prepared folder, and what names it."""
    path = here / "prepared" / FILE
    path.parent.mkdir()
    write_reference(path, ArrayImages(255 - IMAGES), stand_in(NETWORK))
    return path, named(path)


def named(path):
    return HeldOutReference(
        "emoji@12345678", hashlib.sha256(path.read_bytes()).hexdigest(), NETWORK
    )


def samples(folder, reference, **manifest):
    folder.mkdir(exist_ok=True)
    stated = reference.to_dict() if isinstance(reference, HeldOutReference) else reference
    made = {"dataset": "emoji@12345678", "reference": stated, **manifest}
    np.savez(folder / "samples.npz", IMAGES, manifest=np.array(json.dumps(made)))
    return open_images(folder / "samples.npz")


def test_a_remembered_reference_is_found_and_brings_its_network(here, prepared):
    path, reference = prepared
    remember_held_out(path, reference.sha256)
    plan = plan_evaluation(samples(here / "elsewhere", reference))
    assert (plan.reference, plan.network) == (str(path), NETWORK)
    assert "held out of emoji@12345678" in plan.reason


def test_it_is_found_by_its_hash_beside_the_samples_and_in_the_cache(here, prepared):
    path, reference = prepared
    for folder in (here / "elsewhere", here / "cache" / "references"):
        folder.mkdir(parents=True)
        moved = path.rename(folder / "held-out of another name.npz")
        assert find_held_out(reference, str(here / "elsewhere" / "samples.npz")) == moved
        path = moved


def test_of_several_files_the_one_with_the_hash_is_taken(here, prepared):
    path, reference = prepared
    beside = here / "elsewhere"
    images = samples(beside, reference)
    (beside / FILE).write_bytes(b"another")
    (beside / "held-out-b.npz").write_bytes(path.read_bytes())
    (beside / "held-out-c.npz").mkdir()
    remember_held_out(beside / FILE, reference.sha256)  # a memory of what has changed since
    assert plan_evaluation(images).reference == str(beside / "held-out-b.npz")


def test_one_that_is_not_there_is_named_with_its_hash_and_the_option(here, prepared):
    path, reference = prepared
    remember_held_out(path, reference.sha256)
    path.unlink()
    with pytest.raises(DataError) as caught:
        plan_evaluation(samples(here / "elsewhere", reference))
    message = str(caught.value)
    assert "\n" not in message and "--ref PATH" in message and "not found" in message
    assert FILE in message and reference.sha256[:12] in message and reference.name in message


def test_one_of_another_hash_is_refused_in_words(here, prepared):
    path, reference = prepared
    remember_held_out(path, reference.sha256)
    write_reference(path, ArrayImages(IMAGES), stand_in(NETWORK))
    with pytest.raises(DataError, match=r"is another than .* prepared anew.*--ref PATH") as caught:
        plan_evaluation(samples(here / "elsewhere", reference))
    assert str(path) in str(caught.value)


def test_a_reference_by_option_comes_before_the_manifests(here, prepared):
    path, reference = prepared
    images = samples(here / "elsewhere", reference)
    plan = plan_evaluation(images, path)
    assert (plan.reference, plan.network) == (str(path), NETWORK)
    assert plan.reason.startswith("as asked")
    assert plan_evaluation(images, path, "inception").network == "inception"


@pytest.mark.parametrize(
    "stated",
    [
        "text",
        7,
        [],
        {},
        {"name": "emoji", "network": NETWORK},
        {"name": "emoji", "network": NETWORK, "sha256": "../../../etc/passwd"},
        {"name": "emoji", "network": NETWORK, "sha256": "A" * 64},
        {"name": "emoji", "network": 3, "sha256": "a" * 64},
        {"name": "e" * 10**6, "network": NETWORK, "sha256": "a" * 64},
        {"name": "", "network": NETWORK, "sha256": "a" * 64},
    ],
)
def test_a_damaged_manifest_is_one_line(here, stated):
    with pytest.raises(InputError, match="its manifest is damaged") as caught:
        plan_evaluation(samples(here / "elsewhere", stated))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_keys_of_a_later_version_are_overlooked(here, prepared):
    _, reference = prepared
    images = samples(here / "elsewhere", {**reference.to_dict(), "size": 3})
    assert stated_reference(images) == reference


def test_a_memory_that_is_no_path_and_a_cache_that_cannot_be_written_are_no_error(here, prepared):
    path, reference = prepared
    memory = here / "cache" / "held-out" / reference.sha256
    memory.parent.mkdir(parents=True)
    memory.write_bytes(b"\xff\0" * 5000)
    with pytest.raises(DataError, match="not found"):
        find_held_out(reference, "samples.npz")
    memory.unlink()
    memory.parent.rmdir()
    memory.parent.write_text("a file in its place")
    remember_held_out(path, reference.sha256)
    with pytest.raises(DataError, match="not found"):
        find_held_out(reference, "samples.npz")


def test_one_call_judges_them_and_warns_of_nothing_published(here, prepared, monkeypatch):
    path, reference = prepared
    remember_held_out(path, reference.sha256)
    monkeypatch.setattr(measuring, "load_named_network", lambda *_, **__: stand_in(NETWORK))
    samples(here / "elsewhere", reference)
    found = evaluate_file(here / "elsewhere" / "samples.npz", how=Measuring(cached=False))
    wanted = evaluate_file(ArrayImages(IMAGES), reference=path, how=Measuring(cached=False))
    assert found.reports["samples"].values == wanted.reports["samples"].values
    assert found.published is None
    words = {warning.check: str(warning) for warning in found.warnings}
    assert "200 are the least" in words["few-samples"] and "few-references" not in words
    others = {warning.check: str(warning) for warning in wanted.warnings}
    assert "published numbers take 50000" in others["few-samples"]


def test_the_reference_of_held_out_images_is_what_repa_stats_writes(here, monkeypatch):
    monkeypatch.setattr(measuring, "load_named_network", lambda *_, **__: stand_in(NETWORK))
    prepared = here / "prepared"
    prepared.mkdir()
    labels = [[f"{i:05d}.png", i % 3] for i in range(len(IMAGES))]
    with zipfile.ZipFile(prepared / "held-out.zip", "w") as archive:
        for (name, _), image in zip(labels, IMAGES, strict=True):
            with archive.open(name, "w") as member:
                Image.fromarray(image).save(member, "PNG")
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    make = reference_maker(Measuring(network=NETWORK))
    made, path = make(prepared), prepared / FILE
    assert made["file"] == FILE and made["network"] == NETWORK
    assert made["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert find_held_out(named(path), "elsewhere/samples.npz") == path
    wanted = FeatureStatistics.from_features(stand_in(NETWORK)(IMAGES).pool)
    with np.load(path) as file:
        assert np.array_equal(file["arr_0"], IMAGES) and file["arr_1"].tolist() == [*range(3)] * 4
        np.testing.assert_allclose(file["mu"], wanted.mean)
        np.testing.assert_allclose(file["sigma"], wanted.covariance)
    assert make(prepared) == made  # with the same bytes, as after a kill


def test_weights_that_are_not_there_are_told_before_any_work(here, monkeypatch):
    def unreachable(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    with pytest.raises(DownloadError, match="weights-inception") as caught:
        reference_maker(Measuring())
    assert "\n" not in str(caught.value) and str(here / "cache") in str(caught.value)
    with pytest.raises(UnknownNameError, match="did you mean 'inception'"):
        reference_maker(Measuring(network="incepton"))
