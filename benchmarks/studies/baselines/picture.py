"""Draw what the released model and trained baselines make of a synthetic section; real sections may not be shown."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isbi_infer.errors import UsageError
from isbi_infer.terminal import exit_codes, require_packages

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SIDE, SEED, SECTION = 512, 2012, 3
MEMBRANE, MISSED, EXTRA = "#e69f00", "#d55e00", "#0072b2"  # Okabe and Ito's palette
_LAST = "last"


@dataclass(frozen=True, slots=True)
class Panel:
    """One row: a network, its probabilities of cell (Y, X) and its scores on the section."""

    title: str
    probability_YX: npt.NDArray[np.float32]
    scores: str


def baseline_panels(runs: Sequence[Path], image_YX: Any, cell_YX: Any) -> list[Panel]:
    """Run the weights that `python -m benchmarks.studies.baselines --fold last` left, on a section.

    Parameters
    ----------
    runs : sequence of Path
        Folders of networks, such as ``runs/baselines/basicunet``.
    image_YX, cell_YX : ndarray
        The section, and True where there is cell.

    Returns
    -------
    list of Panel

    Raises
    ------
    UsageError
        If a folder holds no such weights.
    """
    import torch

    from isbi_train.networks.whole import predict_whole

    from .__main__ import RESULT, WEIGHTS
    from .networks import networks
    from .plan import PLAN

    panels = []
    for run in runs:
        weights, plan = run / _LAST / WEIGHTS, run / PLAN
        if not (weights.exists() and plan.exists()):
            raise UsageError(
                f"{run}: no {_LAST}/{WEIGHTS} in it; run python -m benchmarks.studies.baselines --fold last first"
            )
        known = networks()[json.loads(plan.read_text(encoding="utf-8"))["network"]]
        network = known.build().eval()
        network.load_state_dict(torch.load(weights, weights_only=True))
        logits_ZYX = predict_whole(network, image_YX[None], stride=known.stride, border=0)
        fitted = json.loads((run / _LAST / RESULT).read_text(encoding="utf-8")).get("calibration")
        factor, offset = (fitted["factor"], fitted["offset"]) if fitted else (1.0, 0.0)
        probability_YX = torch.sigmoid(torch.from_numpy(factor * logits_ZYX[0] + offset)).numpy()
        panels.append(_scored(known.title, probability_YX, cell_YX))
    return panels


def released_panel(image_YX: Any, cell_YX: Any) -> Panel:
    """Run the released model on a section, through the path that ships."""
    from benchmarks.report.cells import MEASURED
    from isbi_infer import Segmenter

    name = MEASURED
    return _scored(f"{name}, released", Segmenter(provider="cpu", precision="fp32")(image_YX), cell_YX)


def _scored(title: str, probability_YX: Any, cell_YX: Any) -> Panel:
    from isbi_train.scores.metrics import thinned_scores

    scores = thinned_scores(probability_YX[None], cell_YX[None])
    return Panel(title, probability_YX, f"V_rand {scores.v_rand:.4f}, V_info {scores.v_info:.4f}")


def draw(image_YX: Any, cell_YX: Any, panels: Sequence[Panel], path: Path) -> None:
    """Draw the section and its labels above, and a row for each network: membranes found, probabilities, errors.

    Parameters
    ----------
    image_YX, cell_YX : ndarray, shape (Y, X)
        Grey values, and True where there is cell.
    panels : sequence of Panel
        One row each.
    path : Path
        A .png, .svg or .pdf file; replaced only when the new one is whole.
    """
    import matplotlib
    import numpy as np
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    from isbi_train.plots.figures import STYLE, save_figure

    low, high = (float(grey) for grey in np.percentile(image_YX, (0.5, 99.5)))
    grey_YX = np.clip((image_YX.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
    grey_YXC = np.repeat(grey_YX[..., None], 3, axis=2)

    def painted(*masks: tuple[Any, str]) -> Any:
        picture_YXC = grey_YXC.copy()
        for mask_YX, colour in masks:
            picture_YXC[mask_YX] = to_rgb(colour)
        return picture_YXC

    with matplotlib.rc_context(STYLE):
        rows = 1 + len(panels)
        figure = Figure((9.6, 3.35 * rows), layout="constrained")
        grid: Any = figure.subplots(rows, 3, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, picture, title in zip(
            grid[0],
            (grey_YXC, painted((~cell_YX, MEMBRANE)), cell_YX),
            ("synthetic section", "its membranes", "its labels: white = cell"),
            strict=True,
        ):
            axes.imshow(picture, cmap="gray", interpolation="antialiased")
            axes.set_title(title)
        for row, panel in zip(grid[1:], panels, strict=True):
            found_YX = panel.probability_YX > 0.5
            row[0].imshow(painted((~found_YX, MEMBRANE)), interpolation="antialiased")
            row[0].set_title(panel.title)
            row[1].imshow(panel.probability_YX, cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
            row[1].set_title(panel.scores)
            row[2].imshow(
                painted((~cell_YX & found_YX, MISSED), (cell_YX & ~found_YX, EXTRA)),
                interpolation="antialiased",
            )
            row[2].set_title("red: missed, blue: too much")
        save_figure(figure, path, dpi=80)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.baselines.picture", description=__doc__
    )
    found.add_argument("runs", metavar="RUN", type=Path, nargs="*", help="such as runs/baselines/basicunet")
    found.add_argument("--out", type=Path, required=True, help=".png, .svg or .pdf")
    found.add_argument("--side", type=int, default=SIDE, help="of the section, in pixels [%(default)s]")
    return found


def main(argv: list[str] | None = None) -> None:
    """Draw the picture."""
    asked = parser().parse_args(argv)
    with exit_codes(parser().prog):
        require_packages("bench", "torch", "matplotlib")
        from isbi_infer.sample import synthetic_stack
        from isbi_train.plots.figures import check_plottable

        check_plottable(asked.out)
        image_ZYX, label_ZYX = synthetic_stack(SECTION + 1, asked.side, asked.side, seed=SEED)
        image_YX, cell_YX = image_ZYX[SECTION], label_ZYX[SECTION] > 0
        panels = [released_panel(image_YX, cell_YX), *baseline_panels(asked.runs, image_YX, cell_YX)]
        draw(image_YX, cell_YX, panels, asked.out)
        for panel in panels:
            print(f"{panel.title}: {panel.scores}")
        print(asked.out)


if __name__ == "__main__":
    main()
