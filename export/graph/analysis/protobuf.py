"""The wire format of Protocol Buffers, strictly: https://protobuf.dev/programming-guides/encoding.

A message is read into its known fields, by number, each a list of integers and views into the file. Nothing is copied.
Whatever is damaged is a `ModelError` and never another exception.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ModelError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Fields = dict[int, list[Any]]


class Kind(NamedTuple):
    """What a known field may look like: its wire types, and whether it may stand more than once."""

    wires: tuple[int, ...]
    repeated: bool


INT = Kind((_VARINT,), False)
INTS = Kind((_VARINT, _BYTES), True)
FLOAT = Kind((_FIXED32,), False)
FLOATS = Kind((_FIXED32, _BYTES), True)
DOUBLES = Kind((_FIXED64, _BYTES), True)
TEXT = MESSAGE = Kind((_BYTES,), False)
TEXTS = MESSAGES = Kind((_BYTES,), True)


def damaged(what: str) -> ModelError:
    """Make the error for a file that is not what it should be."""
    return ModelError(f"cannot load the model: it is damaged or no ONNX file ({what})")


def read_message(message: memoryview, known: Mapping[int, Kind]) -> Fields:
    """Read one message.

    Parameters
    ----------
    message : memoryview of bytes
        All of it.
    known : mapping of int to Kind
        By field number; other fields are skipped, for they may be newer than this program.

    Returns
    -------
    dict of int to list
        Unsigned integers and views, in their order; fields that are not there are missing.

    Raises
    ------
    ModelError
        If the message is truncated, or a known field is of another kind or doubled.
    """
    found: Fields = {}
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        value: int | memoryview
        if wire == _VARINT:
            value, at = _varint(message, at)
        else:
            if wire == _BYTES:
                length, at = _varint(message, at)
            elif wire in (_FIXED64, _FIXED32):
                length = 8 if wire == _FIXED64 else 4
            else:
                raise damaged(f"wire type {wire}")
            if length > end - at:
                raise damaged(f"truncated: {length} bytes announced, {end - at} there")
            value = message[at : at + length]
            at += length
        kind = known.get(number)
        if kind is None:
            if number == 0:
                raise damaged("field number 0")
        elif wire not in kind.wires:
            raise damaged(f"field {number} has wire type {wire}")
        elif number not in found:
            found[number] = [value]
        elif kind.repeated:
            found[number].append(value)
        else:
            raise damaged(f"field {number} stands twice")
    return found


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Read a number of 7 bits a byte, and say where it ends."""
    value = shift = 0
    end = len(message)
    while at < end:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
        shift += 7
        if shift > 63:
            break
    raise damaged("a number is truncated or longer than 64 bits")


def integers(parts: Sequence[int | memoryview]) -> tuple[int, ...]:
    """Give a repeated field of int64, written one by one or packed."""
    numbers: list[int] = []
    for part in parts:
        if isinstance(part, int):
            numbers.append(_signed(part))
            continue
        at = 0
        while at < len(part):
            value, at = _varint(part, at)
            numbers.append(_signed(value))
    return tuple(numbers)


def integer(fields: Fields, number: int) -> int:
    """Give a field of int64, zero when it is not there."""
    return _signed(fields[number][0]) if number in fields else 0


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def numbers_in(part: memoryview, dtype: str) -> npt.NDArray[Any]:
    """View bytes as numbers, raising ModelError where the last one is cut."""
    if len(part) % np.dtype(dtype).itemsize:
        raise damaged(f"{len(part)} bytes of {np.dtype(dtype)}")
    return np.frombuffer(part, dtype)


def text(fields: Fields, number: int) -> str:
    """Give a field of text, empty when it is not there."""
    return decode(fields[number][0]) if number in fields else ""


def decode(part: memoryview) -> str:
    """Read UTF-8 strictly."""
    try:
        return str(part, "utf-8")
    except UnicodeDecodeError as error:
        raise damaged("text that is not UTF-8") from error
