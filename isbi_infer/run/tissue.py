"""A section as a network sees it: its tissue at the model's pixel size, with its statistics; and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.pixels.canvas import Section
from isbi_infer.pixels.mending import in_window, normalising, tissue_of
from isbi_infer.pixels.normalise import Statistics, intensity_statistics
from isbi_infer.pixels.probability import checked, decode
from isbi_infer.pixels.resample import resample
from isbi_infer.pixels.statistics import SectionStatistics, section_statistics
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
        inner_YX: Section = resample(cut_YX, scaling.inner_shape(_shape(cut_YX)))
        if as_bytes:
            inner_YX = np.rint(inner_YX).astype(np.uint8)
        inside = inner_YX
        if found.canvas_YX is not None:
            inside = inner_YX[resample(found.canvas_YX[found.box], _shape(inner_YX)) < _HALF]
        statistics = intensity_statistics(inside if inside.size else inner_YX)
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


def _shape(image_YX: Section) -> tuple[int, int]:
    return image_YX.shape[0], image_YX.shape[1]
