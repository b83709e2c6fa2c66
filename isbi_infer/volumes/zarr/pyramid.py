"""Smaller resolutions of a volume: axes are halved by physical size, so that anisotropic stacks keep their sections."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.volumes.pixel_size import PixelSize

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Step:
    """From one level to the next smaller one.

    Attributes
    ----------
    shape : (int, int, int)
        (Z, Y, X) of the smaller level, in pixels.
    factors : (int, int, int)
        1 or 2 along each axis.
    """

    shape: Shape
    factors: Shape


def pyramid_steps(shape: Shape, size: PixelSize | None, smallest: tuple[int, int]) -> tuple[Step, ...]:
    """Plan the levels of a pyramid.

    Parameters
    ----------
    shape : (int, int, int)
        (Z, Y, X) of the largest level, in pixels.
    size : PixelSize or None
        Of its pixels. An axis is halved while its pixels are less than twice as long as the shortest ones; Z only where
        its size is known.
    smallest : (int, int)
        (Y, X) of a level that is small enough to be the last.

    Returns
    -------
    tuple of Step
    """
    z_nm = size.z_nm if size else None
    lengths = [z_nm or float("inf"), size.y_nm if size else 1.0, size.x_nm if size else 1.0]
    steps = list[Step]()
    while shape[1] > smallest[0] or shape[2] > smallest[1]:
        shortest = min(lengths)
        factors = [
            2 if length < 2 * shortest and extent > 1 else 1
            for length, extent in zip(lengths, shape, strict=True)
        ]
        if factors == [1, 1, 1]:
            break
        lengths = [length * factor for length, factor in zip(lengths, factors, strict=True)]
        halved = [ceil(extent / factor) for extent, factor in zip(shape, factors, strict=True)]
        shape = (halved[0], halved[1], halved[2])
        steps.append(Step(shape, (factors[0], factors[1], factors[2])))
    return tuple(steps)


def halve(values_ZYX: npt.NDArray[Any], factors: Shape) -> npt.NDArray[Any]:
    """Average pixels along axes.

    Parameters
    ----------
    values_ZYX : ndarray of uint8 or float32, shape (Z, Y, X)
        A part of a level that begins at even places; a single pixel left at an end stands for itself.
    factors : (int, int, int)
        1 or 2 along each axis.

    Returns
    -------
    ndarray of the same dtype
        Means, those of integers rounded.
    """
    mean_ZYX = values_ZYX.astype(np.float32)
    for axis, factor in enumerate(factors):
        if factor == 1:
            continue
        if mean_ZYX.shape[axis] % 2:
            last = np.take(mean_ZYX, [-1], axis)
            mean_ZYX = np.concatenate((mean_ZYX, last), axis)
        first, second = (mean_ZYX[(slice(None),) * axis + (slice(start, None, 2),)] for start in (0, 1))
        mean_ZYX = (first + second) / np.float32(2)
    integers = values_ZYX.dtype.kind in "iu"
    return (np.rint(mean_ZYX) if integers else mean_ZYX).astype(values_ZYX.dtype)
