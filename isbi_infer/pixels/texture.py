"""How a section looks, in seven numbers, and how far that is from what a model was trained on.

The numbers are the mean squared differences of grey values at five distances, which fall with blur, with smaller pixels
and with coarser tissue, and the skewness and kurtosis of the grey values, which tell staining and detectors apart. All
are of the section as the network sees it: at the model's pixel size, normalised. They are taken from a grid of pixels
in a few windows, since a rough figure will do and must cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log, sqrt
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from isbi_infer.pixels.normalise import Statistics
from isbi_infer.pixels.offsets import less

_LAGS = (1, 2, 4, 8, 16)  # px
_WINDOWS = 3  # along either axis
_SIDE = 128  # px
_STEP = 8  # between the rows that are looked at
_LEAST = 2 * _LAGS[-1]  # px, side of the smallest window that says anything
_FLAT = 0.5  # of neighbours that are equal: a window of filled canvas
_TINY = 1e-6
_FEATURES = len(_LAGS) + 2

FLOOR = 0.1  # of a feature's spread: sections of one stack may be more alike than those of the next one of its kind
LIMIT = (
    2.5  # spreads; held-out sections lie within 2.2, stacks left out altogether at 3.8 and more in the median
)
_MARGIN = 1.25


def texture_of(pixels_YX: npt.NDArray[Any], statistics: Statistics) -> tuple[float, ...] | None:
    """Measure how a section looks.

    Parameters
    ----------
    pixels_YX : ndarray, shape (Y, X)
        Grey values at the model's pixel size.
    statistics : Statistics
        By which they are normalised.

    Returns
    -------
    tuple of float or None
        Natural logarithms of half the mean squared differences at 1, 2, 4, 8 and 16 pixels, in variances of the
        section; the skewness; the natural logarithm of the kurtosis. None where there is too little to measure.
    """
    height, width = pixels_YX.shape
    rows, columns = min(_SIDE, height // _WINDOWS), min(_SIDE, width // _WINDOWS)
    if min(rows, columns) < _LEAST or not 0 < statistics.inverse_std < float(np.finfo(np.float32).max):
        return None
    samples = []
    for top in _starts(height, rows):
        for left in _starts(width, columns):
            window_YX = pixels_YX[top : top + rows, left : left + columns]
            window_YX = less(window_YX, statistics.offset).astype(np.float32)
            if np.mean(window_YX[:, 1:] == window_YX[:, :-1]) < _FLAT:
                samples.append(window_YX)
    if not samples:
        return None
    windows_NYX = np.stack(samples)
    windows_NYX -= np.float32(statistics.mean)
    windows_NYX *= np.float32(statistics.inverse_std)
    inner = slice(0, columns - _LAGS[-1])
    at_NYX = windows_NYX[:, : rows - _LAGS[-1] : _STEP, inner]
    found = []
    for lag in _LAGS:
        below_NYX = windows_NYX[:, lag : rows - _LAGS[-1] + lag : _STEP, inner]
        beside_NYX = windows_NYX[:, : rows - _LAGS[-1] : _STEP, lag : columns - _LAGS[-1] + lag]
        squares = sum(np.mean(np.square(other_NYX - at_NYX)) for other_NYX in (below_NYX, beside_NYX))
        found.append(log(max(float(squares) / 4, _TINY)))
    squares_NYX = np.square(at_NYX)
    found += [float(np.mean(squares_NYX * at_NYX)), log(max(float(np.mean(np.square(squares_NYX))), _TINY))]
    return tuple(found)


def sharpness(texture: Sequence[float]) -> float:
    """Return the mean squared difference of neighbours over that of pixels 4 apart: it falls with blur.

    Parameters
    ----------
    texture : sequence of float
        From `texture_of`.
    """
    return exp(texture[_LAGS.index(1)] - texture[_LAGS.index(4)])


def _starts(size: int, side: int) -> list[int]:
    return [(2 * i + 1) * size // (2 * _WINDOWS) - side // 2 for i in range(_WINDOWS)]


@dataclass(frozen=True, slots=True)
class Look:
    """How the sections of one stack look.

    Attributes
    ----------
    name : str
        Of the stack; empty where it needs none.
    mean, spread : tuple of float
        Of each figure of `texture_of` over its sections; the spread is never 0.
    """

    name: str
    mean: tuple[float, ...]
    spread: tuple[float, ...]

    @classmethod
    def of(cls, name: str, textures: Sequence[Sequence[float]]) -> Self:
        """Return the look of a stack from the textures of its sections, at least one."""
        found = np.asarray(textures, np.float64)
        spread = np.sqrt(found.var(axis=0) + FLOOR**2)
        return cls(name, tuple(found.mean(axis=0).round(4).tolist()), tuple(spread.round(4).tolist()))

    def distance(self, texture: Sequence[float]) -> float:
        """Return how many spreads a texture is away, as the root of the mean square over its figures."""
        terms = zip(texture, self.mean, self.spread, strict=True)
        return sqrt(sum(((x - mean) / spread) ** 2 for x, mean, spread in terms) / _FEATURES)


@dataclass(frozen=True, slots=True)
class Familiar:
    """How the sections look that a model was trained on.

    Attributes
    ----------
    limit : float
        Sections farther than this from all of them are unlike them.
    looks : tuple of Look
        At least one.
    """

    limit: float
    looks: tuple[Look, ...]

    @classmethod
    def of(cls, looks: Sequence[Look], held_out: Sequence[Sequence[float]] = ()) -> Self:
        """Return what is familiar: what is as near as held-out sections, with some margin.

        Parameters
        ----------
        looks : sequence of Look
            Of the sections that were trained on.
        held_out : sequence of sequence of float
            Textures of sections of the same stacks that were not.
        """
        farthest = max((min(look.distance(texture) for look in looks) for texture in held_out), default=0.0)
        return cls(round(max(LIMIT, _MARGIN * farthest), 2), tuple(looks))

    def nearest(self, texture: Sequence[float]) -> tuple[float, str]:
        """Return the distance to the look that is nearest, and its name."""
        return min((look.distance(texture), look.name) for look in self.looks)

    def to_plain(self) -> dict[str, Any]:
        """Return plain types, as JSON gives them back."""
        looks = [
            {"name": look.name, "mean": list(look.mean), "spread": list(look.spread)} for look in self.looks
        ]
        return {"limit": self.limit, "looks": looks}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Read it back; ValueError says what does not fit."""
        if set(plain) != {"limit", "looks"} or not isinstance(plain["looks"], list | tuple):
            raise ValueError("expected a limit and looks")
        looks = tuple(_look(entry) for entry in plain["looks"])
        if not looks or not _is_number(plain["limit"]) or plain["limit"] <= 0:
            raise ValueError("expected a positive limit and at least one look")
        return cls(float(plain["limit"]), looks)


def _look(plain: Any) -> Look:
    known = isinstance(plain, Mapping) and set(plain) == {"name", "mean", "spread"}
    if not known or not isinstance(plain["name"], str):
        raise ValueError("a look has a name, a mean and a spread")
    for key in ("mean", "spread"):
        figures = plain[key]
        if not (
            isinstance(figures, list | tuple) and len(figures) == _FEATURES and all(map(_is_number, figures))
        ):
            raise ValueError(f"{key} is not {_FEATURES} numbers")
    if min(plain["spread"]) <= 0:
        raise ValueError("a spread is not positive")
    return Look(plain["name"], tuple(map(float, plain["mean"])), tuple(map(float, plain["spread"])))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
