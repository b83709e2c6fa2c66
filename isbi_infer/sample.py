"""*Synthetic* ssTEM stacks of neuropil with labels, drawn from random numbers and free of anyone's data.

Neurites are balls and chains of balls in an additively weighted Voronoi tessellation. They orbit and swell
slowly with depth and are seen through a warp that drifts, so that a stack is one volume in slices.
"""

from __future__ import annotations

from isbi_infer.start import Program

if __name__ == "__main__":
    program = Program("isbi-infer sample")  # what follows takes long to import

import argparse
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from isbi_infer.errors import UsageError

PIXEL_NM = 4.0
SECTION_NM = 50.0

Image: TypeAlias = NDArray[np.uint8]
Field: TypeAlias = NDArray[np.float32]
Cells: TypeAlias = NDArray[np.int32]
Random: TypeAlias = np.random.Generator

_LARGEST = 2**14  # px along a side
_MOST = 2**32  # px of a stack, as many as a TIFF holds
_MARGIN = 110  # neurites are packed beyond the section too, so that its edges look like its middle
_WARPS = (
    (45.0, 22.0, 20.0),
    (13.0, 5.0, 9.0),
    (4.0, 1.1, 5.0),
)  # sigma and amplitude (px), sections per turn


def synthetic_stack(
    sections: int = 8, height: int = 512, width: int = 512, *, seed: int = 2012
) -> tuple[Image, Image]:
    """Draw a *synthetic* ssTEM stack of neuropil and its labels.

    Parameters
    ----------
    sections : int
        Number of sections 50 nm apart, at least 1; a shorter stack is the beginning of a longer one.
    height, width : int
        Size of a section in pixels of 4 nm, 32 to 16384.
    seed : int
        Equal arguments make equal stacks; not negative.

    Returns
    -------
    image_ZYX : ndarray of uint8
        The sections; membranes are dark.
    labels_ZYX : ndarray of uint8
        255 in cell interiors, mitochondria and vesicles included, 0 on membranes. The cells are the
        4-connected components of ``labels_ZYX[z] > 0``.

    Raises
    ------
    UsageError
        If an argument is out of its range.
    """
    if sections < 1:
        raise UsageError(f"sections is {sections}; a stack has at least 1")
    if min(height, width) < 32:
        raise UsageError(f"a section of {height}x{width} pixels is too small; pass at least 32x32")
    if max(height, width) > _LARGEST:
        raise UsageError(
            f"a section of {height}x{width} pixels is too large; pass at most {_LARGEST}x{_LARGEST}"
        )
    if sections * height * width >= _MOST:
        raise UsageError(
            f"{sections} sections of {height}x{width} pixels are too many for a TIFF; pass fewer"
        )
    if seed < 0:
        raise UsageError(f"seed is {seed}; pass 0 or more")
    tissue = _Tissue.grow(np.random.default_rng([seed, 0]), (height, width))
    faces = pairwise(tissue.cells(z - 0.5) for z in range(sections + 1))
    cuts = [_cut(seed, tissue, z, upper != lower) for z, (upper, lower) in enumerate(faces)]
    images, labels = zip(*cuts, strict=True)
    return np.stack(images), np.stack(labels)


def _blur(field: NDArray[np.generic], sigma: float) -> Field:
    fy, fx = np.fft.fftfreq(field.shape[0])[:, None], np.fft.rfftfreq(field.shape[1])
    gaussian = np.exp(-2 * (np.pi * sigma) ** 2 * (fy**2 + fx**2)).astype(np.float32)
    return np.fft.irfft2(np.fft.rfft2(field.astype(np.float32)) * gaussian, s=field.shape).astype(np.float32)


