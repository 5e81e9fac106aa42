"""Settings as frozen dataclasses: pydantic checks types and ranges, and what is wrong becomes a `ConfigError`."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic
from pydantic import ConfigDict, Field

from helpers.errors import ConfigError

T = TypeVar("T")
Count = Annotated[int, Field(gt=0, lt=2**63)]
Whole = Annotated[int, Field(ge=0, lt=2**63)]  # such as a seed: beyond 64 bits no generator takes one
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
# Strict: papermill hands over text where it knows no value, and the text "false" would be true.
_CHECKS = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")


@dataclass_transform(frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make a class of annotated defaults a frozen dataclass that refuses values of another type or out of range.

    Raises (when it is instantiated):
        ConfigError: names each setting, its value and what is needed.
    """
    checked: Any = pydantic.dataclasses.dataclass(cls, frozen=True, config=_CHECKS)
    initialise = checked.__init__

    @functools.wraps(initialise)
    def __init__(self: Any, *values: Any, **named: Any) -> None:
        try:
            initialise(self, *values, **named)
        except pydantic.ValidationError as error:
            first = {found["loc"][:1]: found for found in reversed(error.errors())}  # a union tells each of its types
            raise ConfigError(" ".join(_problem(checked, found) for found in reversed(first.values()))) from None

    checked.__init__ = __init__
    return checked


def _problem(kind: type, found: Any) -> str:
    """One line about one of pydantic's errors."""
    if found["type"] == "value_error":  # of a check of our own, which has said what is wrong
        return str(found["ctx"]["error"])
    name, *inside = found["loc"]
    if found["type"] == "unexpected_keyword_argument":
        return unknown_name(str(name), field_names(kind))
    place = f" (item {inside[0]})" if inside and isinstance(inside[0], int) else ""
    message = f"{name} = {found['input']!r}{place}: {found['msg'][0].lower()}{found['msg'][1:]}."
    if re.fullmatch(r"[-+]?\d+e[-+]?\d+", str(found["input"])):
        mantissa, *exponent = repr(float(found["input"])).partition("e")
        shown = mantissa + ("" if "." in mantissa else ".0") + "".join(exponent)
        message += f" YAML takes it for text: write {shown}."
    return message


def unknown_name(name: str, known: Collection[str]) -> str:
    """What to say of a setting that nobody knows: the nearest name, and all."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Unknown setting {name!r}.{hint} Known: {', '.join(sorted(known))}."


def require(condition: bool, message: str) -> None:
    """Raise `ConfigError(message)` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def field_names(kind: Any) -> tuple[str, ...]:
    """Names of the settings of a dataclass, in order."""
    return tuple(field.name for field in fields(kind))


def settings_of(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the given values that are settings of the dataclass, by their names."""
    return {name: given[name] for name in field_names(kind) if name in given}


def as_dict(settings: Any) -> dict[str, Any]:
    """A dataclass of settings as plain JSON values, in the order of its fields."""
    values = {name: getattr(settings, name) for name in field_names(settings)}
    return {n: list(v) if isinstance(v, tuple) else str(v) if isinstance(v, Path) else v for n, v in values.items()}
