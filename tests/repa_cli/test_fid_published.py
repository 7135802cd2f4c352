"""`repa fid` on images of a published protocol: the row beside them, or why it is not compared.

The network is a stand-in that bears Inception's name and labels, the row asks for as many images as
a test has, and everything else is the command's.
"""

import inspect
import json
import re

import numpy as np
import pytest
import torch
from stand_in import counted, stand_in

from metrics import ArrayImages, MetricLabels, measure
from metrics.formulas.statistics import ReferenceStatistics
from repa.evaluation import measuring as evaluation
from repa.registry import find_entry, load_registry

COUNT = 60
SAMPLES, REAL = np.random.default_rng(0).integers(0, 256, (2, COUNT, 8, 8, 3), dtype=np.uint8)
ROW = "repa-xl-2-cfg-1.8-interval-0.7"
# arXiv 2410.06940, an early version, Table 4
PUBLISHED = {"FID": 1.42, "sFID": 4.7, "IS": 305.7, "Precision": 0.8, "Recall": 0.65}
# as `repa sample` writes it by default; its number of images is what it was asked for
MANIFEST = {
    "model": "sit-xl-2-repa-256",
    "dataset": "imagenet-256",
    "solver": "sde",
    "num_steps": 250,
    "cfg_scale": 1.8,
    "guidance_interval": [0.0, 0.7],
    "seed": 0,
    "labels": "random",
    "num_images": 50_000,
    "autoencoder": "sd-vae-ft-ema",
    "quantizer": "truncate",
}
REFERENCE = "VIRTUAL_imagenet256_labeled.npz"


def named(resize="default", **changes):
    """A stand-in with the name and the labels that Inception has with this resize, and its hash."""
    suffix = "-clean" if resize == "clean" else ""
    labels = ("FID", "KID", "sFID", "IS", "Precision", "Recall")
    labels = MetricLabels(*(label + suffix for label in labels))
    known = find_entry("networks", "inception")
    weights = (known["sha256"] or known["sha256_prefix"]).ljust(64, "0")
    fields = {"labels": labels, "weights_sha256": weights} | changes
    return stand_in(f"inception{suffix}", **fields)


def save(images=SAMPLES, classes=None, **changes):
    """Write samples.npz, by default of the row's protocol and without any label twice."""
    classes = np.arange(len(images)) if classes is None else classes
    np.savez("samples.npz", images, classes, manifest=np.array(json.dumps(MANIFEST | changes)))


def save_reference(path):
    """Write a file of ADM's form: statistics of features, images without labels."""
    real = measure(ArrayImages(REAL), named())
    arrays = ReferenceStatistics(real.pool, real.spatial).to_arrays()
    kept = {name: arrays[name] for name in ("mu", "sigma", "mu_s", "sigma_s")}
    np.savez(path, REAL, **kept)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Samples and, in the cache, ADM's batch; row and batch have as many images as there are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(row_entry()["settings"], "num_images", COUNT)
    form = {"num_images": COUNT, "image_size": 8}
    entry = find_entry("references", "adm-imagenet-256") | form
    monkeypatch.setitem(load_registry()["references"], "adm-imagenet-256", entry)
    (tmp_path / "cache" / "references").mkdir(parents=True)
    save_reference(tmp_path / "cache" / "references" / REFERENCE)
    save()
    return tmp_path


def row_entry():
    return load_registry()["published"][ROW]


@pytest.fixture
def asked(monkeypatch):
    """What the metric network was asked for, by the names of `load_named_network`."""
    asked = {}
    signature = inspect.signature(evaluation.load_named_network)

    def load(*arguments, **options):
        bound = signature.bind(*arguments, **options)
        bound.apply_defaults()
        asked.update(bound.arguments)
        return named(asked["resize"])

    monkeypatch.setattr(evaluation, "load_named_network", load)
    return asked


@pytest.fixture
def repa(repa, here, asked):
    """Run `repa fid samples.npz`: stdout, stderr."""

    def run(*options):
        code, out, err = repa("fid", "samples.npz", *options)
        assert code == 0, err
        return out, err

    return run


def measured(repa, *options):
    """Return the samples' part of the JSON, whose warnings are those of stderr."""
    out, err = repa("--json", *options)
    found = json.loads(out)["samples"]
    for warning in found["warnings"]:
        assert f"warning: {warning['reason']}" in err
    return found


def reasons(found):
    return {warning["check"]: warning["reason"] for warning in found["warnings"]}


def compared(found):
    return {value["label"]: value for value in found["compared_with_published"]}


def table_rows(text):
    """Return the cells of each line that begins with the label of a metric, by that label."""
    lines = [line.split() for line in text.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if cells and cells[0] in PUBLISHED}


