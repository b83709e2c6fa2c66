"""The parity report as one page of HTML, its pictures inside."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from isbi_export.proof.gates import largest_allowed
from isbi_infer.report.page import markup, render
from isbi_infer.terminal import counted
from isbi_train.plots.figures import STYLE, drawable

_SVG = {"svg.hashsalt": "isbi-export", "svg.fonttype": "none"}  # the same report gives the same bytes
_SPACE = "\u00a0"  # between a figure and its unit


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure in a table.

    Attributes
    ----------
    text : str
        What it says.
    gate : str
        The limit that it is judged by; empty where there is none.
    state : {"", "good", "bad"}
        Whether it is within.
    wraps : bool
        Whether it is a sentence.
    """

    text: str
    gate: str = ""
    state: str = ""
    wraps: bool = False


def page(report: dict[str, Any]) -> str:
    """Draw a report.

    Parameters
    ----------
    report : dict
        From `isbi_export.report.parity_report.Report.to_plain`.

    Returns
    -------
    str
        HTML; the same for the same report.
    """
    files = report["files"]
    measured = [file for file in files if "largest" in file]
    return render(
        "parity.html",
        package="isbi_export.report",
        name=report["checkpoint"]["file"],
        sha256=report["checkpoint"]["sha256"],
        verdict=_verdict(files),
        refused=[file for file in files if not file["published"]],
        runtimes_verdict=_runtimes_verdict(measured),
        versions=", ".join(f"{tool} {version}" for tool, version in report["made_by"].items()),
        notes=report["notes"],
        timed_on=report["timed_on"],
        files=[_file_row(file) for file in files],
        runtimes=[_runtime_row(file, proof) for file in measured for proof in file["runtimes"]],
        scored_on=_scored_on(report),
        scores=[(data, _score_rows(data, report, measured)) for data in report["checkpoint_scores"]],
        drawing=_drawing(measured) if any(file["error_by_halo"] for file in measured) else None,
        comparisons=[(file["file"], _comparison_rows(file)) for file in measured],
    )


def _verdict(files: list[dict[str, Any]]) -> str:
    published = sum(file["published"] for file in files)
    if published == len(files):
        which = "The file passed its gate" if published == 1 else f"All {published} files passed their gates"
        return f"{which} against the checkpoint"
    return f"{published} of {counted(len(files), 'file')} passed and {'was' if published == 1 else 'were'} published"


def _runtimes_verdict(measured: list[dict[str, Any]]) -> str:
    verdicts = [proof["verdict"] for file in measured for proof in file["runtimes"]]
    counts = [
        f"{verdicts.count(verdict)} {verdict}"
        for verdict in ("passed", "failed", "not measured")
        if verdict in verdicts
    ]
    return f"Runtimes: {', '.join(counts)}." if counts else ""


def _file_row(file: dict[str, Any]) -> list[Cell]:
    name = file["file"] if file["published"] else f"{file['file']} (not published)"
    if "largest" not in file:
        return [Cell(name), *[Cell("-")] * 8]
    largest, changed, *scores, tiles = _judged(file, file["io"])
    return [
        Cell(name),
        largest,
        Cell(_number(file["mean"], ".2e")),
        changed,
        *scores,
        tiles,
        Cell(f"{file['bytes'] / 1e6:.2f}{_SPACE}MB"),
        Cell(_number(file["milliseconds_per_section"], ".1f", "ms")),
    ]


def _runtime_row(file: dict[str, Any], proof: dict[str, Any]) -> list[Cell]:
    state = {"passed": "good", "failed": "bad"}.get(proof["verdict"], "")
    row = [Cell(text) for text in (file["file"], proof["device"], proof["precision"])]
    row.append(Cell(proof["verdict"], state=state))
    if "largest" in proof:
        row += [*_judged(proof, file["io"]), Cell(_number(proof["milliseconds_per_section"], ".1f", "ms"))]
    else:
        row += [Cell("-")] * 6
    why = "; ".join(filter(None, (proof["runtime"], *proof["because"])))
    return [*row, Cell(why or "-", wraps=True)]


