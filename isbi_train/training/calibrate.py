"""Calibration: one factor and one offset for all logits, folded into the network's last convolution.

Guo et al. 2017, "On Calibration of Modern Neural Networks", ICML (temperature scaling), with an offset beside the
factor (Platt 1999). Both are fitted on the held-out sections, so the scores there are slightly flattered: two numbers
fitted to a million pixels.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from isbi_infer.errors import ModelError
from isbi_train.data.labelled import LabelledStack
from isbi_train.networks.checkpoint import load_checkpoint, save_checkpoint
from isbi_train.networks.whole import predict_whole
from isbi_train.scores.metrics import expected_calibration_error
from isbi_train.training.validate import scores_of

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


def calibrate_file(path: Path, held_out: LabelledStack) -> dict[str, Any]:
    """Calibrate a checkpoint in place, once.

    Parameters
    ----------
    path : Path
        ``model.pth`` or ``best.pth``.
    held_out : LabelledStack
        Its held-out sections.

    Returns
    -------
    dict
        Its scores, anew, with ``calibration``: factor, offset, and the held-out loss and calibration error before and
        after. Those of a file that is calibrated already, or cannot be, are as they were.
    """
    checkpoint = load_checkpoint(path)
    if "calibration" in checkpoint.scores:
        return checkpoint.scores
    network = checkpoint.load_network()
    stride, border = checkpoint.network.stride, checkpoint.train.border
    logits_ZYX = predict_whole(network, held_out.image_ZYX, stride=stride, border=border)
    try:
        factor, offset = fit_calibration(logits_ZYX, held_out.cell_ZYX)
    except ModelError as error:
        log.warning("%s: %s; left as it is", path, error)
        return checkpoint.scores
    fold_calibration(network, factor, offset)
    calibrated_ZYX = predict_whole(network, held_out.image_ZYX, stride=stride, border=border)
    before, after = scores_of(logits_ZYX, held_out), scores_of(calibrated_ZYX, held_out)
    error_before, error_after = (
        expected_calibration_error(torch.sigmoid(torch.from_numpy(z)).numpy(), held_out.cell_ZYX)
        for z in (logits_ZYX, calibrated_ZYX)
    )
    calibration = {
        "factor": factor,
        "offset": offset,
        "loss": [before["loss"], after["loss"]],
        "calibration_error": [float(error_before), float(error_after)],
    }
    scores = {**checkpoint.scores, **after, "calibration": calibration}
    state_dict = {name: weight.detach().clone() for name, weight in network.state_dict().items()}
    save_checkpoint(path, replace(checkpoint, state_dict=state_dict, scores=scores))
    return scores
