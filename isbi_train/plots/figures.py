"""What all pictures have in common: their style, and how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from isbi_infer.errors import UsageError
from isbi_infer.files import check_writable, replacing
from isbi_infer.terminal import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "isbi-train",  # the same picture gives the same bytes
}

_SUFFIXES = (".png", ".svg", ".pdf")


def drawable(text: str) -> str:
    """Return a text as matplotlib can draw it, whatever names of files are in it: dollars begin no formula."""
    return printable(text).replace("$", r"\$")


def check_plottable(path: Path) -> None:
    """Make sure, before any work, that a picture can be written.

    Parameters
    ----------
    path : Path
        The picture.

    Raises
    ------
    UsageError
        If the suffix is not one of a known format.
    OutputError
        If no file can be created there.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(
            f"{path}: cannot draw {path.suffix or 'without a suffix'}; use {', '.join(_SUFFIXES)}"
        )
    check_writable(path)


def save_figure(figure: Figure, path: Path, *, dpi: int = 150) -> None:
    """Write a picture; the same picture gives the same bytes.

    Parameters
    ----------
    figure : Figure
        Drawn with `STYLE`.
    path : Path
        A .png, .svg or .pdf file; replaced only when the new one is whole.
    dpi : int
        Pixels per inch.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    form = path.suffix.lower()[1:]
    undated: dict[str, Any] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[form]
    with replacing(path) as temporary:
        figure.savefig(temporary, format=form, dpi=dpi, metadata=undated)
