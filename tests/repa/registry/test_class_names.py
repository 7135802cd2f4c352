"""Names of classes; ImageNet's against those of torchvision, another package's list."""

import pytest
from torchvision.models import ResNet50_Weights

from repa.errors import MissingPackageError, RepaError
from repa.registry import ClassName, class_called, class_names_of_dataset, entries
from repa.registry.class_names import _names_in_package

IMAGENET = class_names_of_dataset("imagenet-256")
OWN = tuple(ClassName((name,)) for name in ("cat", "big cat", "Cat", "a_b", "a b", "7"))


def test_names_of_imagenet_are_those_of_torchvision_in_the_same_order():
    theirs = ResNet50_Weights.DEFAULT.meta["categories"]
    assert len(IMAGENET) == len(theirs) == 1000
    others = {k: name for k, name in enumerate(theirs) if IMAGENET[k].words[0] != name}
    # Which torchvision tells from the other crane and the other maillot.
    assert others == {134: "crane bird", 639: "maillot tank suit"}
    assert IMAGENET[207].meaning == "an English breed having a long silky golden coat"
    assert class_names_of_dataset("imagenet-512") is IMAGENET


@pytest.mark.parametrize("name", ["digits", "imagenet", "imagenet-256@12345678", None, 7, ["x"]])
def test_other_data_sets_have_no_names_there(name):
    assert class_names_of_dataset(name) == ()


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(
        entries, "_package_file", lambda *_: (_ for _ in ()).throw(MissingPackageError("timm"))
    )
    with pytest.raises(MissingPackageError, match="timm"):
        _names_in_package.__wrapped__("imagenet")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("golden retriever", 207),
        ("Golden Retriever", 207),
        ("golden_retriever", 207),
        (" golden  retriever ", 207),
        ("tench", 0),
        ("Tinca tinca", 0),  # another word for it
        ("tinca TINCA", 0),
        ("flat coated retriever", 205),
        ("cardigan", 474),  # the clothes; the dog has a capital
        ("Cardigan", 264),
        ("toilet tissue", 999),
    ],
)
def test_a_name_means_the_class_that_is_called_so(name, label):
    assert class_called(name, IMAGENET) == label


def test_exact_spelling_tells_own_classes_apart():
    assert [class_called(each.words[0], OWN) for each in OWN] == list(range(len(OWN)))
    with pytest.raises(RepaError, match="'CAT' is the name of several classes: 0 cat, 2 Cat; give"):
        class_called("CAT", OWN)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "crane",
            "'crane' is the name of several classes: 134 crane (large long-necked wading bird of "
            "marshes and plains in ...), 517 crane (lifts and moves heavy objects; lifting tackle "
            "is ...); give a number.",
        ),
        (
            "retriever",
            "no class is called 'retriever', but 205 flat-coated retriever, 206 curly-coated "
            "retriever, 207 golden retriever, 208 Labrador retriever, 209 Chesapeake Bay "
            "retriever; give one.",
        ),
        ("golden", "no class is called 'golden', but 207 golden retriever; give one."),
        ("terrier", "179 Staffordshire bullterrier, "),
        (
            "goldn retriever",
            "no class is called 'goldn retriever'; did you mean 207 golden retriever, ",
        ),
        ("xyzzy", "no class is called 'xyzzy'."),
        ("", "no class is called ''."),
        ("_", "no class is called '_'."),
        ("x" * 500, f"no class is called '{'x' * 60}'."),
    ],
)
def test_what_means_no_class_or_several_is_told_with_what_is_close(name, message):
    with pytest.raises(RepaError) as caught:
        class_called(name, IMAGENET)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_of_many_classes_a_message_lists_some_and_counts_the_others():
    with pytest.raises(RepaError, match=r"snake.* and \d+ more; give one\.$"):
        class_called("snake", IMAGENET)
