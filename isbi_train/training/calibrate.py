"""Calibration: one factor and one offset for all logits, folded into the network's last convolution.

Guo et al. 2017, "On Calibration of Modern Neural Networks", ICML (temperature scaling), with an offset beside the
factor (Platt 1999). Both are fitted on the held-out sections, so the scores there are slightly flattered: two numbers
fitted to a million pixels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from isbi_infer.errors import ModelError
from isbi_train.networks.checkpoint import Checkpoint
from isbi_train.networks.whole import SURELY_MEMBRANE
from isbi_train.scores.metrics import expected_calibration_error, thinned_scores
from isbi_train.scores.thinned import THRESHOLDS
from isbi_train.training.validate import HeldOut, summary_of

log = logging.getLogger(__name__)

_STEPS, _LONGEST_STEP, _CLOSE, _SINGULAR = 50, 2.0, 1e-9, 1e-12


def fit_calibration(logits: npt.NDArray[np.float32], cell: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Minimise the binary cross-entropy of ``factor * logit + offset`` by Newton's method.

    Parameters
    ----------
    logits : ndarray of float32
        Of cell interior.
    cell : ndarray of bool, same shape
        The labels.

    Returns
    -------
    (float, float)
        Factor and offset.

    Raises
    ------
    ModelError
        If there is no such minimum at a positive factor: the logits part the classes without fault, or not at all.
    """
    x, y = logits.ravel().astype(np.float64), cell.ravel()
    centre, width = float(x.mean()), float(x.std())
    if width > 0:
        x = (x - centre) / width
        parameters = np.zeros(2)  # from here whole steps of Newton's method seldom overshoot
        for _ in range(_STEPS):
            p = _sigmoid(parameters[0] * x + parameters[1])
            residual, weight = p - y, p * (1 - p)
            gradient = np.array([(residual * x).mean(), residual.mean()])
            mixed = (weight * x).mean()
            hessian = np.array([[(weight * x * x).mean(), mixed], [mixed, weight.mean()]])
            if not np.linalg.det(hessian) > _SINGULAR:
                break
            step = np.linalg.solve(hessian, gradient)
            parameters = parameters - step * min(1.0, _LONGEST_STEP / float(np.abs(step).max()))
            if np.abs(step).max() < _CLOSE:
                factor = float(parameters[0]) / width
                if factor <= 0:
                    break
                return factor, float(parameters[1]) - factor * centre
    raise ModelError("the logits cannot be calibrated: they part the classes without fault, or not at all")


def _sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    out: npt.NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * x))
    return out


def fold_calibration(network: nn.Module, factor: float, offset: float) -> None:
    """Let a network give ``factor * logit + offset``, by changing its last convolution.

    Parameters
    ----------
    network : Module
        Whose last convolution is ``head``.
    factor, offset : float
        See `fit_calibration`.
    """
    head = network.get_submodule("head")
    assert isinstance(head, nn.Conv2d)
    assert head.bias is not None
    with torch.no_grad():
        head.weight.mul_(factor)
        head.bias.mul_(factor).add_(offset)


