"""`repa sample --dry-run`: a table, or JSON, and nothing on the disk."""

import json

import pytest

RUN = ("sample", "--model", "digits", "--num", 20, "--steps", 2, "--batch-size", 4)
DRY = (*RUN, "--device", "cpu", "--dry-run")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(table):
    found = {}
    for line in table.splitlines():
        name, _, rest = line.partition("  ")
        found.setdefault(name.strip(), []).append(" ".join(rest.split()))
    return found


def test_table_tells_every_setting_and_what_the_run_would_take(repa, here):
    code, out, err = repa(*DRY, "--cfg", 1.5, "--grid", "deep/sheet.png", "--png", "png")
    assert (code, err) == (0, "")
    rows = rows_of(out)
    assert rows["steps"] == ["2 as asked 250"]
    assert rows["solver"] == ["heun the model's own sde"]
    assert rows["cfg"] == ["1.5 as asked 1.8"]
    assert rows["seed"] == ["0 default"]
    # Heun's steps start at 1 and 0.5; the first is corrected at 0.5, without guidance as it began.
    assert rows["evaluations an image"] == ["3, of which 1 are guided"]
    assert rows["network rows"] == ["4 an image, 80 in all"]
    assert rows["images"] == ["20 of 32 x 32 pixels"]
    assert rows["measured"][0].startswith("the network on ")
    # 20 images of 3,072 bytes and their labels are 61.6 kB, and the manifest some more.
    assert 62 < float(rows["on disk"][0].split()[0]) < 66 and "kB" in rows["on disk"][0]
    assert rows["room"][0].endswith("free at .")
    assert {"an evaluation", "an image", "all images", "weights in memory"} < rows.keys()
    assert not list(here.iterdir())


def test_table_says_that_networks_are_measured_uncompiled(repa, here):
    code, out, err = repa(*DRY, "--compile")
    assert (code, err) == (0, "")
    rows = rows_of(out)
    assert rows["measured"][0].startswith("the network, uncompiled, on ")
    assert rows["compile"] == ["True as asked False"]


def test_json_holds_what_the_table_tells(repa, here):
    code, out, err = repa(*DRY, "--json")
    plan = json.loads(out)
    assert (code, err) == (0, "")
    assert (plan["network_rows"], plan["evaluations"], plan["guided_evaluations"]) == (4, 3, 1)
    assert plan["settings"]["cfg_scale"] == 2 and plan["settings"]["out"] == "samples.npz"
    assert plan["seconds"] == pytest.approx(20 * plan["image_seconds"])
    assert plan["manifest"]["model"] == "digits" and plan["output"]["shortage"] is None
    assert plan["departures"]["solver"] == {"published": "sde", "here": "heun"}


def test_where_it_does_not_fit_the_table_says_so_and_the_command_ends_as_the_run(repa, here):
    large = ("--num", 10**12, "--out", "deep/x.npz")
    code, out, err = repa(*DRY, *large)
    assert code == 1 and "it does not fit" in out
    assert err.startswith("repa: error: deep/x.npz.part: No space: the file needs 3,080.0 TB, ")
    assert err.count("\n") == 1 and not list(here.iterdir())
    _, _, of_run = repa(*RUN, "--device", "cpu", *large)
    assert of_run.split(",")[0] == err.split(",")[0]


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--grid", "sheet.jpg"], 2, "--grid: the contact sheet is a PNG: its name must end"),
        (["--png", "file"], 1, "file is a file; use another --png"),
        (["--out", "file.npz"], 1, "file.npz was not made by this command"),
        (["--labels", "10"], 2, "--labels: label 10 is none of the 10 classes"),
        (["--precision", "fp16"], 2, "--precision: fp16 needs a GPU"),
        (["--order", "2"], 2, "--order"),
    ],
)
def test_it_ends_for_the_reasons_of_the_run(repa, here, arguments, code, part):
    for name in ("file", "file.npz"):
        (here / name).write_text("precious")
    found, out, err = repa(*DRY, *arguments)
    assert (found, out) == (code, "") and part in err and err.count("\n") == 1, err
    assert sorted(path.name for path in here.iterdir()) == ["file", "file.npz"]


def test_a_run_that_is_to_be_repeated_is_planned_too(repa, here):
    assert repa(*RUN, "--device", "cpu")[0] == 0
    again = ("sample", "--from-manifest", "samples.npz", "--out", "b.npz", "--dry-run")
    code, out, _ = repa(*again, "--device", "cpu", "--json")
    assert code == 0 and json.loads(out)["settings"]["num_images"] == 20
    code, out, _ = repa(*RUN, "--device", "cpu", "--dry-run")
    assert "finished, with these settings" in out and "not measured: it is finished" in out
    assert [path.name for path in here.iterdir()] == ["samples.npz"]
