"""Probabilities as models return them, as callers receive them and as files hold them."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ModelError, UsageError

Emit = Literal["cell", "membrane"]
OutputDtype = Literal["float32", "uint8"]
_ROUNDING = 1e-5  # of float32 sums, and of resampling


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


def checked(result: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a model's result, if it holds probabilities, without what rounding leaves beyond 0 and 1.

    Parameters
    ----------
    result : ndarray of float32 or uint8
        As a model returns it.

    Returns
    -------
    ndarray of the same dtype and shape
        In [0, 1], or [0, 255] of uint8.

    Raises
    ------
    ModelError
        If some are no numbers, or are farther outside than rounding explains.
    """
    if result.dtype == np.uint8 or not result.size:
        return result
    low, high = float(result.min()), float(result.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # NaN is neither
        found = "NaN" if np.isnan([low, high]).any() else f"values between {low:.6g} and {high:.6g}"
        raise ModelError(
            f"the model gives {found}; expected probabilities in [0, 1]; nothing of the section is written: "
            "look for damaged weights, logits without a sigmoid, or an overflow in fp16 (--precision fp32)"
        )
    return result if low >= 0 and high <= 1 else np.clip(result, 0, 1)


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
