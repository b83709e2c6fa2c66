"""The parity report as one page of HTML, its pictures inside."""

from __future__ import annotations

import io
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from isbi_train.plots.figures import STYLE

_SVG = {"svg.hashsalt": "isbi-export", "svg.fonttype": "none"}  # the same report gives the same bytes
_CSS = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0 1.5rem; }
th, td { text-align: right; padding: .25rem .7rem; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
.refused { color: #b3261e; } code { font-size: .9em; } svg { max-width: 100%; height: auto; }
"""


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
    name, files = report["checkpoint"]["file"], report["files"]
    measured = [file for file in files if "largest" in file]
    versions = ", ".join(f"{tool} {version}" for tool, version in report["made_by"].items())
    parts = [
        f"<h1>Parity of what was exported from {escape(name)}</h1>",
        f"<p>Checkpoint sha256 <code>{report['checkpoint']['sha256']}</code>. Made by {escape(versions)}.</p>",
        *(f"<p>{escape(note)}</p>" for note in report["notes"]),
        *(
            f'<p class="refused">{escape(file["file"])} was not published: {escape("; ".join(file["refused"]))}.</p>'
            for file in files
            if not file["published"]
        ),
        "<h2>Files</h2>",
        "<p>Differences are of a probability, from the checkpoint run by torch. Changed: pixels of tissue, synthetic "
        "and real, whose class at 0.5 differs. Tiles: how far tiles with the exact halo are from the whole section. "
        f"Times are processor time for a section of 512 x 512 pixels ({escape(report['timed_on'])}).</p>",
        _table(
            [
                "file",
                "largest difference",
                "mean difference",
                "changed",
                "tiles",
                "gate",
                "size",
                "time",
            ],
            [_file_row(file) for file in files],
        ),
        *_runtimes(measured),
        "<h2>Scores after thinning</h2>",
        _scored_on(report),
        *(_score_table(data, report, measured) for data in report["checkpoint_scores"]),
    ]
    if any(file["error_by_halo"] for file in measured):
        parts += [
            "<h2>Error against halo</h2>",
            "<p>The largest difference near seams, on a synthetic section; where a line ends, tiles are exact to the "
            "bit.</p>",
            _picture(measured),
        ]
    parts += ["<h2>Every comparison</h2>", *(_comparison_table(file) for file in measured)]
    body = "\n".join(parts)
    title = f"Parity of {escape(name)}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_CSS}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _file_row(file: dict[str, Any]) -> list[str]:
    name = file["file"] if file["published"] else f"{file['file']} (not published)"
    if "largest" not in file:
        return [name, *["-"] * 7]
    size, time = file["bytes"], file["milliseconds_per_section"]
    return [
        name,
        _number(file["largest"], ".2e"),
        _number(file["mean"], ".2e"),
        _number(file["changed"], ".3%"),
        _tiles(file["tiles_differ_by"]),
        _gate(file),
        f"{size / 1e6:.2f} MB",
        _number(time, ".1f", " ms"),
    ]


def _runtimes(measured: list[dict[str, Any]]) -> list[str]:
    rows = [_runtime_row(file, proof) for file in measured for proof in file["runtimes"]]
    if not rows:
        return []
    return [
        "<h2>Runtimes</h2>",
        "<p>Every file on every runtime and precision that computes it, on the same inputs; V_rand and V_info of the "
        "user's sections where there are some, else of synthetic ones. Those that passed are listed in the file's "
        "contract. A GPU's time is the time that passes.</p>",
        _table(
            [
                "file",
                "device",
                "precision",
                "runtime",
                "largest difference",
                "changed",
                "V_rand",
                "V_info",
                "tiles",
                "time",
                "gate",
                "verdict",
            ],
            rows,
        ),
    ]


def _runtime_row(file: dict[str, Any], proof: dict[str, Any]) -> list[str]:
    row = [file["file"], proof["device"], proof["precision"], proof["runtime"] or "-"]
    if "largest" in proof:
        scores = proof["scores"]["image" if "image" in proof["scores"] else "synthetic"]
        row += [
            _number(proof["largest"], ".2e"),
            _number(proof["changed"], ".3%"),
            _number(scores["v_rand"], ".4f"),
            _number(scores["v_info"], ".4f"),
            _tiles(proof["tiles_differ_by"]),
            _number(proof["milliseconds_per_section"], ".1f", " ms"),
        ]
    else:
        row += ["-"] * 6
    verdict = ": ".join([proof["verdict"], *(["; ".join(proof["because"])] if proof["because"] else [])])
    return [*row, _gate(proof), verdict]


def _tiles(differ_by: float | None) -> str:
    if differ_by is None:
        return "not measured"
    return _number(differ_by, ".1e") if differ_by else "exact"


def _gate(measured: dict[str, Any]) -> str:
    return ", ".join(f"{name} {limit:g}" for name, limit in measured["gate"].items())


def _scored_on(report: dict[str, Any]) -> str:
    texts = []
    if found := report["scored_on"]:
        texts.append(
            f"“image” is sections {found['sections']} of the stack <code>{found['data_sha256']}</code>."
        )
    calibrated_on = report["calibrated_on"] or {}
    for found in calibrated_on.get("stacks") or ([calibrated_on] if calibrated_on else []):
        source = found.get("data") or f"the stack {found['data_sha256']}"
        sections = ", ".join(map(str, found["sections"]))
        texts.append(f"int8 was calibrated on sections {sections} of <code>{escape(source)}</code>.")
    return f"<p>{' '.join(texts)}</p>" if texts else ""


def _score_table(data: str, report: dict[str, Any], measured: list[dict[str, Any]]) -> str:
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
    return f"<h3>{data}</h3>" + _table(["", "V_rand", "change", "V_info", "change"], rows)


def _comparison_table(file: dict[str, Any]) -> str:
    rows = [
        [
            found["data"],
            " x ".join(map(str, found["shape"])),
            _number(found["largest"], ".2e"),
            _number(found["mean"], ".2e"),
            str(found["changed"]),
        ]
        for found in file["comparisons"]
    ]
    head = ["input", "shape", "largest difference", "mean difference", "pixels that change class"]
    return f"<h3>{escape(file['file'])}</h3>" + _table(head, rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def _picture(measured: list[dict[str, Any]]) -> str:
    """Draw the error of every halo that has one; a logarithmic axis has no place for 0."""
    with rc_context(STYLE | _SVG):
        figure = Figure(figsize=(7.5, 3.6), layout="constrained")
        axes = figure.subplots()
        for file in measured:
            points = [(int(halo), error) for halo, error in file["error_by_halo"].items() if error]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3.5, label=file["file"])
        if not axes.lines:
            return "<p>No smaller halo costs anything that could be measured.</p>"
        axes.set(xlabel="halo (pixels)", ylabel="largest error of a probability", yscale="log")
        axes.legend()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    return drawing[drawing.index("<svg") :]


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "undefined" if value is None else f"{value:{form}}{unit}"
