"""A picture of an evaluation: scores against threshold, and sections with their splits and mergers coloured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from isbi_train.evaluation.evaluate import Evaluation, best_index, sections_named
from isbi_train.plots.figures import STYLE, check_plottable, drawable, save_figure
from isbi_train.scores.error_lines import error_lines
from isbi_train.scores.metrics import SplitMergeScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

# Okabe and Ito's palette, which colour-blind readers can tell apart
MERGERS, SPLITS, SCORE = "#d55e00", "#0072b2", "#000000"
SECTIONS_SHOWN = 6
_WIDTH_IN = 10.5


def plot_scores(evaluation: Evaluation, path: Path) -> None:
    """Draw the scores, their split and merge errors, and up to six sections with both coloured.

    Parameters
    ----------
    evaluation : Evaluation
        What to draw. Sections are drawn on the image if there is one, else on the probabilities, at the best
        threshold of V_rand; of more than six, those with the lowest V_rand.
    path : Path
        A .png, .svg or .pdf file; replaced only when the new one is whole.

    Raises
    ------
    UsageError
        If the suffix is not one of a known format.
    OutputError
        If the file cannot be written.
    """
    check_plottable(path)
    import matplotlib
    from matplotlib.figure import Figure

    shown = sections_shown(evaluation)
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    height, width = evaluation.cell_ZYX.shape[1:]
    panel_in = min(max(_WIDTH_IN / max(columns, 2) * height / width, 1.5), 8)
    with matplotlib.rc_context(STYLE):
        heights_in = 3.6, 0.8 + rows * (panel_in + 0.2), 0.2
        figure = Figure((_WIDTH_IN, sum(heights_in)), layout="constrained")
        top, middle, bottom = figure.subfigures(3, 1, squeeze=False, height_ratios=heights_in).flat
        _draw_curves(top, evaluation)
        _draw_sections(middle, evaluation, shown, middle.subplots(rows, columns, squeeze=False))
        note = "Figures on held-out training sections are not comparable with the official test set."
        bottom.text(0.5, 0.5, note, fontsize=8, color="0.35", horizontalalignment="center")
        save_figure(figure, path)


def sections_shown(evaluation: Evaluation) -> list[int]:
    """Choose the sections to draw, as positions within the evaluation.

    Parameters
    ----------
    evaluation : Evaluation
        With any number of sections.

    Returns
    -------
    list of int
        At most six, ascending: those with the lowest V_rand at the best threshold.
    """
    rand = evaluation.thinned.rand
    worst = np.argsort(rand.score[best_index(rand)], kind="stable")  # NaN comes last
    return sorted(worst[:SECTIONS_SHOWN].tolist())


def _draw_curves(figure: SubFigure, evaluation: Evaluation) -> None:
    thinned, chosen = evaluation.thinned, evaluation.sections
    files = f"{Path(evaluation.prediction).name} against {Path(evaluation.labels).name}"
    _head(figure, f"{files}, sections {sections_named(chosen)}, means over sections")
    scores, *errors = figure.subplots(1, 3)
    for name, dashes, part in (("V_rand", "-", thinned.rand), ("V_info", (0, (4, 2)), thinned.info)):
        best = "undefined" if math.isnan(part.best) else f"{part.best:.4f} at {part.best_threshold:.1f}"
        scores.plot(part.thresholds, part.mean, color=SCORE, linestyle=dashes, label=f"{name} {best}")
        scores.plot(part.best_threshold, part.best, "o", color=SCORE)
    scores.set(title="scores", ylim=(0, 1.03))
    scores.legend()
    for axes, name, part in zip(errors, ("V_rand", "V_info"), (thinned.rand, thinned.info), strict=True):
        _draw_errors(axes, part)
        axes.set_title(f"errors of {name}")
    for axes in (scores, *errors):
        axes.set(xlabel="threshold t: cell where p > t", xlim=(-0.03, 1.03))
        axes.grid(alpha=0.25)
    figure.legend(*errors[0].get_legend_handles_labels(), ncols=3, loc="outside lower center")


def _draw_errors(axes: Axes, scores: SplitMergeScores) -> None:
    for name, part, colour, marker in (
        ("mergers: 1 - precision", scores.precision, MERGERS, "s"),
        ("splits: 1 - recall", scores.recall, SPLITS, "o"),
    ):
        error = 1 - part.mean(axis=1)
        error[error <= 0] = np.nan  # not on a logarithmic scale
        axes.plot(scores.thresholds, error, color=colour, marker=marker, markersize=4, label=name)
    axes.axvline(scores.best_threshold, color=SCORE, linewidth=1, linestyle=":", label="best threshold")
    axes.set(yscale="log", ylim=(1e-3, 1.4))
    axes.yaxis.set_major_formatter("{x:g}")


def _draw_sections(figure: SubFigure, evaluation: Evaluation, shown: list[int], panels: np.ndarray) -> None:
    from matplotlib.patches import Patch

    rand, info = evaluation.thinned.rand, evaluation.thinned.info
    t = best_index(rand)
    some = f", the {len(shown)} sections of lowest V_rand" if len(shown) < len(evaluation.sections) else ""
    _head(figure, f"splits and mergers at threshold {rand.thresholds[t]:.1f}{some}")
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, s in zip(panels.flat, shown, strict=False):
        axes.imshow(coloured(evaluation, s, float(rand.thresholds[t])), interpolation="antialiased")
        scores = f"V_rand {rand.score[t, s]:.4f}, V_info {info.score[t, s]:.4f}"
        axes.set_title(f"section {evaluation.sections[s]}: {scores}")
    handles = [
        Patch(color=MERGERS, label="merger: the border between two cells that came out as one"),
        Patch(color=SPLITS, label="split: a border drawn through one cell"),
    ]
    figure.legend(handles=handles, ncols=2, loc="outside lower center")


def _head(figure: SubFigure, text: str) -> None:
    figure.suptitle(drawable(text), x=0.01, horizontalalignment="left", fontweight="bold", fontsize=11)


def coloured(evaluation: Evaluation, s: int, threshold: float) -> npt.NDArray[np.float32]:
    """Colour one section's splits and mergers over its image, or over its probabilities.

    Parameters
    ----------
    evaluation : Evaluation
        Gives the section.
    s : int
        Position of the section within the evaluation.
    threshold : float
        Pixels are cell above it.

    Returns
    -------
    float32 array, shape (Y, X, 3)
        Red, green and blue in [0, 1].
    """
    from matplotlib.colors import to_rgb
    from scipy.ndimage import binary_dilation

    cell_YX = evaluation.cell_ZYX[s]
    splits_YX, mergers_YX = error_lines(evaluation.probability_ZYX[s] > np.float64(threshold), cell_YX)
    backdrop_ZYX = evaluation.probability_ZYX if evaluation.image_ZYX is None else evaluation.image_ZYX
    low, high = (float(grey) for grey in np.percentile(backdrop_ZYX[s], (0.5, 99.5)))
    grey_YX = np.clip((backdrop_ZYX[s] - low) / max(high - low, 1e-6), 0, 1)
    picture_YXC = np.repeat((0.4 + 0.6 * grey_YX).astype(np.float32)[..., None], 3, axis=2)
    pen = np.ones((max(2, round(max(cell_YX.shape) / 170)),) * 2, bool)
    for mask_YX, colour in ((splits_YX, SPLITS), (mergers_YX, MERGERS)):
        picture_YXC[binary_dilation(mask_YX, pen)] = to_rgb(colour)
    return picture_YXC
