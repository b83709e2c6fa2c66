"""Pictures to look at: augmented pairs with their elastic grid, and segmented sections on one sheet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from isbi_train.plots.figures import STYLE, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from isbi_train.augment.examples import ShownPair

Picture = npt.NDArray[np.float32]

# Okabe and Ito's palette, which colour-blind readers can tell apart
LATTICE, OUTLINE = "#56b4e9", "#e69f00"

_LATTICE_LINES = 16
_THUMBNAIL_PX = 256
_SHEET_COLUMNS = 3
_DPI = 150


def draw_pairs(pairs: Sequence[ShownPair], path: Path, *, first: int = 0) -> None:
    """Draw pairs: the section with the lattice that is sampled, the image with the section's grid warped, the labels.

    Parameters
    ----------
    pairs : sequence of ShownPair
        One row each.
    path : Path
        A .png, .svg or .pdf file; replaced only when the new one is whole.
    first : int
        Number of the first section that pairs were drawn from, for the titles.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure((9.6, 3.35 * len(pairs)), layout="constrained")
        rows: Any = figure.subplots(len(pairs), 3, squeeze=False)
        for (source, image, label), pair in zip(rows, pairs, strict=True):
            height, width = pair.section_YX.shape
            step = max(height, width) / _LATTICE_LINES
            source.imshow(pair.section_YX, cmap="gray", vmin=-3, vmax=3)
            _draw_sampled(source, pair)
            source.set_title(f"section {first + pair.section}, and where pair {pair.number} samples it")
            source.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
            image.imshow(pair.image_YX, cmap="gray", vmin=0, vmax=255)
            for coordinate_YX, end in ((pair.x_YX, width), (pair.y_YX, height)):
                levels = np.arange(0.5 * step, end, step)
                low, high = coordinate_YX.min(), coordinate_YX.max()
                if inside := [level for level in levels if low < level < high]:
                    image.contour(coordinate_YX, levels=inside, colors=LATTICE, linewidths=0.9)
            image.set_title(f"image, with the section's grid of {step:.0f} px")
            label.imshow(pair.label_YX, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            label.set_title("labels: white = cell")
            for axes in (source, image, label):
                axes.set_axis_off()
        save_figure(figure, path, dpi=_DPI)


def _draw_sampled(axes: Axes, pair: ShownPair) -> None:
    """Draw rows and columns of the pair where they lie in the section."""
    side = len(pair.image_YX)
    # a quarter of the lines of the grid, since they may lie densely here
    for line in np.linspace(0, side - 1, _LATTICE_LINES // 2 + 1).astype(int):
        axes.plot(pair.x_YX[line], pair.y_YX[line], color=LATTICE, linewidth=0.9)
        axes.plot(pair.x_YX[:, line], pair.y_YX[:, line], color=LATTICE, linewidth=0.9)


def draw_contact_sheet(
    sections: Iterable[tuple[int, npt.NDArray[Any], npt.NDArray[np.float32]]], path: Path, *, title: str
) -> None:
    """Draw segmented sections on one sheet, each with its membranes outlined and beside its probabilities.

    Parameters
    ----------
    sections : iterable of (int, array, float32 array)
        Number, grey values (Y, X) and probability of cell (Y, X); taken one by one.
    path : Path
        A .png, .svg or .pdf file; replaced only when the new one is whole.
    title : str
        Above the sheet.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    panels = [(z, section_panel(grey_YX, probability_YX)) for z, grey_YX, probability_YX in sections]
    height, width = panels[0][1].shape[:2]
    columns = min(_SHEET_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    cell_in = width / _DPI, max(height / _DPI, 0.3) + 0.22
    with matplotlib.rc_context(STYLE):
        figure = Figure((max(columns * (cell_in[0] + 0.1), 5), rows * cell_in[1] + 0.5), layout="constrained")
        grid: Any = figure.subplots(rows, columns, squeeze=False)
        figure.suptitle(title, x=0.01, horizontalalignment="left", fontweight="bold", fontsize=10)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, (z, panel_YXC) in zip(grid.flat, panels, strict=False):
            axes.imshow(panel_YXC, interpolation="antialiased")
            axes.set_title(f"{z}", fontsize=8)
        save_figure(figure, path, dpi=_DPI)


def section_panel(grey_YX: npt.NDArray[Any], probability_YX: npt.NDArray[np.float32]) -> Picture:
    """Put a section with its membranes outlined beside its probabilities, at most 256 pixels each.

    Parameters
    ----------
    grey_YX : array, shape (Y, X)
        Grey values.
    probability_YX : float32 array of the same shape
        1 = cell, 0 = membrane. The outline is where it crosses one half.

    Returns
    -------
    float32 array, shape (Y', 2 X' + gap, 3)
        Red, green and blue in [0, 1].
    """
    from matplotlib.colors import to_rgb

    low, high = (float(grey) for grey in np.percentile(grey_YX, (0.5, 99.5)))
    grey = _thumbnail(np.clip((grey_YX.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1))
    found = _thumbnail(probability_YX)
    cell = found > 0.5
    edge = np.zeros(cell.shape, bool)
    edge[:-1] |= cell[:-1] != cell[1:]
    edge[:, :-1] |= cell[:, :-1] != cell[:, 1:]
    image = np.repeat(grey[..., None], 3, axis=2)
    image[edge] = to_rgb(OUTLINE)
    gap = np.ones((len(grey), 2, 3), np.float32)
    return np.concatenate((image, gap, np.repeat(found[..., None], 3, axis=2)), axis=1)


def _thumbnail(values_YX: npt.NDArray[np.float32]) -> Picture:
    from skimage.transform import resize

    factor = _THUMBNAIL_PX / max(values_YX.shape)
    if factor >= 1:
        return values_YX.astype(np.float32)
    shape = tuple(max(1, round(side * factor)) for side in values_YX.shape)
    small: Picture = resize(values_YX.astype(np.float32), shape, order=1, mode="reflect", anti_aliasing=True)
    return np.clip(small, 0, 1)