def _noise(rng: Random, shape: tuple[int, ...], sigma: float) -> Field:
    """Smooth random field of zero mean and unit variance."""
    whole = [-(-max(n, 256) // 32) * 32 for n in shape]  # a kernel wider than its field would leave nothing
    field = _blur(rng.standard_normal(whole, dtype=np.float32), sigma)
    field -= field.mean()
    field /= field.std()
    return field[: shape[0], : shape[1]]


def _distance(targets: NDArray[np.bool_], reach: int) -> Field:
    """Euclidean distance to the nearest target, in pixels, exact below `reach` and clipped there."""
    squared = np.where(targets, 0, reach * reach).astype(np.int16)
    for _ in range(2):  # along y, then along x
        nearest = squared.copy()
        for step in range(1, min(reach, len(squared))):
            np.minimum(nearest[step:], squared[:-step] + step * step, out=nearest[step:])
            np.minimum(nearest[:-step], squared[step:] + step * step, out=nearest[:-step])
        squared = np.ascontiguousarray(nearest.T)
    return (squared**0.5).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Tissue:
    """Neurites and the warp they are seen through; lengths in pixels, depth in sections."""

    balls: Field  # [ball, (y, x, radius)], before the warp
    cell: Cells  # of each ball
    habit: Field  # [(phase, turn per section, phase, angle), ball], radians drawn once per cell
    warps: tuple[Field, ...]  # [quadrature, axis, Y, X] per entry of _WARPS

    @classmethod
    def grow(cls, rng: Random, shape: tuple[int, int]) -> _Tissue:
        warps = tuple(
            np.stack([amplitude * _noise(rng, shape, sigma) for _ in range(4)]).reshape(2, 2, *shape)
            for sigma, amplitude, _ in _WARPS
        )
        balls, cell = _packed(rng, shape)
        habit = rng.uniform(0, 2 * np.pi, (4, int(cell.max()) + 1)).astype(np.float32)[:, cell]
        habit[1] = 0.15 + 0.035 * habit[1]
        return cls(balls, cell, habit, warps)

    def at(self, z: float) -> tuple[Field, Field, Field]:
        """Return y, x and radius of the balls at depth `z`, before the warp."""
        (y, x, radius), (phase, pace, swelling, _) = self.balls.T, self.habit
        away = 0.3 * radius
        y, x = y + away * np.sin(phase + pace * z), x + away * np.cos(phase + 0.7 * pace * z)
        return y, x, radius * (1 + 0.2 * np.sin(swelling + pace * z))

    def drift(self, z: float) -> Field:
        """Return how far the warp carries each pixel of the section at depth `z`, [axis, Y, X]."""
        drift_AYX: Field = np.zeros_like(self.warps[0][0])
        for (_, _, sections), warp in zip(_WARPS, self.warps, strict=True):
            turn = 2 * np.pi * z / sections
            drift_AYX += float(np.cos(turn)) * warp[0] + float(np.sin(turn)) * warp[1]
        return drift_AYX

    def cells(self, z: float, block: int = 64) -> Cells:
        """Return which cell each pixel lies in: the one whose surface is nearest."""
        drift_AYX, (y, x, radius) = self.drift(z), self.at(z)
        at_AYX = drift_AYX + np.indices(drift_AYX.shape[1:], np.float32)
        cells: Cells = np.empty(drift_AYX.shape[1:], np.int32)
        for top in range(0, cells.shape[0], block):
            for left in range(0, cells.shape[1], block):
                here = np.s_[top : top + block, left : left + block]
                v, u = at_AYX[:, *here]
                mid_v, mid_u = (v.min() + v.max()) / 2, (u.min() + u.max()) / 2
                half = np.hypot(v.max() - mid_v, u.max() - mid_u)
                surface = np.hypot(y - mid_v, x - mid_u) - radius
                near = np.flatnonzero(surface <= surface.min() + 2 * half)
                dy, dx, r = v - y[near, None, None], u - x[near, None, None], radius[near, None, None]
                cells[here] = self.cell[near[(np.sqrt(dy * dy + dx * dx) - r).argmin(axis=0)]]
        return cells

    def found(self, z: float, y: Field, x: Field) -> Field:
        """Return where in the section at depth `z` places of the tissue are seen, [place, (y, x)]."""
        drift_AYX = self.drift(z)
        where = places = np.stack([y, x])
        for _ in range(8):  # a fixed point, since the warp is gentle
            seen = np.ravel_multi_index(tuple(np.rint(where).astype(int)), drift_AYX.shape[1:], mode="clip")
            where = places - drift_AYX.reshape(2, -1)[:, seen]
        return where.T


def _packed(rng: Random, shape: tuple[int, int]) -> tuple[Field, Cells]:
    """Throw neurites like darts, thick ones first; [ball, (y, x, radius)] and the cell of each ball."""
    extent = np.array(shape) + 2 * _MARGIN
    tries = int(extent.prod() / 150)
    balls = np.empty((0, 4))
    for cell, radius in enumerate(np.sort(rng.lognormal(np.log(10), 0.66, tries).clip(8, 70))[::-1]):
        links = int(rng.integers(2, 6)) if rng.random() < 0.3 and radius < 45 else 1
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.5, links))
        path = 1.3 * radius * np.cumsum([np.sin(heading), np.cos(heading)], axis=1).T
        places = rng.uniform(-_MARGIN, extent - _MARGIN) + path
        gaps = np.hypot(*(places[:, None] - balls[:, :2]).T).T / (balls[:, 2] + radius)
        if gaps.min(initial=np.inf) > 0.92:
            balls = np.concatenate([balls, np.column_stack([places, np.full((links, 2), (radius, cell))])])
    return balls[:, :3].astype(np.float32), balls[:, 3].astype(np.int32)


