"""Calibration: what was distorted is found, folded into the network, and recorded once."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from drawn import synthetic_stack
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from isbi_infer.errors import ModelError
from isbi_train.config import AugmentConfig, NetworkConfig
from isbi_train.config.inputs import Inputs
from isbi_train.data.borders import learnt_labels
from isbi_train.data.labelled import LabelledStack
from isbi_train.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from isbi_train.networks.network import UNet
from isbi_train.networks.whole import SURELY_MEMBRANE, predict_whole
from isbi_train.scores.metrics import expected_calibration_error
from isbi_train.training.calibrate import best_level, calibrated, fit_calibration, fold_calibration
from isbi_train.training.validate import HeldOut, scores_of


def drawn(n=40_000, seed=0):
    """Logits that are calibrated, and labels drawn from them."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0.5, 2.0, n).astype(np.float32)
    return logits, generator.random(n) < 1 / (1 + np.exp(-logits))


@given(factor=st.floats(0.02, 50), offset=st.floats(-4, 4))
def test_a_distortion_of_calibrated_logits_is_undone(factor, offset):
    logits, cell = drawn()
    found_factor, found_offset = fit_calibration(((logits - offset) / factor).astype(np.float32), cell)
    assert found_factor == pytest.approx(factor, rel=0.05)
    assert found_offset == pytest.approx(offset, abs=0.1 + 0.03 * abs(offset))


@pytest.mark.parametrize("case", ["parted", "inverted", "flat"])
def test_logits_without_a_calibration_are_an_error(case):
    logits, cell = drawn(2000)
    found = {"parted": np.where(cell, 1, -1), "inverted": -logits, "flat": np.zeros_like(logits)}[case]
    with pytest.raises(ModelError, match="cannot be calibrated"):
        fit_calibration(found.astype(np.float32), cell)


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_folding_changes_all_logits_alike(network, unshuffle):
    torch.manual_seed(3)
    model = UNet(replace(network, unshuffle=unshuffle)).eval()
    image_NCYX = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        before = model(image_NCYX)
        fold_calibration(model, 2.5, -0.5)
        torch.testing.assert_close(model(image_NCYX), 2.5 * before - 0.5, rtol=0, atol=1e-5)


def whole_logits(model, held_out):
    return predict_whole(model.load_network(), held_out.image_ZYX, stride=model.network.stride, border=0)


def correlated_start(train, folder, held_out):
    """Save first weights whose logits, once a run has measured BatchNorm's statistics, are higher on cells.

    Logits of that kind always have a calibration, whatever was learnt: the loss is convex, and falls from a factor of
    zero upwards. The run's weights stay as they are, so only the sign of the last convolution is open.
    """
    still = {"epochs": 1, "learning_rate": 1e-12}
    measured = load_checkpoint(train(folder / "measured", **still))
    logits_ZYX = whole_logits(measured, held_out)
    sign = np.sign(logits_ZYX[held_out.cell_ZYX].mean() - logits_ZYX[~held_out.cell_ZYX].mean())
    torch.manual_seed(measured.train.seed)
    first = UNet(measured.network)
    fold_calibration(first, float(sign), 0.0)
    save_checkpoint(folder / "first.pth", replace(measured, state_dict=first.state_dict()))
    return {**still, "inputs": Inputs(init=str(folder / "first.pth"))}


@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_with_calibrate_leaves_calibrated_models_and_says_what_it_gained(
    train, tmp_path, labelled, seed
):
    held_out = labelled[3:]
    settings = correlated_start(partial(train, seed=seed), tmp_path, held_out) | {"seed": seed}
    plain = load_checkpoint(train(tmp_path / "plain", **settings))
    model = load_checkpoint(train(tmp_path / "run", **settings, calibrate=True))
    scores = model.scores["calibration"]
    assert scores["factor"] > 0
    assert scores["loss"][1] < scores["loss"][0]
    assert scores["loss"][0] == pytest.approx(plain.scores["loss"])
    assert model.scores["loss"] == scores["loss"][1]
    plain_ZYX, logits_ZYX = whole_logits(plain, held_out), whole_logits(model, held_out)
    expected_ZYX = scores["factor"] * plain_ZYX + scores["offset"]
    np.testing.assert_allclose(logits_ZYX, expected_ZYX, rtol=0, atol=1e-4 * max(1, scores["factor"]))
    for error, found_ZYX in zip(scores["calibration_error"], (plain_ZYX, logits_ZYX), strict=True):
        probability_ZYX = torch.sigmoid(torch.from_numpy(found_ZYX)).numpy()
        again = expected_calibration_error(probability_ZYX, held_out.cell_ZYX)
        assert error == pytest.approx(again, abs=1e-7)  # as probabilities are rounded
    assert json.loads(json.dumps(model.scores)) == model.scores  # as it goes into the model's contract

    before = (tmp_path / "run" / "model.pth").read_bytes()
    train(tmp_path / "run", **settings, calibrate=True, resume=True)
    assert (tmp_path / "run" / "model.pth").read_bytes() == before


def test_a_network_that_learnt_nothing_is_left_as_it_is(checkpoint, labelled, caplog):
    for name in ("weight", "bias"):
        checkpoint.state_dict[f"head.{name}"].zero_()
    logits_ZYX = whole_logits(checkpoint, labelled[3:])
    found, (same_ZYX,) = calibrated(checkpoint, [logits_ZYX], [HeldOut("", labelled[3:], labelled[3:])])
    assert found is checkpoint
    assert same_ZYX is logits_ZYX
    assert "left as they are" in caplog.text


