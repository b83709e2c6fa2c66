"""Section faults, each on its own: how often, how dark, how wide, and what becomes of the labels."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isbi_train.augment.crops import random_crops
from isbi_train.augment.section_faults import blur, defocus, draw_defocus, draw_dirt, draw_folds
from isbi_train.config import AugmentConfig

PLAIN = AugmentConfig.none()
FAULTY = replace(PLAIN, fold_probability=0.5, dirt_probability=0.5, defocus_probability=0.5)
few = settings(max_examples=settings().max_examples // 4)
seeds = st.integers(0, 2**32 - 1)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def cells(n=4, side=64):
    """Labels with many borders, of shape (n, 1, side, side)."""
    noise_NCYX = torch.randn(n, 1, side, side, generator=seeded(9))
    return (blur(noise_NCYX, torch.full((n,), 3.0), 9) > 0).float()


@pytest.mark.parametrize("draw", [draw_folds, draw_dirt, draw_defocus])
def test_a_fault_without_probability_draws_nothing(draw):
    generator = seeded(1)
    before = generator.get_state()
    assert draw(4, 32, PLAIN, generator) is None
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("probability", [0.1, 0.5, 1.0])
def test_faults_happen_as_often_as_asked(probability):
    config = replace(
        PLAIN, fold_probability=probability, dirt_probability=probability, defocus_probability=probability
    )
    folds = draw_folds(400, 16, config, seeded(0)).darkening_NYX.amax((1, 2)) > 0
    dirt = draw_dirt(400, 16, config, seeded(0)).amax((1, 2)) > 0
    blurred = draw_defocus(400, 16, config, seeded(0))[0].amax((1, 2)) > 0
    for happened in (folds, dirt, blurred):
        assert happened.float().mean() == pytest.approx(probability, abs=0.07)


@few
@given(seed=seeds, shift=st.floats(0, 40), width=st.floats(1, 10), darkness=st.floats(0, 5))
def test_a_fold_hides_no_more_tissue_and_is_no_darker_than_asked(seed, shift, width, darkness):
    config = replace(
        PLAIN, fold_probability=1, fold_shift_px=shift, fold_width_px=width, fold_darkness=darkness
    )
    folds = draw_folds(8, 64, config, seeded(seed))
    assert folds.displacement_NYX2.norm(dim=-1).max() <= shift / 2 + 1e-4
    assert folds.darkening_NYX.min() >= 0
    assert folds.darkening_NYX.max() <= darkness + 1e-5


def test_across_a_fold_the_tissue_is_displaced_and_the_band_between_is_dark():
    config = replace(PLAIN, fold_probability=1, fold_shift_px=30, fold_width_px=4, fold_darkness=3)
    folds = draw_folds(64, 96, config, seeded(0))
    band_NYX = folds.darkening_NYX > 0.5 * folds.darkening_NYX.amax((1, 2), keepdim=True)
    displaced_NYX = folds.displacement_NYX2.norm(dim=-1)
    largest_N = displaced_NYX.amax((1, 2))
    for band_YX, displaced_YX, largest in zip(band_NYX, displaced_NYX, largest_N, strict=True):
        assert 0 < band_YX.float().mean() < 0.25
        assert displaced_YX[band_YX].mean() < 0.7 * largest  # it rises from one side to the other
    corners_N42 = folds.displacement_NYX2[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    spans_N = torch.cdist(corners_N42, corners_N42).amax((1, 2))
    torch.testing.assert_close(spans_N, 2 * largest_N, rtol=0.05, atol=0.1)  # both sides move, by half each


def test_folds_move_image_and_labels_together():
    cell_NCYX = cells()
    config = replace(PLAIN, fold_probability=1, fold_darkness=0)
    crops_NCYX, labels_NCYX = random_crops(2 * cell_NCYX - 1, cell_NCYX, 48, config, seeded(0))
    plain_NCYX, _ = random_crops(
        2 * cell_NCYX - 1, cell_NCYX, 48, replace(config, fold_shift_px=0), seeded(0)
    )
    assert ((crops_NCYX > 0) != (labels_NCYX > 0)).float().mean() < 1e-3
    assert (crops_NCYX - plain_NCYX).abs().mean() > 0.05


@few
@given(seed=seeds, radius=st.floats(2, 20), darkness=st.floats(0, 5))
def test_dirt_is_no_darker_and_no_wider_than_asked(seed, radius, darkness):
    config = replace(PLAIN, dirt_probability=1, dirt_radius_px=radius, dirt_darkness=darkness)
    dirt_NYX = draw_dirt(8, 96, config, seeded(seed))
    assert dirt_NYX.min() >= 0
    assert dirt_NYX.max() <= darkness + 1e-5
    assert ((dirt_NYX > 0.5 * darkness).sum((1, 2)) <= 3 * torch.pi * (radius + 1) ** 2).all()


def test_dirt_darkens_the_image_and_leaves_labels_alone():
    cell_NCYX = cells()
    dirty = replace(PLAIN, dirt_probability=1)
    crops_NCYX, labels_NCYX = random_crops(cell_NCYX, cell_NCYX, 64, dirty, seeded(0))
    clean_NCYX, clean_labels_NCYX = random_crops(cell_NCYX, cell_NCYX, 64, PLAIN, seeded(0))
    assert torch.equal(labels_NCYX, clean_labels_NCYX)
    assert (crops_NCYX - clean_NCYX).amax() < 1e-5
    assert (crops_NCYX - clean_NCYX).amin() < -0.5


def test_defocus_blurs_one_side_and_leaves_the_other_sharp():
    crops_NCYX = torch.randn(16, 1, 64, 64, generator=seeded(0))
    share_NYX, sigma_N = draw_defocus(16, 64, replace(PLAIN, defocus_probability=1), seeded(0))
    out_NCYX = defocus(crops_NCYX, share_NYX, sigma_N, 9)
    sharp, soft = share_NYX[:, None] < 1e-3, share_NYX[:, None] > 0.999
    assert sharp.any()
    assert soft.any()
    torch.testing.assert_close(out_NCYX[sharp], crops_NCYX[sharp], rtol=0, atol=0.02)
    assert out_NCYX[soft].std() < 0.4 * crops_NCYX[soft].std()


def test_crops_in_focus_are_left_alone():
    crops_NCYX = torch.randn(4, 1, 32, 32, generator=seeded(0))
    out_NCYX = defocus(
        crops_NCYX, torch.tensor([0.0, 1, 0, 0])[:, None, None].expand(4, 32, 32), torch.ones(4), 3
    )
    assert torch.equal(out_NCYX[[0, 2, 3]], crops_NCYX[[0, 2, 3]])
    torch.testing.assert_close(out_NCYX[1:2], blur(crops_NCYX[1:2], torch.ones(1), 3))


@few
@given(seed=seeds, start=st.integers(0, 3), count=st.integers(1, 4))
def test_a_part_of_a_batch_is_computed_as_in_the_whole(seed, start, count):
    cell_NCYX = cells()
    image_NCYX = cell_NCYX + torch.randn(4, 1, 64, 64, generator=seeded(1))
    config = replace(AugmentConfig(), fold_probability=0.5, dirt_probability=0.5, defocus_probability=0.5)
    whole = random_crops(image_NCYX, cell_NCYX, 32, config, seeded(seed))
    kept = slice(start, start + count)
    part = random_crops(image_NCYX, cell_NCYX, 32, config, seeded(seed), kept=kept)
    for a, b in zip(part, whole, strict=True):
        torch.testing.assert_close(a, b[kept], rtol=0, atol=1e-4)


def test_further_maps_are_interpolated_and_not_thresholded():
    cell_NCYX = cells()
    soft_NCYX = 0.2 + 0.6 * cell_NCYX
    config = replace(PLAIN, rotation_deg=180, elastic_px=4)
    _, maps_NKYX = random_crops(cell_NCYX, torch.cat((cell_NCYX, soft_NCYX), 1), 48, config, seeded(0))
    label_NYX, soft_NYX = maps_NKYX.unbind(1)
    assert set(label_NYX.unique().tolist()) == {0.0, 1.0}
    assert ((soft_NYX > 0.25) & (soft_NYX < 0.75)).float().mean() > 0.05
    assert ((soft_NYX > 0.5) != (label_NYX > 0)).float().mean() < 1e-3
    assert soft_NYX.min() >= 0.2 - 1e-5
    assert soft_NYX.max() <= 0.8 + 1e-5


@few
@given(seed=seeds, side=st.integers(9, 40))
def test_all_faults_together_keep_the_shape_and_stay_finite(seed, side):
    image_NCYX = torch.randn(3, 1, 40, 40, generator=seeded(seed))
    crops_NCYX, labels_NCYX = random_crops(image_NCYX, (image_NCYX > 0).float(), side, FAULTY, seeded(seed))
    assert crops_NCYX.shape == labels_NCYX.shape == (3, 1, side, side)
    assert crops_NCYX.isfinite().all()
