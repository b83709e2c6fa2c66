"""How a model's scores hold when sections look different: `python -m benchmarks.studies.robustness --data DIR`.

Other microscopes, stains and cameras give other contrast, noise, focus, illumination and pixel size. Here the held-out
sections are changed in these ways, one at a time, and segmented as a user would. Every change is a fixed one, so that a
repetition gives the same figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.store import store
from isbi_infer import Segmenter
from isbi_infer.errors import UsageError
from isbi_infer.pixels.resample import resample
from isbi_infer.terminal import exit_codes
from isbi_train.data.labelled import LabelledStack, load_labelled
from isbi_train.scores.metrics import thinned_scores

NAME = "robustness"
MODELS = ("em", "isbi2012-unet-b32")
HELD_OUT = slice(25, 30)
PIXEL_NM = 4.0  # of the challenge's sections

Change = Callable[[Any], Any]


def _grey(values_ZYX: Any) -> Any:
    return np.clip(np.rint(values_ZYX), 0, 255).astype(np.uint8)


def gamma(exponent: float) -> Change:
    return lambda stack_ZYX: _grey(255 * (stack_ZYX / 255.0) ** exponent)


def contrast(factor: float) -> Change:
    return lambda stack_ZYX: _grey(128 + factor * (stack_ZYX - 128.0))


def equalised(stack_ZYX: Any) -> Any:
    """Return every section a flat histogram."""
    ranks = np.stack([np.argsort(np.argsort(section_YX, axis=None)) for section_YX in stack_ZYX])
    return _grey(ranks.reshape(stack_ZYX.shape) * (255 / (stack_ZYX[0].size - 1)))


def noise(deviation: float) -> Change:
    def add(stack_ZYX: Any) -> Any:
        return _grey(stack_ZYX + np.random.default_rng(0).normal(0, deviation, stack_ZYX.shape))

    return add


def blur(sigma_px: float) -> Change:
    return lambda stack_ZYX: _grey(gaussian_filter(stack_ZYX.astype(float), (0, sigma_px, sigma_px)))


def shading(darkest: float, brightest: float) -> Change:
    """Brighten from left to right."""
    return lambda stack_ZYX: _grey(stack_ZYX * np.linspace(darkest, brightest, stack_ZYX.shape[2]))


CHANGES: dict[str, Change] = {
    "as they are": lambda stack_ZYX: stack_ZYX,
    "gamma 0.5": gamma(0.5),
    "gamma 2": gamma(2),
    "contrast x 0.3": contrast(0.3),
    "contrast x 2, clipped": contrast(2),
    "flat histogram": equalised,
    "noise of 15 grey values": noise(15),
    "noise of 30 grey values": noise(30),
    "blur of 1 px": blur(1),
    "blur of 2 px": blur(2),
    "shading, 0.8 to 1.2 across": shading(0.8, 1.2),
    "shading, 0.6 to 1.4 across": shading(0.6, 1.4),
}
PIXEL_SIZES_NM = (3.0, 4.6, 5.0, 6.0)


def measure(model: str | None, held_out: LabelledStack, precision: str) -> dict[str, dict[str, float]]:
    """Score a model on sections as they are, changed, and at other pixel sizes.

    Parameters
    ----------
    model : str or None
        As `isbi_infer.Segmenter` takes it; None for the default.
    held_out : LabelledStack
        The sections, 8-bit, of 4 nm pixels, which the model is told.
    precision : str
        As for `isbi_infer.Segmenter`.

    Returns
    -------
    dict
        For each change ``v_rand`` and ``v_info`` after border thinning. Where the pixel size is another one, the
        result is brought back to 4 nm, so that all are scored against the same labels.
    """

    def opened(pixel_size: float | None) -> Segmenter:
        return Segmenter(model, precision=precision, pixel_size=pixel_size)

    def scored(probability_ZYX: Any) -> dict[str, float]:
        found = thinned_scores(probability_ZYX, held_out.cell_ZYX)
        return {"v_rand": found.v_rand, "v_info": found.v_info}

    segmenter, shape = opened(PIXEL_NM), held_out.image_ZYX.shape[1:]
    found = {name: scored(segmenter(change(held_out.image_ZYX))) for name, change in CHANGES.items()}
    for pixel_nm in PIXEL_SIZES_NM:
        there = tuple(round(side * PIXEL_NM / pixel_nm) for side in shape)
        sections_ZYX = _grey(np.stack([resample(section_YX, there) for section_YX in held_out.image_ZYX]))
        for how, given in ((f"--pixel-size {pixel_nm:g}", pixel_nm), ("not said", None)):
            back_ZYX = np.stack([resample(one_YX, shape) for one_YX in opened(given)(sections_ZYX)])
            found[f"pixels of {pixel_nm:g} nm, {how}"] = scored(back_ZYX)
    return found


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.robustness", description=__doc__.splitlines()[0]
    )
    found.add_argument("--data", type=Path, required=True, help="folder of the challenge's training stack")
    found.add_argument(
        "--model",
        action="append",
        default=[],
        help="name of a released model, or a file; repeatable [those that were trained on the challenge's tissue]",
    )
    found.add_argument("--precision", default="auto", help="of all models [the fastest that passed its gate]")
    found.add_argument(
        "--store", action="store_true", help="write benchmarks/results/MACHINE-DATE-robustness.json"
    )
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Score, print, and store where that is asked for."""
    asked = parser().parse_args(argv)
    with exit_codes(parser().prog):
        names = [Path(model).name for model in asked.model]
        if len(set(names)) < len(names):
            raise UsageError(f"two models of one name: {', '.join(names)}; rename one")
        held_out = load_labelled(asked.data)[HELD_OUT]
        by_model = {}
        for model in asked.model or MODELS:
            used = Segmenter(model, precision=asked.precision)
            by_change = measure(model, held_out, asked.precision)
            by_model[Path(model).name] = {
                "by_change": by_change,
                "model_sha256": used.model_sha256,
                "precision": used.precision,
                "runtime": used.provider,
            }
            for name, scores in by_change.items():
                print(
                    f"{Path(model).name:24} {name:40} V_rand {scores['v_rand']:.4f}  V_info {scores['v_info']:.4f}",
                    flush=True,
                )
        if asked.store:
            print(store(NAME, {"by_model": by_model}, {"sections": "25:30", "precision": asked.precision}))


if __name__ == "__main__":
    main()
