"""A section as a network sees it: its tissue at the model's pixel size, with its statistics; and the way back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.pixels.canvas import MaskGrid, Section
from isbi_infer.pixels.mending import in_window, normalising, tissue_of, tissue_window
from isbi_infer.pixels.normalise import Statistics, intensity_statistics
from isbi_infer.pixels.probability import checked, decode
from isbi_infer.pixels.resample import resample, resample_source, resample_window
from isbi_infer.pixels.statistics import SectionError, SectionStatistics, section_statistics
from isbi_infer.pixels.windows import SLAB, Grid, Mask, Window, Windowed, bands
from isbi_infer.plan.scaling import Scaling

_HALF = 0.5  # of a pixel's area


@dataclass(frozen=True, slots=True, eq=False)
class Tissue:
    """The tissue of one section.

    Attributes
    ----------
    found : SectionStatistics
        What of the section is tissue.
    pixels_YX : ndarray, shape (Y, X)
        Grey values of the tissue at the model's pixel size, without hot pixels and canvas; of no pixels where the
        section is blank, which is then not to be computed.
    statistics : Statistics
        By which `pixels_YX` are normalised.
    shape : (int, int)
        The section's (Y, X).
    cut_shape : (int, int)
        (Y, X) of its tissue, in the section's own pixels.
    scaled : bool
        Whether the tissue was resampled.
    """

    found: SectionStatistics
    pixels_YX: Section
    statistics: Statistics
    shape: tuple[int, int]
    cut_shape: tuple[int, int]
    scaled: bool

    @classmethod
    def of(
        cls,
        section_YX: Section,
        scaling: Scaling | None = None,
        *,
        nodata: float | None = None,
        as_bytes: bool = False,
    ) -> Tissue:
        """Find the tissue of a section.

        Parameters
        ----------
        section_YX : ndarray or masked array, shape (Y, X), integer or floating dtype
            Grey values; masked ones are canvas.
        scaling : Scaling, optional
            How the section is brought to the model's pixel size.
        nodata : float, optional
            The value that stands for "no data".
        as_bytes : bool
            Whether resampled grey values are rounded to uint8, for a model that takes such.

        Returns
        -------
        Tissue
        """
        mask_YX = np.ma.getmaskarray(section_YX) if np.ma.is_masked(section_YX) else None
        section_YX = np.ma.getdata(section_YX)
        shape = _shape(section_YX)
        found = section_statistics(section_YX, nodata=nodata, mask_YX=mask_YX)
        if found.blank:
            return cls(found, section_YX[:0, :0], found, shape, (0, 0), scaled=False)
        cut_YX = tissue_of(section_YX, found)
        if scaling is None:
            return cls(found, cut_YX, normalising(cut_YX, found), shape, _shape(cut_YX), scaled=False)
        inner_shape = scaling.inner_shape(_shape(cut_YX))
        inner_YX = _stored(resample(cut_YX, inner_shape), as_bytes)
        statistics = _resampled_statistics(inner_YX, found, inner_shape)
        return cls(found, inner_YX, statistics, shape, _shape(cut_YX), scaled=True)

    def whole(self, result_YX: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Bring a result back to the section's own pixels, with 0 (membrane) where there is no tissue.

        Parameters
        ----------
        result_YX : ndarray of the shape of `pixels_YX`
            Probabilities of cell interior, as float32 or uint8.

        Returns
        -------
        ndarray of the section's shape
            As float32 where the tissue was resampled, else of the same dtype.
        """
        if self.found.blank:
            return np.zeros(self.shape, result_YX.dtype)
        if self.scaled:
            result_YX = checked(resample(decode(result_YX), self.cut_shape))
        whole = slice(0, self.shape[0]), slice(0, self.shape[1])
        return in_window(result_YX, self.found.box, self.found, whole)


