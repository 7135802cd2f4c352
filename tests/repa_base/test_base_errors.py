import pickle

import pytest

import metrics.errors
import repa.errors  # noqa: F401 (its classes are found by walking)
from repa_base.errors import RepaError, SettingError, UnknownNameError, suggestion


def subclasses(base):
    for cls in base.__subclasses__():
        yield cls
        yield from subclasses(cls)


def made(cls):
    """Make an error as its raisers do."""
    arguments = {UnknownNameError: ("model", "a", ["b"]), SettingError: ("field", "no")}
    error = cls(*next((v for k, v in arguments.items() if issubclass(cls, k)), ("in words",)))
    error.mark = {"any": ["attribute"]}
    error.add_note("a note")
    return error


CLASSES = sorted({RepaError, *subclasses(RepaError)}, key=lambda cls: cls.__qualname__)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_error_travels_between_processes_with_class_text_and_attributes(cls):
    error = made(cls)
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is cls
    assert (str(arrived), arrived.args) == (str(error), error.args)
    assert arrived.__dict__ == error.__dict__


def test_walk_finds_the_errors_of_every_package():
    assert {metrics.errors.InputError, SettingError, UnknownNameError} < set(CLASSES)
    assert len(CLASSES) > 10


def test_closest_name_is_suggested_before_the_list_of_all():
    assert suggestion("digit", ["imagenet", "digits"]) == (
        "; did you mean 'digits'? (known: digits, imagenet)"
    )
    assert suggestion("zzz", ["digits"]) == " (known: digits)"
    assert suggestion("zzz", []) == " (known: none)"
