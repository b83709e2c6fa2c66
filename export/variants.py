"""What one export can consist of: file formats, precisions, inputs and outputs, and the names of the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from isbi_infer.errors import UsageError

FORMATS = {"onnx": ".onnx", "torchscript": ".pt", "program": ".pt2"}
PRECISIONS: dict[str, Literal["float32", "float16", "int8"]] = {
    "fp32": "float32",
    "fp16": "float16",
    "int8": "int8",
}
IO: tuple[Literal["float32", "uint8"], ...] = ("float32", "uint8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One file of an export.

    Attributes
    ----------
    file_format : str
        A key of `FORMATS`.
    precision : {"float32", "float16", "int8"}
        Of the weights and the arithmetic.
    io : {"float32", "uint8"}
        Of input and output: "float32" takes normalised grey values and returns probabilities p, "uint8" takes grey
        values as stored and returns round(255 p).
    """

    file_format: str
    precision: Literal["float32", "float16", "int8"] = "float32"
    io: Literal["float32", "uint8"] = "float32"

    @property
    def arithmetic(self) -> str:
        """What its precision is called where it is computed in: a key of `PRECISIONS`."""
        return {long: name for name, long in PRECISIONS.items()}[self.precision]

    @property
    def suffix(self) -> str:
        """What comes after the checkpoint's name: ``.onnx``, ``.int8.uint8.onnx``, ``.pt`` ..."""
        parts = [self.arithmetic] * (self.precision != "float32") + [self.io] * (self.io != "float32")
        return "".join(f".{part}" for part in parts) + FORMATS[self.file_format]

    def __str__(self) -> str:
        """Name it in a message: ``onnx``, ``onnx int8 uint8``, ``torchscript`` ..."""
        return " ".join([self.file_format, *self.suffix.split(".")[1:-1]])


def plan_variants(
    formats: Sequence[str], precisions: Sequence[str] = ("fp32",), ios: Sequence[str] = ("float32",)
) -> list[Variant]:
    """Lay out the files of an export; only ONNX has other precisions, inputs and outputs than float32.

    Parameters
    ----------
    formats : sequence of str
        Keys of `FORMATS`.
    precisions : sequence of str
        Keys of `PRECISIONS`.
    ios : sequence of str
        Of `IO`.

    Returns
    -------
    list of Variant
        Each once.

    Raises
    ------
    UsageError
        If a name is unknown, or precisions or inputs are asked for that no file would have.
    """
    for what, given, known in (
        ("formats", formats, list(FORMATS)),
        ("precisions", precisions, list(PRECISIONS)),
        ("inputs and outputs", ios, list(IO)),
    ):
        unknown = [name for name in given if name not in known]
        if unknown or not given:
            raise UsageError(f"unknown {what} {unknown}; choose from {', '.join(known)}")
    if "onnx" not in formats and (set(precisions) != {"fp32"} or set(ios) != {"float32"}):
        raise UsageError(
            f"{' and '.join(formats)} files are float32 only; add onnx to the formats for other precisions and inputs"
        )
    variants = [
        Variant(file_format=name, precision=PRECISIONS[precision], io=io)
        for name in formats
        for precision, io in (product(precisions, _known_io(ios)) if name == "onnx" else [("fp32", IO[0])])
    ]
    return list(dict.fromkeys(variants))


def _known_io(ios: Sequence[str]) -> list[Literal["float32", "uint8"]]:
    return [io for io in IO if io in ios]
