import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from repa_base.errors import SettingError
from repa_base.settings import check_settings, flag_of, setting

Kind = Literal["one", "two"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    steps: int = setting("Steps.", low=1, high=9, flag="--steps-to-take")
    scale: float = setting("Scale.", 1.5, above=0)
    share: float = setting("Share.", 0.5, low=0, high=1)
    kind: Kind = setting("Kind.", "one", choices=Kind)
    fast: bool = setting("Fast.", False)
    seed: int = setting("Seed.", 0, low=0, high=(1 << 63) - 1)
    count: int = setting("Count.", 1, low=1)
    real: float = setting("Real.", 0.0)
    free: str = "anything"

    def __post_init__(self):
        check_settings(self)


def test_values_within_their_rules_are_taken():
    settings = Settings(steps=9, scale=1e-9, share=0, kind="two", fast=True, seed=(1 << 63) - 1)
    assert (settings.steps, settings.share, settings.free) == (9, 0, "anything")
    assert type(settings.share) is float
    assert Settings(steps=np.int64(3), scale=np.float32(2)) == Settings(steps=3, scale=2.0)
    assert Settings.scale == 1.5


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", 0, "steps must be from 1 to 9, got 0"),
        ("steps", 10, "steps must be from 1 to 9, got 10"),
        ("steps", 2.0, "steps must be a whole number, got 2.0"),
        ("steps", True, "steps must be a whole number, got True"),
        ("steps", "2", "steps must be a whole number, got '2'"),
        ("scale", 0, "scale must be above 0, got 0"),
        ("scale", math.nan, "scale must be above 0, got nan"),
        ("scale", math.inf, "scale must be above 0, got inf"),
        ("share", math.nan, "share must be from 0 to 1, got nan"),
        ("share", -1e-9, "share must be from 0 to 1"),
        ("kind", "tow", "unknown kind 'tow'; did you mean 'two'"),
        ("fast", 1, "fast must be true or false, got 1"),
        ("seed", 1 << 63, r"seed must be from 0 to 2\*\*63 - 1"),
        ("kind", 3, "kind"),
        ("count", 1 << 63, r"count must be at most 2\*\*63 - 1, got 9223372036854775808"),
        ("count", 10**21, r"count must be at most 2\*\*63 - 1"),
        ("count", 0, "count must be at least 1, got 0"),
        ("real", math.inf, "real must be a finite number, got inf"),
        ("scale", 10**400, "scale must be a finite number"),
        ("real", 10**400, "real must be a finite number"),
    ],
)
def test_a_value_against_its_rule_is_an_error_of_its_field(name, value, message):
    with pytest.raises(SettingError, match=message) as caught:
        Settings(**{"steps": 1, name: value})
    assert caught.value.field == name


def test_the_option_is_the_name_or_its_one_alias():
    assert flag_of(Settings, "steps") == "--steps-to-take"
    assert flag_of(Settings, "scale") == "--scale"
    assert flag_of(Settings, "no_rule") == "--no-rule"
