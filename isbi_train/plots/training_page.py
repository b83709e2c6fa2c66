"""The page of a training run: losses, scores by epoch and stack, example sections and settings, in one file of HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from isbi_infer import __version__
from isbi_infer.files import replacing
from isbi_infer.report import pictures
from isbi_infer.report.page import markup, render
from isbi_infer.report.sheets import outlined
from isbi_infer.terminal import counted
from isbi_train.plots.curves import curves_figure, read_history, stacks_figure
from isbi_train.plots.figures import STYLE
from isbi_train.scores.error_lines import error_lines
from isbi_train.training.state import BEST, HISTORY_TABLE, MODEL, SETTINGS, best_validation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "training.html"

_SIDE = 512  # px, longest side of a picture
_SVG = {"svg.fonttype": "none", "text.parse_math": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A held-out section that is shown.

    Attributes
    ----------
    name : str
        Which one.
    image_YX, probability_YX : ndarray
        Grey values, and probability of cell.
    cell_YX : ndarray of bool
        The labels.
    """

    name: str
    image_YX: npt.NDArray[Any]
    probability_YX: npt.NDArray[np.float32]
    cell_YX: npt.NDArray[np.bool_]


def write_training_page(run: Path, *, examples: Sequence[Example] = (), threshold: float = 0.5) -> Path:
    """Write the page of a run into its folder.

    Parameters
    ----------
    run : Path
        The folder, which holds ``history.json`` and perhaps ``settings.toml``.
    examples : sequence of Example
        Sections by ``best.pth``; none while the run goes on.
    threshold : float
        Above which their pixels are cell.

    Returns
    -------
    Path
        ``training.html``; replaced only when the new one is whole. The same run gives the same bytes.

    Raises
    ------
    UsageError
        If there is no history yet.
    OutputError
        If the page cannot be written.
    """
    path, history = run / PAGE, read_history(run)
    page = render("training.html", package="isbi_train.plots", **_values(run, history, examples, threshold))
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def _values(
    run: Path, history: Sequence[Mapping[str, Any]], examples: Sequence[Example], threshold: float
) -> dict[str, Any]:
    last = history[-1]
    best = best_validation(history)
    settings = run / SETTINGS
    stacks = list(last.get("stacks", {}))
    spent = sum(_seconds(history))
    return {
        "name": run.resolve().name,
        "summary": f"{counted(len(history), 'validation')}, the last after epoch {last['epoch']}; {_time(spent)}",
        "verdict": f"V_rand {best['v_rand_thin']:.4f}, V_info {best['v_info_thin']:.4f} after epoch {best['epoch']}",
        "state": f"The best validation, which {BEST} is of; {MODEL} is of the last one: V_rand "
        f"{last['v_rand_thin']:.4f}, V_info {last['v_info_thin']:.4f}.",
        "curves": _svg(lambda: curves_figure(history)),
        "stacks": [_stack_row(name, history) for name in stacks],
        "stack_curves": _svg(lambda: stacks_figure(history)) if stacks else "",
        "examples": [_pictured(example, threshold) for example in examples],
        "examples_by": BEST,
        "threshold": f"{threshold:.2f}",
        "table": HISTORY_TABLE,
        "rows": [_row(entry) for entry in history],
        "settings": settings.read_text(encoding="utf-8", errors="backslashreplace")
        if settings.exists()
        else "",
        "version": __version__,
    }


def _seconds(history: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the time that each validation came after: `seconds` begin anew where a run was resumed."""
    found, before = [], 0.0
    for entry in history:
        now = float(entry.get("seconds", 0.0))
        found.append(now - before if now >= before else now)
        before = now
    return found


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _row(entry: Mapping[str, Any]) -> list[str]:
    scores = [f"{entry[key]:.4f}" for key in ("training_loss", "loss", "v_rand_thin", "v_info_thin")]
    return [str(entry["epoch"]), *scores, f"{entry['seconds']:.0f} s" if "seconds" in entry else ""]


def _stack_row(name: str, history: Sequence[Mapping[str, Any]]) -> list[str]:
    found = [entry["stacks"][name] for entry in history if name in entry.get("stacks", {})]
    last = [f"{found[-1][key]:.4f}" for key in ("loss", "v_rand_thin", "v_info_thin")]
    best = [f"{max(scores[key] for scores in found):.4f}" for key in ("v_rand_thin", "v_info_thin")]
    return [name, *last, *best]


def _pictured(example: Example, threshold: float) -> dict[str, str]:
    shape = example.image_YX.shape[0], example.image_YX.shape[1]
    readers = pictures.whole(example.image_YX), pictures.whole(example.probability_YX)
    outlined_YXC, found_YX = outlined(*readers, shape, _SIDE, threshold)
    factor = pictures.factor_for(shape, _SIDE)
    lines = error_lines(example.probability_YX > np.float64(threshold), example.cell_YX)
    for mask_YX, colour in zip(lines, (pictures.SPLIT, pictures.MERGER), strict=True):
        outlined_YXC[pictures.thick_lines(mask_YX, factor)] = colour
    return {
        "name": example.name,
        "outlined": _address(pictures.png(outlined_YXC)),
        "probability": _address(pictures.png(found_YX)),
    }


def _address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _svg(draw: Callable[[], Figure]) -> str:
    """Draw a figure as a part of the page; its texts are escaped by matplotlib, and are no formulas."""
    from matplotlib import rc_context

    with rc_context(STYLE | _SVG):
        buffer = io.StringIO()
        draw().savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    return markup(drawing[drawing.index("<svg") :])
