"""Settings: fields of a dataclass that say their help, range and option once; one validator.

A command makes its options of them and a notebook its objects; either way `check_settings` is what
refuses a value, so that nothing has two defaults, two ranges or two names.
"""

import math
from dataclasses import MISSING, Field, dataclass, field, fields
from numbers import Integral, Real
from types import UnionType
from typing import Any, Union, get_args, get_origin

from repa_base.errors import SettingError, suggestion

LARGEST = (1 << 63) - 1
"""Of whole numbers, in settings and options: what 64 bits hold."""

_RULE = "rule"
_UNIONS = (Union, UnionType)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is known of a setting besides its type and default.

    Its value is from `low` to `high`, larger than `above`, and one of `choices`, which is empty if
    the type or another check decides; whole numbers are at most `LARGEST`. `flag` is its option
    where that is not called like the field, `value` the form of its value where the type does not
    tell.
    """

    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    flag: str | None = None
    value: str | None = None


def setting(help: str, default: Any = MISSING, **rule: Any) -> Any:  # noqa: A002, ANN401
    """Return a dataclass field with a `Rule`; `rule` holds its other attributes.

    `choices` may be a tuple or a Literal type; "{choices}" in the help stands for their list.
    """
    if not isinstance(rule.get("choices", ()), tuple):
        rule["choices"] = get_args(rule["choices"])
    help = help.replace("{choices}", ", ".join(rule.get("choices", ())))  # noqa: A001
    return field(default=default, metadata={_RULE: Rule(help=help, **rule)})


def rules(settings: Any) -> dict[str, tuple["Field[Any]", Rule]]:  # noqa: ANN401
    """Return field and rule of every setting of a dataclass that has a rule, by name."""
    return {f.name: (f, f.metadata[_RULE]) for f in fields(settings) if _RULE in f.metadata}


def flag_of(settings: Any, name: str) -> str:  # noqa: ANN401
    """Return the option of a setting: its one declared alias, or --its-name."""
    _, rule = rules(settings).get(name, (None, None))
    return (rule and rule.flag) or "--" + name.replace("_", "-")


def check_settings(settings: Any) -> None:  # noqa: ANN401
    """Check every setting that has a rule, in the `__post_init__` of a dataclass, frozen or not.

    Whole numbers become floats where floats are meant.

    Raises:
        SettingError: The first one that is of another type, out of its range or of its choices.
    """
    for name, (declared, _) in rules(settings).items():
        value = getattr(settings, name)
        check_value(settings, name, value)
        if declared.type in (int, float, bool):
            object.__setattr__(settings, name, declared.type(value))


def check_value(settings: Any, name: str, value: Any) -> None:  # noqa: ANN401
    """Check one value of a setting that has a rule, by the rule and its type.

    Raises:
        SettingError: It is of another type, out of its range or of its choices.
    """
    declared, rule = rules(settings)[name]
    if rule.choices and (isinstance(value, str) or get_origin(declared.type) not in _UNIONS):
        if value not in rule.choices:
            hint = suggestion(str(value), rule.choices)
            raise SettingError(name, f"unknown {name} {value!r}{hint}")
    elif declared.type in (int, float, bool):
        _check_number(name, value, declared.type, rule)


def _check_number(name: str, value: Any, kind: Any, rule: Rule) -> None:  # noqa: ANN401
    allowed = {bool: bool, int: Integral, float: Real}[kind]
    if not isinstance(value, allowed) or (kind is not bool and isinstance(value, bool)):
        words = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise SettingError(name, f"{name} must be {words}, got {value!r}.")
    if rule.above is not None and not rule.above < value < math.inf:
        raise SettingError(name, f"{name} must be above {rule.above:g}, got {value}.")
    low = -math.inf if rule.low is None else rule.low
    high = math.inf if rule.high is None else rule.high
    if not low <= value <= high:
        largest = "2**63 - 1" if high == LARGEST else f"{high:g}"
        between = f"at least {low:g}" if high == math.inf else f"from {low:g} to {largest}"
        raise SettingError(name, f"{name} must be {between}, got {value}.")
    if kind is int and abs(value) > LARGEST:
        raise SettingError(name, f"{name} must be at most 2**63 - 1, got {value}.")
    if kind is float and not _is_finite(value):
        raise SettingError(name, f"{name} must be a finite number, got {value}.")


def _is_finite(value: Any) -> bool:  # noqa: ANN401
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float is as large as
        return False