def _cut(seed: int, tissue: _Tissue, z: int, swept: NDArray[np.bool_]) -> tuple[Image, Image]:
    """Image and labels of a section; `swept` is where membranes slant through its thickness."""
    rng, cells = np.random.default_rng([seed, 1, z]), tissue.cells(z)
    border = np.diff(cells, axis=0, append=cells[-1:]) | np.diff(cells, axis=1, append=cells[:, -1:])
    depth = _distance(border != 0, 16)
    veil = _blur(swept, 2.0)
    half_width = 2.15 + 0.3 * _noise(rng, cells.shape, 4) + 1.3 * veil
    rounding = 2.5  # so that corners and slivers of the tessellation fill with membrane
    outside = _distance(depth > np.maximum(half_width, 1.2) + rounding, 7) - rounding
    stain = np.clip(1 + 0.16 * _noise(rng, cells.shape, 7) - 0.3 * veil, 0.45, 1.3)
    cleft = 0.25 * np.exp(-((depth / 0.9) ** 2)) * np.clip(1 - 3 * veil, 0, 1)
    cover = (stain - cleft) / (1 + np.exp(-1.8 * (outside - 0.5)))
    mitochondria = _mitochondria(rng, tissue, z, cells, depth)
    contents = _cytoplasm(rng, tissue, cells, (depth > 6) & (mitochondria == 0))
    density = 96 * cover + mitochondria + (1 - 0.7 * cover) * (contents + 38 * _blur(veil, 4))
    density += _synapses(tissue, z, depth)
    return _micrograph(rng, density), np.where(outside <= 0, np.uint8(255), np.uint8(0))


def _around(place: Field, reach: float, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], Field, Field]:
    """Slices of a section within `reach` of a place, and the offsets from it there."""
    start, stop = (np.clip(place + way, 0, shape).astype(int) for way in (-reach, reach))
    v, u = (np.arange(a, b, dtype=np.float32) - at for a, b, at in zip(start, stop, place, strict=True))
    return np.s_[start[0] : stop[0], start[1] : stop[1]], v[:, None], u


def _mitochondria(rng: Random, tissue: _Tissue, z: int, cells: Cells, depth: Field) -> Field:
    """Ovals with cristae and a dark outline lined with pale, as large as their cell has room."""
    y, x, radius = tissue.at(z)
    _, pace, swelling, angle = tissue.habit
    places = tissue.found(z, y + 0.2 * radius * np.sin(3 * angle), x + 0.2 * radius * np.cos(3 * angle))
    length = np.minimum(1.4 * radius, 42) * np.clip(0.5 + np.sin(5 * angle + pace * z), 0, 1) ** 0.5
    ripple = _noise(rng, cells.shape, 5)
    density = np.zeros(cells.shape, np.float32)
    for ball in np.flatnonzero((length > 11) & (np.sin(7 * swelling) > 0.1)):
        here, v, u = _around(places[ball], length[ball] + 2, cells.shape)
        c, s = np.cos(angle[ball]), np.sin(angle[ball])
        along, across = c * u + s * v, c * v - s * u
        width = (0.6 + 0.2 * np.sin(5 * swelling[ball])) * length[ball]
        oval = np.hypot(along / length[ball], across / width) * (1 + 0.05 * ripple[here])
        taken = (cells[here] != tissue.cell[ball]) | (depth[here] < 6) | (density[here] > 0)
        room = oval.min(initial=1, where=taken)
        sunk = width * (room - oval) if room * width > 7 else np.full_like(oval, -9)
        cristae = np.sin(0.95 * along + 1.6 * ripple[here] + swelling[ball]) * np.clip(sunk / 4, 0, 1)
        outline = 22 * np.exp(-((sunk - 0.5) ** 2) / 2) - 20 * np.exp(-((sunk - 3) ** 2) / 2)
        density[here] += (66 + 20 * cristae + outline) * np.clip(sunk + 1, 0, 1)
    return density


def _synapses(tissue: _Tissue, z: int, depth: Field) -> Field:
    """Dark smudges that sit on a stretch of membrane for a few sections."""
    y, x, radius = tissue.at(z)
    _, pace, swelling, angle = tissue.habit
    places = tissue.found(z, y + radius * np.sin(angle), x + radius * np.cos(angle))
    present = np.clip(2 * np.sin(3 * swelling + 1.5 * pace * z) - 0.8, 0, 1)
    density = np.zeros(depth.shape, np.float32)
    for ball in np.flatnonzero((radius > 14) & (present > 0) & (np.sin(11 * angle) > 0.2)):
        here, v, u = _around(places[ball], 45, depth.shape)
        smudge = 65 * present[ball] * np.exp(-(v * v + u * u) / 400 - (depth[here] / 11) ** 2)
        density[here] = np.maximum(density[here], smudge)
    return density


