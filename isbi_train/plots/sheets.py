"""Pictures of augmented pairs with their elastic grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isbi_train.plots.figures import STYLE, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from isbi_train.augment.examples import ShownPair

LATTICE = "#56b4e9"  # of Okabe and Ito's palette, which colour-blind readers can tell apart

_LATTICE_LINES = 16
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