def leaky(label_ZYX, cell, membrane):
    """Logits of two values, with a hole in every membrane that is a little less of a membrane."""
    logits_ZYX = np.where(label_ZYX > 0, cell, membrane).astype(np.float32)
    logits_ZYX[:, ::7][label_ZYX[:, ::7] == 0] = (cell + membrane) / 2
    return logits_ZYX


@pytest.mark.parametrize("shift", [-1.0, 0.0, 1.5])
def test_the_best_level_of_several_stacks_keeps_the_membranes_of_all(labelled, shift):
    part = HeldOut("a", labelled, labelled)
    wide = leaky(labelled.cell_ZYX, 4.0 + shift, -4.0 + shift)  # its holes are at `shift`
    near = leaky(labelled.cell_ZYX, 3.0 + shift, -1.0 + shift)  # and these at 1 + `shift`
    level = best_level([wide, near], [part, replace(part, name="b")], width=1.5)
    assert 1 + shift <= level < 3 + shift


def test_several_stacks_are_calibrated_to_one_half(train, labelled, tmp_path):
    settings = correlated_start(train, tmp_path, labelled[3:])
    model = train(tmp_path / "run", **settings)
    parts = [HeldOut(name, labelled[3:], labelled[3:]) for name in ("a", "b")]
    plain_ZYX = whole_logits(load_checkpoint(model), labelled[3:])
    found, changed = calibrated(load_checkpoint(model), [plain_ZYX, plain_ZYX], parts)
    factor, offset = found.scores["calibration"]["factor"], found.scores["calibration"]["offset"]
    assert factor > 0
    assert set(found.scores["stacks"]) == {"a", "b"}
    level = best_level([plain_ZYX, plain_ZYX], parts, 1 / factor)
    assert factor * level + offset == pytest.approx(0, abs=1e-6)
    for changed_ZYX in changed:
        np.testing.assert_allclose(changed_ZYX, factor * plain_ZYX + offset, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        whole_logits(found, labelled[3:]), changed[0], rtol=0, atol=1e-4 * max(1, factor)
    )


@pytest.mark.parametrize("blank", [False, True])
def test_what_shows_no_tissue_moves_neither_the_loss_nor_the_calibration(train_config, blank):
    image_ZYX, label_ZYX = synthetic_stack(4, 96, 96)
    image_ZYX, cell_ZYX = image_ZYX.copy(), label_ZYX > 0
    canvas = (slice(3, 4), slice(None), slice(None)) if blank else (slice(0, 2), slice(0, 40), slice(0, 40))
    image_ZYX[canvas] = 0
    cell_ZYX[canvas] = True  # as in a mask of membranes whose canvas was filled with 0
    stack = LabelledStack(image_ZYX, cell_ZYX, 4.0)
    train = train_config(hold_out=4)
    part = HeldOut("", stack, learnt_labels(stack, train))
    tissue = np.ones_like(cell_ZYX)
    tissue[canvas] = False
    logits, _ = drawn(cell_ZYX.size)
    noise_ZYX = logits.reshape(cell_ZYX.shape)
    found_ZYX = np.where(tissue, noise_ZYX + np.where(cell_ZYX, 2, -2), SURELY_MEMBRANE).astype(np.float32)
    expected = F.binary_cross_entropy_with_logits(
        torch.from_numpy(found_ZYX[tissue]), torch.from_numpy(cell_ZYX[tissue]).float()
    )
    assert scores_of(found_ZYX, part.scored, part.learnt)["loss"] == pytest.approx(expected.item(), rel=1e-5)
    network = NetworkConfig(base=2, depth=1)
    weights = Checkpoint(
        network=network,
        augment=AugmentConfig(),
        train=train,
        state_dict=UNet(network).state_dict(),
        epoch=1,
        data={"sha256": {}, "sections": 4, "pixel_size_nm": 4.0},
        scores={},
    )
    changed, (logits_ZYX,) = calibrated(weights, [found_ZYX], [part])
    factor, offset = fit_calibration(found_ZYX[tissue], cell_ZYX[tissue])
    assert changed.scores["calibration"]["factor"] == pytest.approx(factor)
    assert changed.scores["calibration"]["offset"] == pytest.approx(offset)
    assert (logits_ZYX[~tissue] == SURELY_MEMBRANE).all()


def test_a_run_on_sparse_labels_is_calibrated_with_what_they_ignore_left_out(train, tmp_path, labelled):
    ignored_ZYX = np.zeros_like(labelled.cell_ZYX)
    ignored_ZYX[:, :36] = True
    sparse = replace(labelled, ignored_ZYX=ignored_ZYX, cell_ZYX=labelled.cell_ZYX & ~ignored_ZYX)
    assert (~sparse.cell_ZYX[-1:]).mean() > 0.5  # most of it, counted as membrane, would be inverted labels
    start = correlated_start(train, tmp_path, labelled[3:])
    model = load_checkpoint(train(tmp_path / "sparse", stack=sparse, calibrate=True, **start))
    logits_ZYX = whole_logits(model, sparse[3:])
    error = expected_calibration_error(
        torch.sigmoid(torch.from_numpy(logits_ZYX)).numpy(), sparse.cell_ZYX[3:], ignored=ignored_ZYX[3:]
    )
    assert model.scores["calibration"]["calibration_error"][1] == pytest.approx(error, abs=1e-4)
