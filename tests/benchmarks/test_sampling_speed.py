"""What sampling is timed against does the same work, and what is said of it follows from it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from repa.generation import Protocol

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def sampling(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import sampling

    return sampling


@pytest.fixture
def model(sampling):
    return sampling.untrained("SiT-Pico/4")


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(num_steps=3),
        Protocol(num_steps=6, cfg_scale=3.0, guidance_interval=(0.4, 1.0), seed=5),
        Protocol(num_steps=2, cfg_scale=1.0),
    ],
)
def test_the_plain_loop_makes_the_states_of_the_published_protocol(sampling, model, protocol):
    found, wanted = (make(model, 2, protocol)() for make in (sampling.plain, sampling.ours))
    torch.testing.assert_close(found.float(), wanted, rtol=1e-5, atol=1e-5)
    other = sampling.ours(model, 2, replace(protocol, seed=9))()
    assert (other - wanted).norm() > 0.1 * wanted.norm()


def test_states_that_differ_are_not_timed(sampling, model):
    one = sampling.plain(model, 2, Protocol(num_steps=3))
    sampling.check_equal(one, sampling.ours(model, 2, Protocol(num_steps=3)))
    with pytest.raises(SystemExit, match="not make the same states"):
        sampling.check_equal(one, sampling.ours(model, 2, Protocol(num_steps=3, cfg_scale=1.9)))


@pytest.mark.parametrize("size", ["SiT-Pico/4", "SiT-Ti/8"])
def test_operations_of_an_evaluation_are_those_that_pytorch_counts(sampling, size):
    network = sampling.untrained(size).model
    with FlopCounterMode(display=False) as counted:
        sampling.evaluation(sampling.plain_network(network), 3)()
    assert 3 * sampling.forward_flops(network) == counted.get_total_flops()


def test_all_parts_end_with_a_ratio(sampling, monkeypatch, capsys):
    monkeypatch.setattr(sampling, "PRODUCT", 64)
    parts = "--only plain rate half whole --size SiT-Pico/8 --batch 1 --repeats 1 --steps 2"
    more = "--published 2 --whole-batch 1 --whole-digits 1 --xl 1 --xl-size SiT-Pico/4"
    monkeypatch.setattr("sys.argv", ["sampling.py", *parts.split(), *more.split()])
    monkeypatch.setattr(sampling, "computes_bf16", lambda device: True)
    sampling.main()
    printed = capsys.readouterr().out
    for words in (
        "ratio of plain loop to ours: median",
        "share of the matrix rate: median",
        "ratio of float32 to bf16: median",
        "ratio of published, plain loop to fast, bf16: median",
        "ratio of plain to ours: median",
        "422 rows an image, of which 3 in 2 steps were measured and the others follow; --fast: 22",
    ):
        assert words in printed


def test_the_published_protocol_s_time_follows_from_its_rows(sampling, model, monkeypatch, capsys):
    options = type("", (), {"published": 10, "repeats": 1})
    # 17 of 422 rows in 3.4 s for two images, so 42.2 s an image; the fast way 2 s for two images.
    monkeypatch.setattr(
        sampling,
        "in_turns",
        lambda kinds, repeats: {n: [3.4 if n.startswith("published") else 2.0] for n in kinds},
    )
    sampling.whole(model, 2, options)
    assert "published, ours  median 42.20 s" in (printed := capsys.readouterr().out)
    assert "ratio of published, ours to fast, float32: median 42.20" in printed


def test_digits_in_bf16_are_judged_once_and_by_float32_s_own_error(
    sampling, monkeypatch, tmp_path, capsys
):
    answers = [None, {"FD-lite0": 14.0, "FD-lite0 error": 0.5}]
    answers += [None, {"FD-lite0": 15.2, "FD-lite0 error": 0.9}]
    asked = []

    def judged(**settings):
        asked.append(settings)
        return answers.pop(0)

    monkeypatch.setattr(sampling, "judged_images", judged)
    where = {"samples": tmp_path, "out": tmp_path}
    options = type("", (), {"digits_bf16": 2000, "minutes": 1, **where})
    for _ in range(3):
        sampling.compare_digits(options)
    assert [each["precision"] for each in asked] == ["fp32", "fp32", "bf16", "bf16"]
    assert all(each["num_images"] == 2000 and each["fast"] for each in asked)
    assert asked[0]["keep"] == asked[1]["keep"] != asked[2]["keep"]
    printed = capsys.readouterr().out
    assert "bf16 differs by +1.20, NOT within two standard errors of float32's, 1.00" in printed
    count = len(asked)
    sampling.compare_digits(options)
    assert len(asked) == count


@pytest.mark.parametrize("own", [True, False])
def test_rows_of_digits_say_whether_products_were_emulated(sampling, monkeypatch, tmp_path, own):
    made = {"FD-lite0": 14.0, "FD-lite0 error": 0.5}
    monkeypatch.setattr(sampling, "judged_images", lambda **settings: made)
    for module in ("sampling", "narrow_products"):
        monkeypatch.setattr(f"{module}.computes_bf16", lambda device: own)
    where = {"samples": tmp_path, "out": tmp_path}
    sampling.compare_digits(type("", (), {"digits_bf16": 2000, "minutes": 1, **where}))
    rows = [json.loads(line) for line in (tmp_path / "half.jsonl").read_text().splitlines()]
    assert [row["products emulated"] for row in rows] == [False, not own]
