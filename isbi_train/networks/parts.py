"""What the parts of a checkpoint must be: each value is of its kind, before anything is computed from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from isbi_infer.errors import ModelError
from isbi_infer.model.contract import NORMALISATIONS, ZSCORE
from isbi_infer.pixels.texture import Familiar
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.config.plain import LARGEST
from isbi_train.networks.seen import SEEN, is_seen

_PARTS = {
    "network": dict,
    "augment": dict,
    "train": dict,
    "state_dict": dict,
    "epoch": int,
    "data": dict,
    "scores": dict,
    "progress": dict,
}
_SETTINGS = {"network": NetworkConfig, "augment": AugmentConfig, "train": TrainConfig}
_DEEPEST = 50  # of values within values


def check_parts(plain: Mapping[str, Any]) -> None:
    """Raise ModelError unless all parts are there and what stands in them can be meant.

    Parameters
    ----------
    plain : mapping
        What a checkpoint's file held, of any version.
    """
    missing = sorted(set(_PARTS) - set(plain))
    if missing:
        raise ModelError(f"{', '.join(missing)} missing")
    for name, kind in _PARTS.items():
        if not isinstance(plain[name], kind) or isinstance(plain[name], bool):
            raise ModelError(f"{name} is a {type(plain[name]).__name__}, expected {kind.__name__}")
    _require(0 <= plain["epoch"] <= LARGEST, "epoch", plain["epoch"], "a count")
    _check_data(plain["data"])
    for name, value in plain["scores"].items():
        _require(_is_plain(value), f"score {name}", value, "a number")


def check_settings(plain: Mapping[str, Any]) -> None:
    """Raise ModelError unless every setting is of the type that its field has."""
    for part, kind in _SETTINGS.items():
        hints = get_type_hints(kind)
        for name, value in plain[part].items():
            if name in hints:
                _require(_fits(value, hints[name]), f"{part} {name}", value, str(hints[name]))


def _check_data(data: Mapping[str, Any]) -> None:
    missing = sorted({"sha256", "sections", "pixel_size_nm"} - set(data))
    if missing:
        raise ModelError(f"data lacks {', '.join(missing)}")
    normalisation = data.get("normalisation", ZSCORE)
    if normalisation not in NORMALISATIONS:
        raise ModelError(
            f"unknown normalisation {normalisation!r}; if a newer isbi-train wrote it, update isbi-infer"
        )
    for name, (check, expected) in _DATA.items():
        if name in data:
            _require(check(data[name]), f"data {name}", data[name], expected)


def _is_names(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(part, str) for part in (*value, *value.values()))


def _is_size(value: Any) -> bool:
    return value is None or (_fits(value, float) and value > 0)


def _is_listed(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, dict) for part in value) and _is_plain(value)


def _is_familiar(value: Any) -> bool:
    try:
        Familiar.from_plain(value)
    except ValueError:
        return False
    return True


_DATA: dict[str, tuple[Callable[[Any], bool], str]] = {
    "sha256": (_is_names, "names and digests"),
    "sections": (lambda value: _fits(value, int) and value >= 1, "a count"),
    "pixel_size_nm": (_is_size, "a size or None"),
    "init": (lambda value: isinstance(value, str), "a digest"),
    "teaching": (_is_names, "names and digests"),
    "origins": (lambda value: isinstance(value, list) and all(map(_is_names, value)), "a list of origins"),
    "stacks": (_is_listed, "a list of stacks"),
    SEEN: (is_seen, "a list of stacks"),
    "familiar": (_is_familiar, "the looks of sections"),
}


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Return whether JSON can hold a value, and programs can read it."""
    if depth > _DEEPEST:
        return False
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(part, depth + 1) for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(part, depth + 1) for part in value)
    return isinstance(value, (str, bool, NoneType)) or _fits(value, float)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if isinstance(hint, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if hint in (int, float):
        number = isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
        return bool(number and isfinite(value) and abs(value) <= LARGEST)
    return isinstance(value, get_origin(hint) or hint)


def _require(condition: bool, what: str, value: Any, expected: str) -> None:
    if not condition:
        raise ModelError(f"{what} is {str(value)[:60]!r}, expected {expected}")
