import sys

import pytest

from repa.sheets import class_namer, sampling_title

MADE = {
    "model": "sit-xl-2-repa-256",
    "solver": "sde",
    "num_steps": 250,
    "cfg_scale": 1.8,
    "guidance_interval": [0.0, 0.7],
    "seed": 0,
}


def test_title_says_model_solver_steps_guidance_with_interval_and_seed():
    expected = "sit-xl-2-repa-256 · sde, 250 steps · guidance 1.8 in [0, 0.7] · seed 0"
    assert sampling_title(MADE) == expected
    assert sampling_title({**MADE, "guidance_interval": (0.0, 0.7)}) == expected


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"model": "digits/step-0005500"}, "digits · step 5500 · sde"),
        ({"model": "step-0005500.safetensors"}, "step-0005500.safetensors · sde"),
        ({"solver": "dopri5", "num_steps": None}, " · dopri5 · guidance"),
        ({"cfg_scale": 1.0}, "250 steps · no guidance · seed"),
        ({"guidance_interval": None}, "guidance 1.8 · seed"),
        ({"guidance_interval": "odd", "cfg_scale": "odd"}, "guidance odd · seed"),
    ],
)
def test_title_leaves_out_what_is_unknown_or_does_not_count(changes, part):
    assert part in sampling_title({**MADE, **changes})


def test_title_of_images_of_unknown_making_is_empty():
    assert sampling_title({}) == "" == sampling_title({"num_images": 5})


def test_classes_of_imagenet_have_their_names_and_those_of_other_data_their_numbers():
    name = class_namer("imagenet-256")
    assert name(0) == "0 tench" and name(207) == "207 golden retriever"
    assert name(1000) == "1000" and name(-1) == "-1"
    for dataset in ("digits", None, 7):
        assert class_namer(dataset)(3) == "3"


def test_classes_that_are_digits_need_no_torchvision(monkeypatch):
    for package in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, package, None)
    assert class_namer("digits")(3) == "3"
