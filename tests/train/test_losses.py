"""Losses against their formulas, computed by hand or by brute force."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn import functional as F

from isbi_train.config import TrainConfig
from isbi_train.training.batches import bring_sections
from isbi_train.training.losses import (
    border_distances,
    border_weights,
    is_plain,
    loss,
    mean_weight,
    smoothing,
    target_maps,
    targets_and_weights,
)

few = settings(max_examples=settings().max_examples // 4)


def cells(seed, side=24):
    generator = np.random.default_rng(seed)
    return ndimage.gaussian_filter(generator.normal(size=(side, side)), 1.5) > 0.05


@few
@given(seed=st.integers(0, 1000))
def test_distances_are_those_to_the_two_nearest_cells(seed):
    cell_YX = cells(seed)
    numbered_YX, count = ndimage.label(cell_YX)
    each = [ndimage.distance_transform_edt(numbered_YX != n) for n in range(1, count + 1)]
    each = np.sort(np.stack([*each, *2 * [np.full(cell_YX.shape, np.inf)]]), axis=0)[:2]
    np.testing.assert_allclose(border_distances(cell_YX, 40), each, rtol=1e-6)


@few
@given(seed=st.integers(0, 1000), sigma=st.floats(1, 6))
def test_looking_no_further_than_the_weights_reach_changes_them_by_nothing(seed, sigma):
    cell_YX = cells(seed, 48)
    d1, d2 = border_distances(cell_YX, 100)
    expected = np.where(cell_YX, 0, 10 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)))
    np.testing.assert_allclose(border_weights(cell_YX, 10, sigma), expected, rtol=0, atol=1e-5)


def test_the_border_weight_is_the_papers_between_two_cells():
    cell_YX = np.ones((9, 20), bool)
    cell_YX[:, 8:11] = False  # three pixels of membrane; its middle is 2 px from either cell
    weight_YX = border_weights(cell_YX, 10, 5)
    assert weight_YX[4, 9] == pytest.approx(10 * np.exp(-(4**2) / 50))
    assert weight_YX[4, 8] == pytest.approx(10 * np.exp(-(4**2) / 50))  # 1 px and 3 px
    assert (weight_YX[cell_YX] == 0).all()


def test_without_two_cells_there_is_no_border_to_weigh():
    for cell_YX in (np.zeros((8, 8), bool), np.ones((8, 8), bool), np.arange(64).reshape(8, 8) > 30):
        assert (border_weights(cell_YX, 10, 5) == 0).all()


def test_smoothing_is_strongest_beside_a_border_and_fades():
    cell_YX = np.arange(20)[None].repeat(5, 0) >= 10
    moved_YX = smoothing(cell_YX, 0.4, 2.0)
    distance = np.abs(np.arange(20) - 9.5)
    np.testing.assert_allclose(moved_YX[2], 0.4 * np.exp(-(distance**2) / 8), rtol=1e-5)
    assert (smoothing(np.ones((4, 4), bool), 0.4, 2.0) == 0).all()


def test_no_border_runs_along_what_nobody_knows():
    cell_YX = np.arange(20)[None].repeat(5, 0) < 10
    ignored_YX = np.arange(20)[None].repeat(5, 0) >= 12
    known = smoothing(cell_YX, 0.4, 2.0)
    np.testing.assert_array_equal(smoothing(cell_YX, 0.4, 2.0, ignored_YX)[:, :12], known[:, :12])
    assert (smoothing(cell_YX, 0.4, 2.0, ~cell_YX) == 0).all()
    beside_ignored = smoothing(np.ones_like(cell_YX) & (np.arange(20) > 3), 0.4, 2.0, ignored_YX)
    assert beside_ignored[0, 11] < 1e-3 < beside_ignored[0, 4]
    config = TrainConfig(label_smoothing=0.4)
    found = target_maps(cell_YX[None], config, unknown_ZYX=~cell_YX[None])
    assert (found[0, 1] == 1).all()


def test_the_band_beside_membranes_is_known_to_smoothing(labelled):
    config = TrainConfig(label_smoothing=0.4)
    plain, banded = (
        bring_sections(labelled, replace(config, ignore_band_nm=nm), None, torch.device("cpu")).maps_ZKYX
        for nm in (0.0, 8.0)
    )
    assert (banded[:, 4] == 0).any()
    torch.testing.assert_close(banded[:, 1:3], plain[:, 1:3])


@few
@given(
    seed=st.integers(0, 1000),
    share=st.floats(0, 1),
    strength=st.floats(0, 1),
    w0=st.floats(0, 10),
    membrane=st.floats(0.5, 4),
)
def test_targets_mix_label_smoothing_and_teachers_as_the_formula_says(seed, share, strength, w0, membrane):
    cell_YX = cells(seed)
    soft_YX = np.random.default_rng(seed).random(cell_YX.shape, np.float32)
    config = TrainConfig(soft_weight=share, label_smoothing=strength, border_weight=w0)
    maps = torch.from_numpy(target_maps(cell_YX[None], config, soft_YX[None]))
    target, weight = targets_and_weights(maps, membrane)
    moved = smoothing(cell_YX, strength, config.label_smoothing_px)
    expected = (1 - share) * ((1 - moved) * cell_YX + moved / 2) + share * soft_YX
    np.testing.assert_allclose(target[0, 0], expected, rtol=0, atol=1e-5)
    assert 0 <= target.min() <= target.max() <= 1 + 1e-6
    weights = membrane + (1 - membrane) * expected + border_weights(cell_YX, w0, config.border_sigma_px)
    np.testing.assert_allclose(weight[0, 0], weights, rtol=0, atol=1e-4)


def test_unlabelled_sections_have_the_teachers_targets_alone():
    soft_ZYX = np.random.default_rng(0).random((2, 8, 8), np.float32)
    config = TrainConfig(soft_weight=0.3)
    maps = torch.from_numpy(target_maps(soft_ZYX > 0.5, config, soft_ZYX, labelled=False))
    target, _ = targets_and_weights(maps, 1.0)
    np.testing.assert_allclose(target[:, 0], soft_ZYX, atol=1e-6)


@few
@given(seed=st.integers(0, 1000), membrane=st.floats(0.2, 5))
def test_the_loss_is_the_weighted_cross_entropy(seed, membrane):
    torch.manual_seed(seed)
    logits, label = torch.randn(2, 1, 8, 8), (torch.rand(2, 1, 8, 8) > 0.3).float()
    expected = F.binary_cross_entropy_with_logits(logits, label, reduction="none")
    found = loss(logits, label, 1.0, 1.0)
    torch.testing.assert_close(found, expected.mean())
    weights = torch.where(label > 0, 1.0, membrane)
    scale = mean_weight(label, membrane)
    assert scale == pytest.approx(weights.mean().item(), rel=1e-5)
    torch.testing.assert_close(loss(logits, label, membrane, scale), (expected * weights / scale).mean())


def test_the_default_loss_needs_no_more_than_labels():
    assert is_plain(TrainConfig())
    assert is_plain(TrainConfig(membrane_weight=3))
    assert not is_plain(TrainConfig(border_weight=10))
    assert not is_plain(TrainConfig(label_smoothing=0.1))


@pytest.mark.parametrize(
    "changes", [{"membrane_weight": 3.0}, {"border_weight": 10.0}, {"label_smoothing": 0.3}], ids=str
)
def test_every_option_trains_to_other_weights(train, trained, tmp_path, changes):
    from isbi_train.networks.checkpoint import load_checkpoint

    train(tmp_path, epochs=1, **changes)
    train(tmp_path / "plain", epochs=1)
    one, other = (
        load_checkpoint(folder / "model.pth").state_dict for folder in (tmp_path, tmp_path / "plain")
    )
    assert not torch.equal(one["head.weight"], other["head.weight"])
    assert one["head.weight"].isfinite().all()