def calibrated(
    checkpoint: Checkpoint, logits: Sequence[npt.NDArray[np.float32]], held_out: Sequence[HeldOut]
) -> tuple[Checkpoint, list[npt.NDArray[np.float32]]]:
    """Calibrate a checkpoint.

    The logits of one stack are fitted to its labels. Those of several get one factor, fitted to as many pixels of each,
    and the offset that makes 0.5 a good threshold for all: borders are drawn wider by one annotator than by another, so
    what is calibrated on the mean of them is the best threshold of none.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of a run that is over.
    logits : sequence of ndarray of float32, shape (Z, Y, X)
        What its network gives for each stack.
    held_out : sequence of HeldOut
        The held-out sections of the run.

    Returns
    -------
    Checkpoint
        With factor and offset folded into the network, and the scores of `logits` so changed, with ``calibration``:
        factor, offset, and the held-out loss and calibration error before and after, means over the stacks. As it was
        where it cannot be calibrated.
    list of ndarray of float32
        The logits of that network, up to rounding.
    """
    try:
        factor, offset = fit_calibration(*_pooled(logits, held_out))
        if len(held_out) > 1:
            offset = -factor * best_level(logits, held_out, 1 / factor)
    except ModelError as error:
        log.warning("%s; the weights are left as they are", error)
        return checkpoint, list(logits)
    network = checkpoint.load_network()
    fold_calibration(network, factor, offset)
    changed = [
        np.where(found_ZYX == SURELY_MEMBRANE, found_ZYX, np.float32(factor) * found_ZYX + np.float32(offset))
        for found_ZYX in logits
    ]
    before, after = (summary_of(found, held_out) for found in (logits, changed))
    calibration = {
        "factor": factor,
        "offset": offset,
        "loss": [before["loss"], after["loss"]],
        "calibration_error": [_calibration_error(found, held_out) for found in (logits, changed)],
    }
    scores = {**checkpoint.scores, **after, "calibration": calibration}
    state_dict = {name: weight.detach().clone() for name, weight in network.state_dict().items()}
    return replace(checkpoint, state_dict=state_dict, scores=scores), changed


def best_level(
    logits: Sequence[npt.NDArray[np.float32]], held_out: Sequence[HeldOut], width: float = 1.0
) -> float:
    """Return the logit above which pixels are best taken as cell, one for all stacks.

    Parameters
    ----------
    logits : sequence of ndarray of float32, shape (Z, Y, X)
        Of cell interior, of each stack.
    held_out : sequence of HeldOut
        What they are scored against.
    width : float
        The levels looked at are those of the challenge's thresholds from 0.1 to 0.9, times this.

    Returns
    -------
    float
        The level at which the stack that loses most against its own best level, in the mean of V_rand and V_info,
        loses least.
    """
    losses = []
    for found_ZYX, part in zip(logits, held_out, strict=True):
        scores = thinned_scores(
            torch.sigmoid(torch.from_numpy(found_ZYX / np.float32(width))).numpy(),
            part.scored.cell_ZYX,
            ids=part.scored.ids_ZYX,
            ignored=part.scored.ignored_ZYX,
        )
        by_threshold = (scores.rand.score.mean(axis=1) + scores.info.score.mean(axis=1)) / 2
        by_threshold = np.nan_to_num(by_threshold[1:-1], nan=0.0)
        losses.append(by_threshold.max() - by_threshold)
    threshold = THRESHOLDS[1 + int(np.argmin(np.max(losses, axis=0)))]
    return width * log_of_odds(threshold)


def log_of_odds(probability: float) -> float:
    """Return the logit of a probability."""
    return math.log(probability / (1 - probability))


def _pooled(
    logits: Sequence[npt.NDArray[np.float32]], held_out: Sequence[HeldOut]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return logits and labels of as many pixels of each stack as the smallest has, evenly spread."""
    pairs = []
    for found_ZYX, part in zip(logits, held_out, strict=True):
        ignored_ZYX = part.learnt.ignored_ZYX
        counted = slice(None) if ignored_ZYX is None else ~ignored_ZYX.ravel()
        pairs.append((found_ZYX.ravel()[counted], part.learnt.cell_ZYX.ravel()[counted]))
    fewest = min(len(found) for found, _ in pairs)
    chosen = [np.arange(fewest) * len(found) // fewest for found, _ in pairs]
    return (
        np.concatenate([found[at] for (found, _), at in zip(pairs, chosen, strict=True)]),
        np.concatenate([cell[at] for (_, cell), at in zip(pairs, chosen, strict=True)]),
    )


def _calibration_error(logits: Sequence[npt.NDArray[np.float32]], held_out: Sequence[HeldOut]) -> float:
    errors = [
        expected_calibration_error(
            torch.sigmoid(torch.from_numpy(found_ZYX)).numpy(),
            part.scored.cell_ZYX,
            ignored=part.scored.ignored_ZYX,
        )
        for found_ZYX, part in zip(logits, held_out, strict=True)
    ]
    return float(np.mean(errors))
