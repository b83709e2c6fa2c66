"""Segmented sections side by side in one picture: the overlay and the contact sheet."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isbi_infer.files import replacing
from isbi_infer.report.pictures import (
    OUTLINE,
    Grey,
    Read,
    factor_for,
    outlines,
    png,
    shrunk,
    stretched,
    to_bytes,
)

ON_SHEET = 30
ON_OVERLAY = 3

_THUMBNAIL_PX, _OVERLAY_PX = 256, 1024
_COLUMNS = 3
_GAP, _LINE = 10, 18  # px
_SMALLEST = 320  # px, width of a sheet, so that its title has room

Pair = tuple[int, Read, Read]  # number, grey values and probability of cell of a section


def draw_contact_sheet(
    sections: Iterable[Pair], shape: tuple[int, int], path: Path, *, title: str, threshold: float = 0.5
) -> None:
    """Draw segmented sections on one sheet, each with its membranes outlined and beside its probabilities.

    Parameters
    ----------
    sections : iterable of (int, callable, callable)
        Number, and what reads windows of the grey values and of the probability of cell; taken one by one.
    shape : (int, int)
        (Y, X) of each, in pixels.
    path : Path
        A PNG file; replaced only when the new one is whole.
    title : str
        Above the sheet.
    threshold : float
        Outlines are drawn where the probability crosses it.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    _save(contact_sheet(sections, shape, title=title, threshold=threshold), path)


def contact_sheet(
    sections: Iterable[Pair], shape: tuple[int, int], *, title: str, threshold: float = 0.5
) -> Grey:
    """Return the sheet that `draw_contact_sheet` writes, as red, green and blue of shape (Y, X, 3)."""
    panels = []
    for z, grey, probability in sections:
        outlined_YXC, found_YX = outlined(grey, probability, shape, _THUMBNAIL_PX, threshold)
        gap_YXC = np.full((len(found_YX), 2, 3), 255, np.uint8)
        panels.append((f"{z}", np.concatenate((outlined_YXC, gap_YXC, _coloured(found_YX)), axis=1)))
    return _arranged(panels, min(_COLUMNS, len(panels)), title)


def draw_overlay(
    sections: Iterable[Pair], shape: tuple[int, int], path: Path, *, title: str, threshold: float = 0.5
) -> None:
    """Draw sections with their membranes outlined, side by side; see `draw_contact_sheet`."""
    panels = [
        (f"section {z}", outlined(grey, probability, shape, _OVERLAY_PX, threshold)[0])
        for z, grey, probability in sections
    ]
    _save(_arranged(panels, len(panels), title), path)


def outlined(
    grey: Read, probability: Read, shape: tuple[int, int], side: int, threshold: float
) -> tuple[Grey, Grey]:
    """Return a section with its membranes outlined, and its probabilities, no side longer than `side` pixels.

    Parameters
    ----------
    grey, probability : callable
        Return windows of the section and of the probability of cell, 1 = cell.
    shape : (int, int)
        (Y, X) of the section, in pixels.
    side : int
        In pixels.
    threshold : float
        Where the outline is.

    Returns
    -------
    (ndarray of uint8, shape (Y', X', 3), ndarray of uint8, shape (Y', X'))
        Red, green and blue, and round(255 p).
    """
    factor = factor_for(shape, side)
    picture_YXC = _coloured(to_bytes(stretched(shrunk(grey, shape, factor))))
    found_YX = shrunk(probability, shape, factor)
    picture_YXC[outlines(found_YX, threshold)] = OUTLINE
    return picture_YXC, to_bytes(np.clip(found_YX, 0, 1))


def _coloured(grey_YX: Grey) -> Grey:
    return np.repeat(grey_YX[..., None], 3, axis=2)


def _arranged(panels: list[tuple[str, Grey]], columns: int, title: str) -> Grey:
    from PIL import Image, ImageDraw

    height, width = panels[0][1].shape[:2]
    rows = -(-len(panels) // columns)
    step = width + _GAP, height + _GAP + _LINE
    size = max(columns * step[0] + _GAP, _SMALLEST), rows * step[1] + _GAP + _LINE
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 6), _fitting(title, size[0] - 2 * _GAP, pen), fill="black", font_size=13)
    for number, (name, panel_YXC) in enumerate(panels):
        x, y = _GAP + number % columns * step[0], _GAP + _LINE + number // columns * step[1]
        pen.text((x, y), name, fill="#444", font_size=12)
        sheet.paste(Image.fromarray(panel_YXC), (x, y + _LINE))
    return np.asarray(sheet)


def _fitting(text: str, width: int, pen: object) -> str:
    """Cut a text to a width in pixels."""
    from PIL import ImageDraw

    assert isinstance(pen, ImageDraw.ImageDraw)
    text = "".join(char if char.isprintable() else "?" for char in text)
    if pen.textlength(text, font_size=13) <= width:
        return text
    while text and pen.textlength(f"{text}...", font_size=13) > width:
        text = text[:-1]
    return f"{text}..."


def _save(picture: npt.NDArray[np.uint8], path: Path) -> None:
    content = png(picture)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
