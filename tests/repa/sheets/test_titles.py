import pytest

from repa.errors import RepaError
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
    expected = "sit-xl-2-repa-256 · sde in 250 steps · guidance 1.8 for t in [0, 0.7] · seed 0"
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
        ({"solver": "dpm++", "order": 3}, " · dpm++ of order 3 in 250 steps · guidance"),
        ({"times": "karras"}, " · sde in 250 steps, karras times · guidance"),
        ({"times": "shifted", "shift": 0.5}, "250 steps, shifted times (shift 0.5) · guidance"),
        ({"times": [1.0, 0.4, 0.0], "num_steps": 2}, "sde in 2 steps at 1,0.4,0 · guidance"),
        ({"times": {"odd": 1}}, "250 steps, {'odd': 1} times · guidance"),
        ({"times": [None, {}]}, "250 steps at None,{} · guidance"),
        ({"dtype": "bfloat16"}, "sde in 250 steps, bfloat16 · guidance"),
        ({"guidance": "apg"}, "steps · apg guidance 1.8 for t in [0, 0.7] · seed"),
        ({"guide": "worse.pt"}, "guidance 1.8 for t in [0, 0.7] away from worse.pt · seed"),
        (
            {"internal_scale": 1.4, "internal_interval": [0.1, 1]},
            "[0, 0.7], internal guidance 1.4 for t in [0.1, 1] · seed",
        ),
        ({"guidance_interval": "odd", "cfg_scale": "odd"}, "guidance odd · seed"),
        (
            {"guidance_interval": [0, {}, None], "cfg_scale": 10**400},
            "000 for t in [0, {}, None] · seed",
        ),
    ],
)
def test_title_leaves_out_what_is_unknown_or_does_not_count(changes, part):
    assert part in sampling_title({**MADE, **changes})


def test_title_says_nothing_of_what_is_as_published():
    published = {"times": "published", "guidance": "cfg", "dtype": "float32", "guide": None}
    published |= {"order": None, "shift": 1.0, "internal_scale": 1.0, "internal_interval": [0, 1]}
    assert sampling_title({**MADE, **published}) == sampling_title(MADE)


def test_title_of_images_of_unknown_making_is_empty():
    assert sampling_title({}) == "" == sampling_title({"num_images": 5})


def test_classes_of_imagenet_have_their_names_and_those_of_other_data_their_numbers():
    name = class_namer("imagenet-256")
    assert name(0) == "0 tench" and name(207) == "207 golden retriever"
    assert name(1000) == "1000" and name(-1) == "-1"
    for dataset in ("digits", None, 7, "imagenet-256@0123abcd", "imagenette"):
        assert class_namer(dataset)(3) == "3"


def test_names_of_own_classes_come_before_those_of_the_data_set():
    name = class_namer("imagenet-256", ["cat", "", "2", 7])
    assert [name(label) for label in range(5)] == ["0 cat", "1", "2", "3", "4"]
    assert class_namer("imagenet-256", [])(207) == "207"  # none, of a model of other classes
    assert class_namer("imagenet-256", "odd")(0) == "0 tench"


def test_a_sheet_does_without_names_whose_package_is_missing(monkeypatch):
    def missing(name):
        raise RepaError("not installed")

    monkeypatch.setattr("repa.sheets.titles.class_names_of_dataset", missing)
    assert class_namer("imagenet-256")(207) == "207"