def _cytoplasm(rng: Random, tissue: _Tissue, cells: Cells, cytosol: NDArray[np.bool_]) -> Field:
    """Each cell's own grey, mottled; in the cytosol vesicles, microtubules and reticulum."""
    phase, _, swelling, angle = tissue.habit
    grey, crowd = np.zeros((2, int(tissue.cell.max()) + 1), np.float32)
    grey[tissue.cell] = 7 * np.sin(9 * phase) + 55 * np.clip(np.sin(13 * swelling) - 0.7, 0, 1)
    crowd[tissue.cell] = np.clip(0.5 + np.sin(17 * angle), 0.15, 1.5)
    chance = 0.003 * crowd[cells] * cytosol
    patches, fine = _noise(rng, cells.shape, 5), _noise(rng, cells.shape, 1.3)
    flecks = np.clip(fine + 0.4 * patches, -0.7, 2.5)
    mottle = 9 * _noise(rng, cells.shape, 4) + 6 * _noise(rng, cells.shape, 14)
    reticulum = np.exp(-((patches / 0.13) ** 2)) * np.clip(_noise(rng, cells.shape, 11) - 0.5, 0, 1) * cytosol
    vesicles = _strewn(rng, chance, radius=3.4, wall=1.1)
    microtubules = _strewn(rng, 1.3 * chance, radius=0, wall=1.6)
    contents: Field = grey[cells] + mottle + 30 * flecks + 36 * reticulum + 66 * vesicles + 70 * microtubules
    return contents


def _strewn(rng: Random, chance: Field, radius: float, wall: float) -> Field:
    """Rings, or dots where `radius` is 0, of random darkness, with a `chance` per pixel."""
    centres = (rng.random(chance.shape, np.float32) < chance) * rng.uniform(0.4, 1.2, chance.shape)
    y, x = (np.fft.fftfreq(n, 1 / n) for n in chance.shape)
    ring = np.fft.rfft2(np.exp(-(((np.hypot(y[:, None], x) - radius) / wall) ** 2)))
    return np.fft.irfft2(np.fft.rfft2(centres) * ring, s=chance.shape).astype(np.float32)


def _micrograph(rng: Random, density: Field) -> Image:
    """Photograph a density: illumination drift, point spread, shot noise, 8 bits."""
    light = 1 + 0.05 * _noise(rng, density.shape, 90) + rng.uniform(-0.05, 0.05)
    grey = light * (164 - _blur(density, 0.6))
    shot = 1.65 * np.sqrt(grey.clip(20)) * _noise(rng, density.shape, 0.6)
    return np.asarray((grey + shot).round().clip(0, 255), np.uint8)


def main(argv: list[str] | None = None) -> None:
    """Write a synthetic stack, and its labels if asked for, as ImageJ TIFF."""
    parser = argparse.ArgumentParser(prog="python -m isbi_infer.sample", description=main.__doc__)
    parser.add_argument("out", metavar="OUT.tif")
    parser.add_argument("--labels", metavar="LABELS.tif")
    for name, value in (("sections", 8), ("size", 512), ("seed", 2012)):
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N", help=f"default {value}")
    asked = parser.parse_args(argv)
    from isbi_infer.conflicts import check_apart
    from isbi_infer.files import check_writable, replacing
    from isbi_infer.terminal import exit_codes

    with exit_codes("isbi-infer sample"):
        import tifffile

        outputs = [("the stack", asked.out)] + ([("--labels", asked.labels)] if asked.labels else [])
        check_apart(outputs, [])
        for _, path in outputs:
            check_writable(path)
        resolution = (1000 / PIXEL_NM, 1000 / PIXEL_NM)
        metadata = {"spacing": SECTION_NM / 1000, "unit": "um", "axes": "ZYX"}
        stacks = synthetic_stack(asked.sections, asked.size, asked.size, seed=asked.seed)
        for path, stack_ZYX in zip((asked.out, asked.labels), stacks, strict=True):
            if path:
                with replacing(path) as temporary:
                    tifffile.imwrite(
                        temporary, stack_ZYX, imagej=True, resolution=resolution, metadata=metadata
                    )


if __name__ == "__main__":
    with program:
        main()
