"""A picture of a run: losses and scores on the held-out sections by epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isbi_infer.errors import UsageError
from isbi_infer.terminal import nearest_file
from isbi_train.plots.figures import STYLE, check_plottable, drawable, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HISTORY, CURVES = "history.json", "curves.png"

# Okabe and Ito's palette, which colour-blind readers can tell apart
_TRAINING, _RAND, _INFO = "#e69f00", "#000000", "#0072b2"
_NEEDED = ("epoch", "training_loss", "loss", "v_rand_thin", "v_info_thin")
_SMALLEST_ERROR = 1e-4  # a logarithmic scale knows no 0


def read_history(run: Path) -> list[dict[str, float]]:
    """Read what a run wrote at each validation.

    Parameters
    ----------
    run : Path
        Its folder, or its ``history.json``.

    Returns
    -------
    list of dict
        At least one; each with ``epoch``, ``training_loss``, ``loss``, ``v_rand_thin`` and ``v_info_thin``.

    Raises
    ------
    UsageError
        If there is none, or it is damaged or empty.
    """
    path = run / HISTORY if run.is_dir() else run
    try:
        history = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path}: cannot read the history of a run ({error.strerror}); expected what isbi-train fit --out wrote"
            f"{nearest_file(path)}"
        ) from error
    except ValueError as error:
        raise UsageError(f"{path}: is no history of a run ({error})") from error
    if not isinstance(history, list) or not history:
        raise UsageError(
            f"{path}: expected a list with an entry for each validation; let the run reach its first"
        )
    for position, entry in enumerate(history):
        found = entry if isinstance(entry, Mapping) else {}
        if missing := [key for key in _NEEDED if not isinstance(found.get(key), int | float)]:
            raise UsageError(
                f"{path}: entry {position} has no {', '.join(missing)}; it is no history of a run"
            )
    return history


def plot_curves(history: Sequence[Mapping[str, float]], path: Path, *, title: str) -> None:
    """Draw losses, and how far the scores are from 1, by epoch.

    Parameters
    ----------
    history : sequence of mapping
        See `read_history`.
    path : Path
        A .png, .svg or .pdf file; replaced only when the new one is whole.
    title : str
        Above the picture.

    Raises
    ------
    UsageError
        If the suffix is not one of a known format.
    OutputError
        If the file cannot be written.
    """
    check_plottable(path)
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = curves_figure(history)
        figure.suptitle(drawable(title), x=0.01, horizontalalignment="left", fontweight="bold", fontsize=11)
        note = (
            "Averaged weights, before calibration. Figures on held-out training sections are not comparable with "
            "the official test set."
        )
        figure.supxlabel(note, fontsize=8, color="0.35")
        save_figure(figure, path, dpi=120)


def curves_figure(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw losses, and how far the scores are from 1, by epoch, beside each other.

    Parameters
    ----------
    history : sequence of mapping
        See `read_history`.
    """
    from matplotlib.figure import Figure

    figure = Figure((9, 3.6), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    _draw_losses(losses, history)
    _draw_scores(scores, history)
    for axes in (losses, scores):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        axes.legend()
    return figure


def stacks_figure(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw how far the scores of each stack are from 1, by epoch, V_rand beside V_info.

    Parameters
    ----------
    history : sequence of mapping
        See `read_history`; each with ``stacks``.
    """
    from matplotlib.figure import Figure

    figure = Figure((9, 3.6), layout="constrained")
    for axes, (key, name) in zip(
        figure.subplots(1, 2), (("v_rand_thin", "V_rand"), ("v_info_thin", "V_info")), strict=True
    ):
        axes.set(title=f"1 - {name} by stack", xlabel="epoch", yscale="log")
        for stack in history[-1]["stacks"]:
            known = [entry for entry in history if stack in entry.get("stacks", {})]
            found = np.array([entry["stacks"][stack][key] for entry in known], float)
            away = np.maximum(1 - found, _SMALLEST_ERROR)
            axes.plot([entry["epoch"] for entry in known], away, label=stack, **_marked(known))
        _fit_logarithmic(axes)
        axes.grid(alpha=0.25)
        axes.legend()
    return figure


def _draw_losses(axes: Axes, history: Sequence[Mapping[str, float]]) -> None:
    epochs = [entry["epoch"] for entry in history]
    for key, label, colour in (
        ("training_loss", "training, with the run's weights", _TRAINING),
        ("loss", "held out, unweighted", _RAND),
    ):
        axes.plot(epochs, [entry[key] for entry in history], color=colour, label=label, **_marked(history))
    axes.set(title="cross-entropy", ylim=(0, None))


def _draw_scores(axes: Axes, history: Sequence[Mapping[str, float]]) -> None:
    epochs = [entry["epoch"] for entry in history]
    axes.set(title="scores on the held-out sections, as their distance from 1", yscale="log")
    for key, name, colour in (("v_rand_thin", "V_rand", _RAND), ("v_info_thin", "V_info", _INFO)):
        found = np.array([entry[key] for entry in history], float)
        axes.plot(
            epochs,
            np.maximum(1 - found, _SMALLEST_ERROR),
            color=colour,
            label=f"1 - {name}; {name} {found[-1]:.4f} in the end",
            **_marked(history),
        )
    _fit_logarithmic(axes)


def _fit_logarithmic(axes: Axes) -> None:
    """Give a logarithmic axis room around its lines, also where all values are one."""
    axes.set_autoscaley_on(False)  # first of all: it warns where all values are one
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0.1, 1.0)
    axes.set_ylim(0.8 * low, 1.25 * high)
    labelled = "2346" if high < 100 * low else ""  # first digits, beside 1
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in labelled else "")


def _marked(history: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    return {"marker": "o"} if len(history) == 1 else {}  # one point makes no line
