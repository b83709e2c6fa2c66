"""Probabilities as models return them, as callers receive them and as files hold them."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import UsageError

Emit = Literal["cell", "membrane"]
OutputDtype = Literal["float32", "uint8"]


def check_encoding(emit: str, dtype: str) -> None:
    """Raise UsageError unless `encode` knows both."""
    if emit not in get_args(Emit):
        raise UsageError(f"cannot emit {emit!r}; choose cell or membrane")
    if dtype not in get_args(OutputDtype):
        raise UsageError(f"cannot write {dtype!r}; choose float32 or uint8")


def decode(result: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return probabilities.

    Parameters
    ----------
    result : ndarray of float32 or uint8
        As a model returns it: probabilities p, or round(255 p).

    Returns
    -------
    ndarray of float32, same shape
        In [0, 1].
    """
    return np.divide(result, np.float32(255)) if result.dtype == np.uint8 else result


def encode(result: npt.NDArray[Any], emit: str, dtype: str) -> npt.NDArray[Any]:
    """Return what a file is to hold.

    Parameters
    ----------
    result : ndarray of float32 or uint8
        As a model returns it, 1 or 255 = cell.
    emit : {"cell", "membrane"}
        What 1 is to mean.
    dtype : {"float32", "uint8"}
        "uint8" stores round(255 p).

    Returns
    -------
    ndarray of `dtype`, same shape
    """
    if result.dtype == np.uint8 and dtype == "uint8":
        return result if emit == "cell" else 255 - result
    probability = decode(result)
    wanted = probability if emit == "cell" else np.float32(1) - probability
    return wanted if dtype == "float32" else np.rint(wanted * np.float32(255)).astype(np.uint8)
