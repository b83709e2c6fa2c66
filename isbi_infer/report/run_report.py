"""The report of a run: one page with pictures, hints, scores, plan and provenance."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer._version import __version__
from isbi_infer.files import replacing
from isbi_infer.pixels.probability import decode
from isbi_infer.plan.run import RunPlan
from isbi_infer.plan.summary import RunSummary
from isbi_infer.report import pictures
from isbi_infer.report.colours import colours_apart
from isbi_infer.report.figures import BINS, ProbabilityFigures
from isbi_infer.report.hints import SectionRow, section_rows
from isbi_infer.report.page import render
from isbi_infer.run.findings import SectionFigures
from isbi_infer.terminal import counted
from isbi_infer.volumes.protocol import Source

SHOWN = 30  # sections with pictures
MOST_BYTES = 25_000_000  # of the page

_EVENLY = 20  # of the sections shown, where not all can be; the others are those with hints
_TEXT_BYTES = 1_500_000  # of all but the pictures
_SIDE = 1024  # px, longest side of a picture
_LISTED = 100  # sections with hints
_POINTS = 2000  # of a chart

Errors = Callable[
    [int, npt.NDArray[Any]], tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]] | None
]  # splits and mergers of a section as it is stored


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """All that is looked at after a run.

    Attributes
    ----------
    plan : RunPlan
        What was run.
    summary : RunSummary
        What it did.
    source, result : Source
        The input, and the output opened again.
    found : mapping of int to ProbabilityFigures
        Of the sections that were computed.
    images : mapping of int to SectionFigures
        Likewise, of the grey values.
    threshold : float
        Probability above which a pixel is drawn as cell.
    scores : mapping or None
        From `isbi_infer.scoring.Scorer`, where there are labels.
    labels_name : str
        What they are called.
    errors : callable or None
        Finds splits and mergers, where there are labels.
    neurons : Source or None
        Segments from 1, of the source's shape, to be drawn over it; None where there are none.
    """

    plan: RunPlan
    summary: RunSummary
    source: Source
    result: Source
    found: Mapping[int, ProbabilityFigures]
    images: Mapping[int, SectionFigures]
    threshold: float = 0.5
    scores: Mapping[str, Any] | None = None
    labels_name: str = ""
    errors: Errors | None = None
    neurons: Source | None = None

    def grey(self, z: int) -> pictures.Read:
        """Return what reads windows of a section of the input."""
        return partial(self.source.read, z)

    def cell(self, z: int) -> pictures.Read:
        """Return what reads windows of a section's probability of cell, in [0, 1]."""
        return lambda window: self._as_cell(self.result.read(z, window))

    def _as_cell(self, stored_YX: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        probability_YX = decode(stored_YX)
        return probability_YX if self.plan.emit == "cell" else np.float32(1) - probability_YX


def write_report(run: FinishedRun, path: Path) -> tuple[str, ...]:
    """Write the report.

    Parameters
    ----------
    run : FinishedRun
        What it is about; sections are read one by one.
    path : Path
        A file of HTML, at most 25 MB; replaced only when the new one is whole.

    Returns
    -------
    tuple of str
        What of the run is not shown.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    rows = section_rows(run.found, run.images)
    total = run.source.info.sections
    shown = sections_shown(total, [row.z for row in rows if row.hints])
    factor, drawn = _fitting_pictures(run, shown)
    note = _pictures_note(shown, total, factor)
    page = render("run.html", script="viewer.js", **_values(run, rows, shown, drawn, note))
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return (f"{path}: {note}",) if len(shown) < total or factor > 1 else ()


def sections_shown(total: int, hinted: Sequence[int], most: int = SHOWN) -> list[int]:
    """Choose the sections to show: all, or some spread evenly and, of those with hints, as many as there is room for.

    Parameters
    ----------
    total : int
        Number of sections.
    hinted : sequence of int
        Those with hints.
    most : int
        To be shown.
    """
    if total <= most:
        return list(range(total))
    even = pictures.evenly(total, _EVENLY if hinted else most)
    others = sorted(set(hinted) - set(even))
    room = most - len(even)
    picked = [others[i] for i in pictures.evenly(len(others), room)] if others and room else []
    return sorted({*even, *picked})


def _fitting_pictures(run: FinishedRun, shown: Sequence[int]) -> tuple[int, list[dict[str, str]]]:
    """Draw the sections as large as the page may be; return how many pixels along each axis became one, too."""
    shape = run.plan.source.shape
    factor = pictures.factor_for(shape, _SIDE)
    most = MOST_BYTES - _TEXT_BYTES
    while True:
        drawn, used = list[dict[str, str]](), 0
        neurons = run.neurons
        colours = colours_apart(pictures.nearest(neurons.read(z), factor) for z in shown) if neurons else {}
        for z in shown:
            drawn.append(_pictures_of(run, z, factor, colours))
            used += sum(map(len, drawn[-1].values()))
            if used * len(shown) > most * len(drawn):  # all will take too much if they are like these
                break
        else:
            return factor, drawn
        factor += 1


def _pictures_of(run: FinishedRun, z: int, factor: int, colours: Mapping[int, int]) -> dict[str, str]:
    shape = run.plan.source.shape
    grey_YX = pictures.stretched(pictures.shrunk(run.grey(z), shape, factor))
    cell_YX = np.clip(pictures.shrunk(run.cell(z), shape, factor), 0, 1)
    found = {
        "image": _address("jpeg", pictures.jpeg(pictures.to_bytes(grey_YX))),
        "probability": _address("png", pictures.png(pictures.to_bytes(cell_YX))),
    }
    if run.neurons is not None:
        labels_YX = pictures.nearest(run.neurons.read(z), factor)
        found["neurons"] = _address("png", pictures.label_png(labels_YX, colours))
    if run.errors is not None and (lines := run.errors(z, run.result.read(z))) is not None:
        splits_YX, mergers_YX = (pictures.thick_lines(mask_YX, factor) for mask_YX in lines)
        found["errors"] = _address("png", pictures.lines_png(splits_YX, mergers_YX))
    return found


def _address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _pictures_note(shown: Sequence[int], total: int, factor: int) -> str:
    said = f"{counted(total, 'section')}, all shown" if total > 1 else "one section"
    if len(shown) < total:
        said = f"{len(shown)} of {total} sections are shown, spread evenly, and some of those with hints"
    pixels = f", {factor} x {factor} pixels as one" if factor > 1 else ""
    return f"{said}{pixels}; the result itself holds all" if factor > 1 or len(shown) < total else said


def _values(
    run: FinishedRun,
    rows: Sequence[SectionRow],
    shown: Sequence[int],
    drawn: list[dict[str, str]],
    pictures_note: str,
) -> dict[str, Any]:
    """Return what the template shows."""
    summary, total = run.summary, run.source.info.sections
    height, width = run.plan.source.shape
    hinted = [row for row in rows if row.hints]
    of = {row.z: row for row in rows}
    layers = _layers(run)
    known = any(row.unlike is not None for row in rows)
    listed = sorted({*shown, *(row.z for row in hinted[:_LISTED])})
    return {
        "name": Path(run.source.name).name or run.source.name,
        "summary": f"{counted(total, 'section')} of {height} x {width} pixels in {summary.seconds:.1f} s, "
        f"{summary.megapixels_per_second:.1f} Mpx/s, {summary.precision} on {summary.provider}",
        "verdict": _verdict(len(hinted), len(rows)),
        "familiar": " and with the training data" if known else "",
        "hinted": [
            {"z": row.z, "hints": row.hints, "shown": row.z if row.z in shown else None}
            for row in hinted[:_LISTED]
        ],
        "more_hinted": max(0, len(hinted) - _LISTED),
        "shown": shown,
        "threshold": f"{run.threshold:.2f}",
        "layer_count": len(layers),
        "pictures_note": pictures_note,
        "series_note": f", {_POINTS} of {len(rows)} spread evenly" if len(rows) > _POINTS else "",
        "scores": _score_rows(run.scores),
        "labels_name": run.labels_name,
        "row_note": "all sections" if len(listed) == total else "the sections shown and those with hints",
        "rows": [_cells(of[z]) for z in listed if z in of],
        "facts": _facts(run),
        "plan": run.plan.to_json(),
        "notes": summary.notes,
        "data": {
            "sections": total,
            "shape": list(run.plan.source.shape),
            "shown": list(shown),
            "layers": layers,
            "pictures": drawn,
            "about": [_about(of.get(z)) for z in shown],
            "histogram": _mean_histogram(run.found),
            "histograms": [
                [round(float(count)) for count in run.found[z].histogram] if z in run.found else None
                for z in shown
            ],
            "series": _series(rows),
        },
    }


def _verdict(hinted: int, total: int) -> str:
    if not total:
        return "No section was computed by this run"
    if not hinted:
        return f"No hints in {counted(total, 'section')}"
    return f"Hints in {hinted} of {counted(total, 'section')}"


def _layers(run: FinishedRun) -> list[dict[str, Any]]:
    layers = [
        {"key": "image", "name": "image", "on": True, "opacity": 100},
        {"key": "probability", "name": "probability", "on": False, "opacity": 60},
    ]
    if run.neurons is not None:
        layers.append({"key": "neurons", "name": "neurons", "on": True, "opacity": 40})
    layers.append({"key": "outlines", "name": "outlines", "on": True, "opacity": 100})
    if run.errors is not None:
        layers.append({"key": "errors", "name": "splits, mergers", "on": True, "opacity": 100})
    return layers


def _about(row: SectionRow | None) -> str:
    if row is None:
        return ""
    cell = "" if row.cell is None else f"mean probability of cell {row.cell:.3f}"
    return "; ".join(filter(None, (cell, *row.hints)))


def _cells(row: SectionRow) -> list[str]:
    figures = (row.cell, row.doubt, row.drift, row.canvas, row.contrast, row.sharpness, row.unlike)
    forms = (".3f", ".4f", ".3f", ".1%", ".2f", ".2f", ".2f")
    cells = ["" if value is None else f"{value:{form}}" for value, form in zip(figures, forms, strict=True)]
    return [str(row.z), *cells]


def _mean_histogram(found: Mapping[int, ProbabilityFigures]) -> list[float]:
    if not found:
        return [0.0] * BINS
    total = np.sum([figures.histogram for figures in found.values()], axis=0, dtype=np.float64) / len(found)
    mean: list[float] = np.round(total, 1).tolist()
    return mean


def _series(rows: Sequence[SectionRow]) -> dict[str, list[Any]]:
    some = [rows[i] for i in pictures.evenly(len(rows), _POINTS)] if rows else []
    return {
        "z": [row.z for row in some],
        "cell": [None if row.cell is None else round(row.cell, 4) for row in some],
        "doubt": [None if row.doubt is None else round(4 * row.doubt, 4) for row in some],
    }


def _score_rows(scores: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    if scores is None:
        return []

    def number(key: str, digits: int) -> str:
        return "undefined" if scores[key] is None else f"{scores[key]:.{digits}f}"

    return [
        ("V_rand", number("v_rand_thin", 4), number("best_threshold_rand", 1)),
        ("V_info", number("v_info_thin", 4), number("best_threshold_info", 1)),
        ("pixel error", number("pixel_error", 4), "0.5"),
        ("Dice of membrane", number("dice_membrane", 4), "0.5"),
        ("Dice of cell", number("dice_cell", 4), "0.5"),
    ]


def _facts(run: FinishedRun) -> list[tuple[str, str]]:
    plan, summary = run.plan, run.summary
    height, width = plan.source.shape
    size = plan.source.pixel_size
    tile = plan.section.tile_shape
    views = len(plan.views)
    return [
        (
            "input",
            f"{run.source.name}: {counted(run.source.info.sections, 'section')} of {height} x {width}, "
            f"{plan.source.dtype}",
        ),
        ("pixel size", "not known" if size is None else f"{size.x_nm:g} x {size.y_nm:g} nm (x, y)"),
        ("output", f"{summary.output}: {plan.dtype}, {plan.provenance.rpartition('; ')[2]}"),
        ("model", f"sha256 {summary.model_sha256}"),
        ("computed", f"{plan.precision} on {plan.device} by {plan.runtime}, {plan.processor}"),
        (
            "tiles",
            f"{counted(len(plan.section.tiles), 'tile')} of {tile[0]} x {tile[1]} a section, halo {plan.section.halo}, "
            f"overhead {plan.section.overhead:.3f}",
        ),
        (
            "at once",
            f"batch {plan.batch} x {counted(plan.workers, 'worker')}, {plan.memory_bytes / 2**20:.0f} MiB for "
            "activations",
        ),
        *([("views", f"mean of {views} flips and rotations")] if views > 1 else []),
        ("time", f"{summary.seconds:.2f} s, {summary.megapixels_per_second:.2f} Mpx/s"),
        ("made by", f"isbi-infer {__version__}"),
    ]
