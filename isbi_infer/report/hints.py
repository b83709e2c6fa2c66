"""Hints where to look first: sections that differ from the others of their stack, or from what the model knows.

They are no judgement of the result. A section is compared with the median of its stack, so a stack that is bad
throughout is not told from a good one, but by its distance from the training data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import numpy.typing as npt

from isbi_infer.report.figures import BINS, ProbabilityFigures
from isbi_infer.run.findings import SectionFigures

# A synthetic stack and the sections of the ISBI 2012 training stack cause no hint with these.
_LOW_CONTRAST, _HIGH_CONTRAST = 0.5, 2.0  # of the median standard deviation
_BLURRED = 0.5  # of the median sharpness
_DRIFT = 0.08  # between the distributions of probabilities, of 1 between all membrane and all cell
_UNSURE, _UNSURE_LEAST = 1.6, 0.02  # of the median p (1 - p), and what matters at all
_CANVAS = 0.005  # of a section


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionRow:
    """One section's figures, as the report shows them; None where not measured.

    Attributes
    ----------
    z : int
        Its number, from 0.
    cell : float or None
        Mean probability of cell over its tissue.
    doubt : float or None
        Mean p (1 - p) over its tissue.
    drift : float or None
        Distance of its probabilities' distribution from that of the stack, in [0, 1].
    canvas : float or None
        Fraction that is no tissue.
    contrast, sharpness : float or None
        Over the stack's median.
    unlike : float or None
        Distance from the training data, 1 being as far as the model knows.
    hints : tuple of str
        Why to look at it.
    """

    z: int
    cell: float | None = None
    doubt: float | None = None
    drift: float | None = None
    canvas: float | None = None
    contrast: float | None = None
    sharpness: float | None = None
    unlike: float | None = None
    hints: tuple[str, ...] = ()


def section_rows(
    found: Mapping[int, ProbabilityFigures], images: Mapping[int, SectionFigures]
) -> list[SectionRow]:
    """Compare the sections of a stack.

    Parameters
    ----------
    found : mapping of int to ProbabilityFigures
        Of the results, by the number of the section.
    images : mapping of int to SectionFigures
        Of the grey values.

    Returns
    -------
    list of SectionRow
        One a section, ascending.
    """
    tissue = {z: figures.statistics.tissue for z, figures in images.items()}
    shown = {z: figures for z, figures in found.items() if tissue.get(z, 1.0) > 0}
    doubts = {z: f.doubt / (f.pixels * tissue.get(z, 1.0)) for z, f in shown.items()}
    drifts = _drifts(shown, tissue)
    alive = {z: f for z, f in images.items() if not f.statistics.blank}
    contrast = _over_median({z: f.statistics.std for z, f in alive.items()})
    sharp = _over_median({z: f.sharpness for z, f in alive.items() if f.sharpness is not None})
    usual_doubt = median(doubts.values()) if doubts else 0.0
    rows = []
    for z in sorted(found.keys() | images.keys()):
        image = images.get(z)
        row = SectionRow(
            z=z,
            cell=shown[z].total / (shown[z].pixels * tissue.get(z, 1.0)) if z in shown else None,
            doubt=doubts.get(z),
            drift=drifts.get(z),
            canvas=None if image is None else 1 - image.statistics.tissue,
            contrast=contrast.get(z),
            sharpness=sharp.get(z),
            unlike=None if image is None else image.unlike,
        )
        rows.append(_with_hints(row, image, usual_doubt))
    return rows


def _with_hints(row: SectionRow, image: SectionFigures | None, usual_doubt: float) -> SectionRow:
    hints = []
    if image is not None and image.statistics.blank:
        noise = " but for noise" if image.statistics.blank == "noise" else ""
        return _hinted(row, [f"blank{noise}"])
    if row.canvas is not None and row.canvas > _CANVAS:
        hints.append(f"{row.canvas:.0%} canvas" if row.canvas >= 0.01 else "some canvas")
    if row.contrast is not None and row.contrast < _LOW_CONTRAST:
        hints.append(f"low contrast, {row.contrast:.2f} of the stack's median")
    if row.contrast is not None and row.contrast > _HIGH_CONTRAST:
        hints.append(f"high contrast, {row.contrast:.1f} times the stack's median")
    if row.sharpness is not None and row.sharpness < _BLURRED:
        hints.append(f"blurred, sharpness {row.sharpness:.2f} of the stack's median")
    if row.unlike is not None and row.unlike > 1:
        hints.append(f"unlike the training data, {row.unlike:.1f} times as far as what the model knows")
    if row.drift is not None and row.drift > _DRIFT:
        hints.append(f"probabilities distributed unlike the stack's, {row.drift:.2f} away")
    if row.doubt is not None and row.doubt > max(_UNSURE * usual_doubt, _UNSURE_LEAST):
        hints.append(f"uncertain, p(1-p) is {row.doubt:.3f}, in the stack {usual_doubt:.3f}")
    return _hinted(row, hints)


def _hinted(row: SectionRow, hints: Sequence[str]) -> SectionRow:
    return replace(row, hints=tuple(hints)) if hints else row


def _drifts(found: Mapping[int, ProbabilityFigures], tissue: Mapping[int, float]) -> dict[int, float]:
    """Return the area between the cumulative distributions of each section and of the stack, canvas left out."""
    if not found:
        return {}
    shares = {z: _share(figures, tissue.get(z, 1.0)) for z, figures in found.items()}
    usual = np.cumsum(np.median(np.stack(list(shares.values())), axis=0))
    usual /= max(float(usual[-1]), 1e-9)
    return {z: float(np.abs(np.cumsum(share) - usual).sum() / BINS) for z, share in shares.items()}


def _share(figures: ProbabilityFigures, tissue: float) -> npt.NDArray[np.float64]:
    counts = figures.histogram.astype(np.float64)
    counts[0] = max(counts[0] - figures.pixels * (1 - tissue), 0)  # canvas comes out as 0
    share: npt.NDArray[np.float64] = counts / max(counts.sum(), 1)
    return share


def _over_median(values: Mapping[int, float]) -> dict[int, float]:
    usual = median(values.values()) if values else 0.0
    return {z: value / usual for z, value in values.items()} if usual > 0 else {}