def test_the_published_table_stands_below_the_measured_one(repa):
    out, _ = repa()
    ours, published = out.split("\npublished  ")
    assert published.startswith(f"{ROW} ({row_entry()['source']})\n")
    heading = published.splitlines()[1]
    assert re.split("  +", heading)[:4] == ["metric", "published", "measured", "difference"]
    above, below = table_rows(ours), table_rows(published)
    assert list(above) == list(below) == list(PUBLISHED)
    for label, (printed, here, difference, verdict) in below.items():
        assert float(printed) == PUBLISHED[label]
        assert here == above[label][0]
        assert float(difference) == pytest.approx(float(here) - PUBLISHED[label], abs=1.1e-4)
        assert difference[0] in "+-"
        assert verdict == "unknown"
    assert f"note: {row_entry()['note']}" in published


def test_json_holds_the_row_and_the_numbers_of_the_table(repa):
    found = measured(repa)
    assert found["published"]["name"] == ROW
    assert found["published"]["metrics"] == PUBLISHED
    assert found["published"]["source"] == row_entry()["source"]
    assert found["published"]["note"] == row_entry()["note"]
    assert found["published"]["differences"] == []
    values = compared(found)
    assert list(values) == list(PUBLISHED)
    for label, value in values.items():
        assert value["published"] == PUBLISHED[label]
        assert value["measured"] == found["values"][label]
        assert value["difference"] == found["values"][label] - PUBLISHED[label]
        assert value["tolerance"] is None and value["inside"] is None
    printed = table_rows(repa()[0].split("\npublished  ")[1])
    for label, (_, here, difference, _) in printed.items():
        assert here == f"{values[label]['measured']:.4f}"
        assert difference == f"{values[label]['difference']:+.4f}"


def test_the_protocol_and_faultless_images_bring_no_warning_but_of_their_number(repa):
    others = {"published-protocol", "reference-network", "resolution", "class-order"}
    others |= {"class-balance", "duplicates", "constant", "value-range"}
    found = reasons(measured(repa))
    assert f"{COUNT} images" in found["few-samples"]
    assert not others & set(found)


def test_standard_errors_bring_a_verdict(repa, monkeypatch):
    values = measured(repa)["values"]
    # equal is inside whatever the error, and so far away is outside
    monkeypatch.setitem(row_entry()["metrics"], "precision", values["Precision"])
    monkeypatch.setitem(row_entry()["metrics"], "fid", 1e6)
    out, _ = repa("--bootstrap", 3)
    verdicts = {
        label: cells[-1] for label, cells in table_rows(out.split("\npublished  ")[1]).items()
    }
    assert verdicts["Precision"] == "yes" and verdicts["FID"] == "no"
    assert set(verdicts.values()) == {"yes", "no"}
    found = measured(repa, "--bootstrap", 3)
    assert found["settings"]["num_resamples"] == 3
    assert verdicts == {
        label: "yes" if value["inside"] else "no" for label, value in compared(found).items()
    }


def test_baselines_are_not_what_is_compared(repa):
    out, _ = repa("--baselines", "--json")
    found = json.loads(out)
    assert found["noise"]["values"]["FID"] != found["samples"]["values"]["FID"]
    for label, value in compared(found["samples"]).items():
        assert value["measured"] == found["samples"]["values"][label]


def not_compared(repa, *options):
    """Run; return the only setting that differs, its published value and ours."""
    found = measured(repa, *options)
    assert found["published"]["name"] == ROW
    assert found["compared_with_published"] == []
    (difference,) = found["published"]["differences"]
    setting, published, ours = (difference[key] for key in ("setting", "published", "here"))
    reason = reasons(found)["published-protocol"]
    assert ROW in reason and f"{setting} {ours} instead of {published}" in reason
    settings = {*row_entry()["settings"], "reference", "network", "distances", "weights"}
    assert settings & set(re.findall(r"\w+", reason)) == {setting}
    out, err = repa(*options)
    assert "\npublished" not in out
    assert f"warning: {reason}" in err and "not to be compared" in err
    return setting, published, ours


def test_exact_distances_are_not_compared(repa):
    assert not_compared(repa, "--distances", "exact") == ("distances", "adm", "exact")


def test_fewer_images_are_not_compared(repa):
    assert not_compared(repa, "--num", 59) == ("num_images", 60, 59)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("cfg_scale", 1.7), ("num_steps", 249), ("quantizer", "round"), ("labels", "balanced")],
)
def test_a_manifest_of_another_setting_is_not_compared(repa, setting, value):
    save(**{setting: value})
    assert not_compared(repa) == (setting, MANIFEST[setting], value)