def measure_windows(
    section_YX: Grid,
    scaling: Scaling | None = None,
    *,
    nodata: float | None = None,
    as_bytes: bool = False,
    store: Callable[[tuple[int, ...]], MaskGrid] | None = None,
) -> tuple[SectionStatistics, Statistics]:
    """Measure a section that is read by windows: to the same bits what `Tissue.of` finds.

    Parameters
    ----------
    section_YX : ndarray or Windowed, shape (Y, X)
        Grey values.
    scaling, nodata, as_bytes
        As in `Tissue.of`.
    store : callable, optional
        Makes the mask of the canvas, of a shape.

    Returns
    -------
    (SectionStatistics, Statistics)
        Those of the section, and those that its tissue is normalised by.
    """
    found = section_statistics(section_YX, nodata=nodata, store=store)
    if found.blank:
        return found, found
    if scaling is None:
        return found, normalising(section_YX, found)
    shape = found.box[0].stop - found.box[0].start, found.box[1].stop - found.box[1].start
    inner_shape = scaling.inner_shape(shape)

    def inner(window: Window) -> Section:
        return tissue_at(lambda part: section_YX[part], found, inner_shape, window, as_bytes=as_bytes)

    held = int(SLAB * min(1.0, scaling.y * scaling.x))
    inner_YX = Windowed(inner, inner_shape, np.uint8 if as_bytes else np.float32, held)
    return found, _resampled_statistics(inner_YX, found, inner_shape)


def tissue_at(
    read: Callable[[Window], Section],
    found: SectionStatistics,
    shape: tuple[int, int],
    window: Window,
    *,
    as_bytes: bool,
) -> Section:
    """Return a window of the tissue of a section, resampled to a shape.

    Parameters
    ----------
    read : callable
        Returns a window of the section's grey values.
    found : SectionStatistics
        Those of the section.
    shape : (int, int)
        (Y, X) of the whole tissue once it is resampled.
    window : (slice, slice)
        Of that.
    as_bytes : bool
        Whether the result is rounded to uint8.
    """
    tissue_shape = found.box[0].stop - found.box[0].start, found.box[1].stop - found.box[1].start
    source = resample_source(tissue_shape, shape, window)
    tissue_YX = tissue_window(read, found, source)
    origin = source[0].start, source[1].start
    return _stored(resample_window(tissue_YX, origin, tissue_shape, shape, window), as_bytes)


def stand_ins(seen: Sequence[SectionStatistics]) -> list[int]:
    """Return which of some sections a network sees at each place: the one that stands there, or one for it.

    For a neighbour without tissue, or with another outline of it, stands the next one on the way to the section in the
    middle, and at last that section itself: tissue is cut at its outline, and no pixel of a section is where it was in
    another that is cut elsewhere.

    Parameters
    ----------
    seen : sequence of SectionStatistics
        Of the section in the middle, and of as many neighbours on either side.

    Returns
    -------
    list of int
        Places in `seen`, as many.
    """
    middle = len(seen) // 2
    chosen = [middle] * len(seen)
    for step in (-1, 1):
        for place in range(middle + step, middle + step * (middle + 1), step):
            alike = not seen[place].blank and seen[place].box == seen[middle].box
            chosen[place] = place if alike else chosen[place - step]
    return chosen


def _resampled_statistics(
    inner_YX: Grid, found: SectionStatistics, inner_shape: tuple[int, int]
) -> Statistics:
    """Measure resampled tissue, without what is more canvas than tissue."""
    if 0 < found.std < float(np.finfo(np.float32).tiny):  # as resampled pixels are held
        raise SectionError(
            f"has grey values that differ by {found.std:.0e} only, too little to resample them; multiply them by a "
            "constant and write it again"
        )
    if found.canvas_YX is None:
        return intensity_statistics(inner_YX)
    rows, columns = found.box
    shape = rows.stop - rows.start, columns.stop - columns.start

    def tissue(wanted: slice) -> Mask:
        window = wanted, slice(0, inner_shape[1])
        (y, x) = resample_source(shape, inner_shape, window)
        canvas_YX = found.canvas_YX[
            y.start + rows.start : y.stop + rows.start, x.start + columns.start : x.stop + columns.start
        ]
        inside_YX: Mask = resample_window(canvas_YX, (y.start, x.start), shape, inner_shape, window) < _HALF
        return inside_YX

    any_tissue = any(tissue(part).any() for part in bands(0, inner_shape[0], inner_shape[1]))
    return intensity_statistics(inner_YX, tissue if any_tissue else None)


def _stored(inner_YX: Section, as_bytes: bool) -> Section:
    return np.rint(inner_YX).astype(np.uint8) if as_bytes else inner_YX


def _shape(image_YX: Section) -> tuple[int, int]:
    return image_YX.shape[0], image_YX.shape[1]