def _judged(found: Mapping[str, Any], io_dtype: str) -> list[Cell]:
    """Return the figures that a gate may judge, each with its limit: differences, scores and tiles."""
    gate = found["gate"]
    change = found["score_changes"]["image" if "image" in found["score_changes"] else "synthetic"]
    largest = largest_allowed(gate.get("largest", inf), io_dtype)
    cells = [
        _within(found["largest"], largest, ".2e", ".2g"),
        _within(found["changed"], gate.get("changed", 1.0), ".3%", ".1%", none=1.0),
        _within(change["v_rand"], gate.get("v_rand", inf), "+.5f", "g"),
        _within(change["v_info"], gate.get("v_info", inf), "+.5f", "g"),
    ]
    differ_by = found["tiles_differ_by"]
    if differ_by is None:
        return [*cells, Cell("not measured")]
    return [*cells, Cell(_number(differ_by, ".1e") if differ_by else "exact")]


def _within(value: float | None, limit: float, form: str, limit_form: str, none: float = inf) -> Cell:
    text = _number(value, form)
    if limit >= none:
        return Cell(text)
    passed = value is not None and abs(value) <= limit
    return Cell(text, f"gate{_SPACE}{limit:{limit_form}}", "good" if passed else "bad")


def _scored_on(report: dict[str, Any]) -> list[str]:
    lines = []
    if found := report["scored_on"]:
        lines.append(f"“image” is sections {found['sections']} of the stack {found['data_sha256']}.")
    calibrated_on = report["calibrated_on"] or {}
    for found in calibrated_on.get("stacks") or ([calibrated_on] if calibrated_on else []):
        source = found.get("data") or f"the stack {found['data_sha256']}"
        sections = ", ".join(map(str, found["sections"]))
        lines.append(f"int8 was calibrated on sections {sections} of {source}.")
    return lines


def _score_rows(data: str, report: dict[str, Any], measured: list[dict[str, Any]]) -> list[list[Cell]]:
    own = report["checkpoint_scores"][data]
    rows = [["checkpoint", _number(own["v_rand"], ".5f"), "", _number(own["v_info"], ".5f"), ""]]
    for file in measured:
        scores, change = file["scores"][data], file["score_changes"][data]
        rows.append(
            [
                file["file"],
                _number(scores["v_rand"], ".5f"),
                _number(change["v_rand"], "+.5f"),
                _number(scores["v_info"], ".5f"),
                _number(change["v_info"], "+.5f"),
            ]
        )
    return [[Cell(text) for text in row] for row in rows]


def _comparison_rows(file: dict[str, Any]) -> list[list[Cell]]:
    return [
        [
            Cell(found["data"]),
            Cell(" x ".join(map(str, found["shape"]))),
            Cell(_number(found["largest"], ".2e")),
            Cell(_number(found["mean"], ".2e")),
            Cell(str(found["changed"])),
        ]
        for found in file["comparisons"]
    ]


def _drawing(measured: list[dict[str, Any]]) -> str:
    """Draw the error of every halo that has one; a logarithmic axis has no place for 0."""
    with rc_context(STYLE | _SVG):
        figure = Figure(figsize=(7.5, 3.6), layout="constrained")
        axes = figure.subplots()
        for file in measured:
            points = [(int(halo), error) for halo, error in file["error_by_halo"].items() if error]
            if points:
                axes.plot(
                    *zip(*points, strict=True), marker="o", markersize=3.5, label=drawable(file["file"])
                )
        if not axes.lines:
            return ""
        axes.set(xlabel="halo (pixels)", ylabel="largest error of a probability", yscale="log")
        axes.legend()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    return markup(drawing[drawing.index("<svg") :])


def _number(value: float | None, form: str, unit: str = "") -> str:
    if value is None:
        return "undefined"
    return f"{value:{form}}{_SPACE}{unit}" if unit else f"{value:{form}}"
