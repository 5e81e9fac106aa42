"""Checks of settings, each of which raises `ConfigError` and names the setting and its value."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

from helpers.errors import ConfigError


def require(condition: bool, message: str) -> None:
    """Raise `ConfigError(message)` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def require_types(settings: object) -> None:
    """Refuse what is no int, float or bool where a setting is one; beyond 64 bits no generator takes a seed.

    Papermill hands over text where it knows no value, and the text "false" is true.
    """
    for field in fields(settings):
        value = getattr(settings, field.name)
        truth = isinstance(value, bool)
        if field.type == "int":
            whole = isinstance(value, int) and not truth and value < 2**63
            require(whole, f"{field.name} = {value!r}: a whole number is needed, of 64 bits.")
        elif field.type == "float":
            require(isinstance(value, (int, float)) and not truth, f"{field.name} = {value!r}: a number is needed.")
        elif field.type == "bool":
            require(truth, f"{field.name} = {value!r}: True or False is needed.")


def require_positive(settings: object, *names: str) -> None:
    """Refuse settings that are not greater than 0, or not finite."""
    for name in names:
        value = getattr(settings, name)
        require(0 < value < math.inf, f"{name} = {value!r}: must be greater than 0, and finite.")


def require_fraction(settings: object, *names: str) -> None:
    """Refuse settings below 0, and of 1 or more."""
    for name in names:
        value = getattr(settings, name)
        require(0 <= value < 1, f"{name} = {value!r}: must be at least 0 and less than 1.")


def require_not_negative(settings: object, *names: str) -> None:
    """Refuse settings that are negative, or not finite."""
    for name in names:
        value = getattr(settings, name)
        require(0 <= value < math.inf, f"{name} = {value!r}: must not be negative, and finite.")


def require_text(name: str, value: object) -> None:
    """Refuse what is neither None nor text or a path that UTF-8 can write."""
    require(value is None or isinstance(value, (str, Path)), f"{name} = {value!r}: text is needed.")
    try:  # it is written to the run's facts and given to the notebooks, both of which are UTF-8
        str(value).encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{name} = {value!r}: the name is not UTF-8. Choose another.") from None


def is_like(value: object, default: object) -> bool:
    """Whether a number or a truth value has the type of the default; an integer will do for a float."""
    accepted = (int, float) if isinstance(default, float) else type(default)
    return isinstance(value, accepted) and isinstance(value, bool) == isinstance(default, bool)


def field_names(settings: type) -> tuple[str, ...]:
    """Names of the settings of a dataclass of this module."""
    return tuple(field.name for field in fields(settings))


def as_dict(settings: object) -> dict:
    """A dataclass of this module as plain JSON values, in the order of its fields."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {
        name: list(v) if isinstance(v, tuple) else str(v) if isinstance(v, Path) else v for name, v in values.items()
    }