def test_another_reference_is_not_compared(repa):
    np.savez("other.npz", REAL)
    wanted = ("reference", "adm-imagenet-256", "other.npz")
    assert not_compared(repa, "--ref", "other.npz") == wanted


def test_the_clean_resize_makes_numbers_of_another_network(repa):
    assert not_compared(repa, "--resize", "clean") == ("network", "inception", "inception-clean")
    assert "reference-network" in reasons(measured(repa, "--resize", "clean"))


def test_other_weights_of_the_network_are_not_compared(repa, monkeypatch):
    other = named(weights_sha256="f" * 64)
    monkeypatch.setattr(evaluation, "load_named_network", lambda *_, **__: other)
    assert not_compared(repa)[0] == "weights"
    assert "weights" in reasons(measured(repa))


def test_the_reference_by_the_path_of_its_file_is_compared_too(repa, here):
    save_reference(here / REFERENCE)
    by_name, by_path = measured(repa), measured(repa, "--ref", here / REFERENCE)
    assert by_path["compared_with_published"] == by_name["compared_with_published"] != []


def test_a_reference_that_its_form_alone_speaks_for_is_called_unverified(repa, here):
    (here / "cache" / "references" / REFERENCE).rename(here / "mine.npz")
    found = measured(repa, "--ref", "mine.npz")
    assert found["published"]["differences"] == []
    assert found["published"]["reference_verified"] is False
    assert "mine.npz has the form of adm-imagenet-256" in reasons(found)["reference-unverified"]
    assert "note: the reference is unverified" in repa("--ref", "mine.npz")[0]
    np.savez(here / REFERENCE, REAL)
    assert "\npublished" not in repa("--ref", REFERENCE)[0]


@pytest.mark.parametrize("model", ["digits", None])
def test_of_another_model_nothing_is_published(repa, model):
    save(model=model)
    found = measured(repa)
    assert found["published"] is None and found["compared_with_published"] == []
    assert "published-protocol" not in reasons(found)
    assert "\npublished" not in repa()[0]


@pytest.mark.parametrize("distances", ["adm", "exact"])
def test_distances_reach_the_settings(repa, distances):
    assert measured(repa, "--distances", distances)["settings"]["distances"] == distances
    assert f"{distances} distances" in repa("--distances", distances)[0]


def test_duplicates_in_the_pixels_are_in_the_warnings(repa):
    images = SAMPLES.copy()
    images[7] = images[3]
    save(images)
    found = measured(repa)
    reason = reasons(found)["duplicates"]
    assert f"1 of {COUNT} images" in reason and "image 7 is image 3" in reason
    assert f"warning: {reason}" in repa()[1]


def test_what_the_files_say_is_warned_of_before_what_the_pixels_tell(repa):
    images = SAMPLES.copy()
    images[9] = 200
    save(images, num_steps=249)
    order = ["few-samples", "published-protocol", "constant"]
    assert [check for check in reasons(measured(repa)) if check in order] == order
    err = repa()[1]
    places = [err.index(text) for text in ("published numbers take", "instead of", "one colour")]
    assert places == sorted(places)


def test_three_of_a_thousand_classes_are_an_imbalance(repa, here):
    save(classes=np.arange(COUNT) % 3)  # balanced among those that occur
    reason = reasons(measured(repa))["class-balance"]
    save_reference(here / REFERENCE)
    assert reasons(measured(repa, "--ref", here / REFERENCE))["class-balance"] == reason
    assert "1000 classes" in reason and "3 occur" in reason
    assert f"warning: {reason}" in repa()[1]


def test_options_of_the_network_reach_it(repa, here, asked, monkeypatch):
    repa("--no-cache")
    plain = {name: asked[name] for name in ("name", "weights_path", "resize", "compiled")}
    assert plain == {
        "name": "inception",
        "weights_path": None,
        "resize": "default",
        "compiled": False,
    }
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    (here / "weights.pth").touch()
    changes = {
        ("--features", "dinov2"): {"name": "dinov2"},
        ("--weights", here / "weights.pth"): {"weights_path": here / "weights.pth"},
        ("--resize", "clean"): {"resize": "clean"},
        ("--compile",): {"compiled": True},
    }
    for options, change in changes.items():
        repa("--no-cache", *options)
        assert {name: asked[name] for name in plain} == plain | change
    for device in ("cpu", "cuda:1"):
        repa("--no-cache", "--device", device)
        assert asked["device"] == torch.device(device)


def test_batches_are_as_large_as_asked(repa, monkeypatch):
    network, sizes = counted()
    monkeypatch.setattr(
        evaluation, "load_named_network", lambda *_, **__: named(outputs=network.outputs)
    )
    repa("--batch-size", 7, "--no-cache")
    assert sizes == [7] * 8 + [4] + [7] * 8 + [4]
