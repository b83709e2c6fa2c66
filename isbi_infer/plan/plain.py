"""Frozen values to plain types that JSON holds, and back by the types of their fields."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Any, Literal


def plain_of(value: Any) -> Any:
    """Return a value of frozen dataclasses and tuples as dictionaries and lists, without fields that are derived."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain_of(getattr(value, f.name)) for f in fields(value) if f.init}
    if isinstance(value, tuple):
        return [plain_of(item) for item in value]
    # JSON has no such number, and NaN is not equal to NaN.
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    return value


def flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one, its keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in plain.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def read_value(kind: Any, plain: Any, where: str) -> Any:
    """Make a value of a type from plain JSON; ValueError names the place where it does not fit."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if plain is None and type(None) in arguments:
            return None
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return read_value(kind, plain, where)
    if origin is Literal:
        if plain in arguments:
            return plain
    elif origin is tuple and isinstance(plain, list):
        inner = [arguments[0]] * len(plain) if arguments[1:] == (...,) else arguments
        if len(inner) == len(plain):
            return tuple(read_value(k, item, where) for k, item in zip(inner, plain, strict=True))
    elif is_dataclass(kind) and isinstance(kind, type) and isinstance(plain, dict):
        hints = typing.get_type_hints(kind)
        wanted = {f.name for f in fields(kind) if f.init}
        if wanted != set(plain):
            raise ValueError(f"{where} has the fields {sorted(plain)}, expected {sorted(wanted)}")
        return kind(**{name: read_value(hints[name], plain[name], f"{where}.{name}") for name in wanted})
    elif kind is float and _is_number(plain):
        return float(plain)
    elif isinstance(kind, type) and type(plain) is kind:
        return plain
    raise ValueError(f"{where} is {plain!r}, expected {kind}")


def _is_number(plain: Any) -> bool:
    """Return whether this is a number, or the name of one that JSON does not hold."""
    return type(plain) in (int, float) or plain in ("nan", "inf", "-inf")
