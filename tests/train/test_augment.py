"""Augmentation, measured from outside: sections whose grey values are coordinates tell where each pixel came from."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isbi_train.augment.crops import elastic_displacement, random_crops, vary_intensity
from isbi_train.config import AugmentConfig

PLAIN = AugmentConfig.none()
SHAPED = replace(PLAIN, rotation_deg=180, flip=True, scale_min=0.7, scale_max=1.4, elastic_px=4)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=settings().max_examples // 4)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def origins(config, *, n=64, crop=16, size=96, seed=0):
    """Give where in the section each crop pixel was taken, (x, y) in pixels, shape (n, crop, crop, 2)."""
    ramp = torch.arange(size, dtype=torch.float32) / size * 4 - 2  # within the grey values that gamma keeps
    axes = []
    for section_YX in (ramp.expand(size, size), ramp[:, None].expand(size, size)):
        sections_NCYX = section_YX.expand(n, 1, size, size)
        crops_NCYX, _ = random_crops(sections_NCYX, torch.zeros(n, 1, size, size), crop, config, seeded(seed))
        axes.append((crops_NCYX[:, 0] + 2) / 4 * size)
    return torch.stack(axes, -1)


def jacobians(config, **options):
    """Give the matrices of maps that are affine, shape (n, 2, 2), from the middle of crops of 16 pixels."""
    origins_NYX2 = origins(config, **options)
    # Pixels further out may come from beyond the section's edge, where it is mirrored.
    along_x = (origins_NYX2[:, 8, 10] - origins_NYX2[:, 8, 6]) / 4
    along_y = (origins_NYX2[:, 10, 8] - origins_NYX2[:, 6, 8]) / 4
    return torch.stack((along_x, along_y), -1)


def angles_deg(jacobian_N22):
    return torch.rad2deg(torch.atan2(jacobian_N22[:, 1, 0], jacobian_N22[:, 0, 0]))


def test_without_variation_a_crop_as_large_as_the_section_is_the_section():
    image_NCYX = torch.rand(3, 1, 40, 40, generator=seeded(1)) * 4 - 2
    label_NCYX = (torch.rand(3, 1, 40, 40, generator=seeded(2)) > 0.3).float()
    crops_NCYX, labels_NCYX = random_crops(image_NCYX, label_NCYX, 40, PLAIN, seeded(3))
    torch.testing.assert_close(crops_NCYX, image_NCYX, rtol=0, atol=1e-4)
    assert torch.equal(labels_NCYX, label_NCYX)


@few
@given(seed=seeds)
def test_without_variation_crops_are_plain_windows_within_the_section(seed):
    origins_NYX2 = origins(PLAIN, seed=seed, n=16, crop=16, size=96)
    axis = torch.arange(16, dtype=torch.float32)
    window_YX2 = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    corners_N2 = origins_NYX2[:, 0, 0]
    windows_NYX2 = corners_N2[:, None, None] + window_YX2
    torch.testing.assert_close(origins_NYX2, windows_NYX2, rtol=0, atol=1e-3)
    assert corners_N2.min() > -1e-3
    assert corners_N2.max() < 96 - 16 + 1e-3


def test_windows_reach_all_of_the_section():
    corners_N2 = origins(PLAIN, n=200)[:, 0, 0]
    assert (corners_N2.min(0).values < 8).all()
    assert (corners_N2.max(0).values > 72).all()


@few
@given(seed=seeds, limit=st.floats(1, 170))
def test_crops_are_turned_by_no_more_than_asked_and_never_sheared(seed, limit):
    jacobian_N22 = jacobians(replace(PLAIN, rotation_deg=limit), seed=seed, n=16)
    assert angles_deg(jacobian_N22).abs().max() <= limit + 0.1
    gram_N22 = jacobian_N22.transpose(1, 2) @ jacobian_N22
    torch.testing.assert_close(gram_N22, torch.eye(2).expand(16, 2, 2), rtol=0, atol=2e-3)


def test_crops_are_turned_all_the_way_round():
    angle_N = angles_deg(jacobians(replace(PLAIN, rotation_deg=180), n=200)) % 360
    counts = torch.histc(angle_N, 4, 0, 360)
    assert counts.min() > 30


def test_half_of_the_crops_are_mirrored_and_none_where_flips_are_off():
    mirrored = torch.linalg.det(jacobians(replace(PLAIN, flip=True), n=200)) < 0
    assert 70 < mirrored.sum() < 130
    assert not (torch.linalg.det(jacobians(PLAIN)) < 0).any()


def test_magnification_stays_in_its_range_and_is_drawn_evenly_in_the_logarithm():
    config = replace(PLAIN, scale_min=0.5, scale_max=2.0, rotation_deg=180)
    magnification_N = torch.linalg.det(jacobians(config, n=300)).rsqrt()
    assert magnification_N.min() >= 0.5 - 1e-2
    assert magnification_N.max() <= 2.0 + 1e-2
    assert abs(magnification_N.log().mean()) < 0.1
    assert magnification_N.log().std() == pytest.approx(math.log(4) / math.sqrt(12), rel=0.1)


@pytest.mark.parametrize("magnification", [0.7, 1.0, 1.4])
def test_a_disc_grows_with_the_square_of_the_magnification(magnification):
    axis = torch.arange(96) - 47.5
    disc_YX = (torch.hypot(axis, axis[:, None]) < 20).float()
    config = replace(PLAIN, flip=True, scale_min=magnification, scale_max=magnification)
    sections_NCYX = disc_YX.expand(8, 1, 96, 96)
    _, labels_NCYX = random_crops(sections_NCYX, sections_NCYX, 96, config, seeded(0))
    area_N = labels_NCYX.sum((1, 2, 3))
    torch.testing.assert_close(
        area_N, torch.full((8,), math.pi * (20 * magnification) ** 2), rtol=0.02, atol=0
    )


def test_elastic_displacement_spreads_as_asked_at_its_control_points():
    config = replace(PLAIN, elastic_px=3.0, elastic_spacing_px=16)
    displacement_NYX2 = elastic_displacement(500, 33, config, seeded(0))
    points_NYX2 = displacement_NYX2[:, ::16, ::16]
    assert points_NYX2.shape[1:3] == (3, 3)
    assert points_NYX2.std() == pytest.approx(3.0, rel=0.05)
    assert abs(points_NYX2.mean()) < 0.1
    assert 1.5 < displacement_NYX2.std() < 3.0  # an interpolation lies between its control points


@few
@given(seed=seeds, amplitude=st.floats(0.5, 10), spacing=st.integers(8, 64))
def test_elastic_displacement_is_smooth(seed, amplitude, spacing):
    config = replace(PLAIN, elastic_px=amplitude, elastic_spacing_px=spacing)
    displacement_NYX2 = elastic_displacement(2, 96, config, seeded(seed))
    points = max(2, round(96 / spacing) + 1)
    largest_step = displacement_NYX2.diff(dim=1).abs().max().item()
    # Two neighbouring control points differ by a few standard deviations over their distance.
    assert largest_step < 10 * amplitude * (points - 1) / 95


def test_crops_are_displaced_elastically():
    straight = replace(PLAIN, elastic_spacing_px=16)
    bent = replace(straight, elastic_px=3.0)
    displacement_NYX2 = origins(bent, crop=48) - origins(straight, crop=48)
    assert 1.5 < displacement_NYX2[:, 8:-8, 8:-8].std() < 3.0


@few
@given(seed=seeds)
def test_labels_stay_binary_and_aligned_with_the_image(labelled, seed):
    cell_NCYX = torch.from_numpy(labelled.cell_ZYX)[:, None].float()
    crops_NCYX, labels_NCYX = random_crops(2 * cell_NCYX - 1, cell_NCYX, 48, SHAPED, seeded(seed))
    assert crops_NCYX.shape == labels_NCYX.shape == (4, 1, 48, 48)
    assert set(labels_NCYX.unique().tolist()) <= {0.0, 1.0}
    # Both are cut halfway between cell and membrane; only rounding may decide otherwise.
    assert ((crops_NCYX > 0) != (labels_NCYX > 0)).float().mean() < 1e-3


@few
@given(seed=seeds)
def test_a_seed_fixes_the_crops_and_another_seed_gives_others(labelled, seed):
    image_NCYX = torch.from_numpy(labelled.image_ZYX)[:, None].float() / 64 - 2
    cell_NCYX = torch.from_numpy(labelled.cell_ZYX)[:, None].float()
    draws = [
        random_crops(image_NCYX, cell_NCYX, 32, AugmentConfig(), seeded(s)) for s in (seed, seed, seed + 1)
    ]
    assert all(torch.equal(a, b) for a, b in zip(draws[0], draws[1], strict=True))
    assert (draws[0][0] != draws[2][0]).float().mean() > 0.9


def test_each_section_gets_a_variation_of_its_own():
    section_YX = torch.randn(64, 64, generator=seeded(0))
    sections_NCYX = section_YX.expand(4, 1, 64, 64)
    crops_NCYX, _ = random_crops(sections_NCYX, (sections_NCYX > 0).float(), 32, SHAPED, seeded(1))
    for other_CYX in crops_NCYX[1:]:
        assert (other_CYX != crops_NCYX[0]).float().mean() > 0.9


@pytest.fixture(scope="module")
def greys_NCYX():
    """Sixty-four times the same smooth crop, well within three standard deviations."""
    crop_YX = torch.randn(24, 24, generator=seeded(0)).clamp(-2, 2)
    return crop_YX.expand(64, 1, 24, 24)


def test_without_variation_greys_stay_as_they_are(greys_NCYX):
    torch.testing.assert_close(vary_intensity(greys_NCYX, PLAIN, seeded(0)), greys_NCYX, rtol=0, atol=1e-5)


def test_brightness_moves_each_crop_by_its_own_amount(greys_NCYX):
    offset_NCYX = vary_intensity(greys_NCYX, replace(PLAIN, brightness=0.5), seeded(0)) - greys_NCYX
    offset_N = offset_NCYX.mean((1, 2, 3))
    assert offset_NCYX.std((1, 2, 3)).max() < 1e-5
    assert offset_N.abs().max() <= 0.5
    assert offset_N.min() < -0.3
    assert offset_N.max() > 0.3


def test_contrast_stretches_each_crop_by_its_own_factor(greys_NCYX):
    varied_NCYX = vary_intensity(greys_NCYX, replace(PLAIN, contrast=0.5), seeded(0))
    factor_N = varied_NCYX.std((1, 2, 3)) / greys_NCYX.std((1, 2, 3))
    assert factor_N.log().abs().max() <= 0.5 + 1e-4
    assert factor_N.log().min() < -0.3
    assert factor_N.log().max() > 0.3


def test_gamma_keeps_the_order_of_greys_and_the_middle_grey():
    ramp_YX = torch.linspace(-2.9, 2.9, 25 * 25).reshape(25, 25)
    varied_NCYX = vary_intensity(ramp_YX.expand(32, 1, 25, 25), replace(PLAIN, gamma=0.6), seeded(0))
    assert (varied_NCYX.flatten(1).diff(dim=1) > 0).all()
    torch.testing.assert_close(varied_NCYX[:, 0, 12, 12], torch.zeros(32), rtol=0, atol=1e-5)
    assert (varied_NCYX - ramp_YX).abs().amax((1, 2, 3)).max() > 0.3


def test_noise_is_no_stronger_than_asked_and_differs_from_crop_to_crop(greys_NCYX):
    noise_NCYX = vary_intensity(greys_NCYX, replace(PLAIN, noise=0.4), seeded(0)) - greys_NCYX
    strength_N = noise_NCYX.std((1, 2, 3))
    assert strength_N.max() < 0.45
    assert strength_N.min() < 0.1
    assert strength_N.max() > 0.3
    assert abs(torch.corrcoef(noise_NCYX[:2].flatten(1))[0, 1]) < 0.15


def test_blur_takes_power_away_and_leaves_constants(greys_NCYX):
    blurred_NCYX = vary_intensity(greys_NCYX, replace(PLAIN, blur_px=2.0), seeded(0))
    kept_N = blurred_NCYX.var((1, 2, 3)) / greys_NCYX.var((1, 2, 3))
    assert kept_N.max() <= 1 + 1e-5
    assert kept_N.median() < 0.3
    flat_NCYX = torch.full((8, 1, 24, 24), 0.7)
    blurred_NCYX = vary_intensity(flat_NCYX, replace(PLAIN, blur_px=2.0), seeded(0))
    torch.testing.assert_close(blurred_NCYX, flat_NCYX, rtol=0, atol=1e-5)


@few
@given(n=st.integers(1, 4), side=st.integers(8, 40), seed=seeds)
def test_any_variation_keeps_the_shape_and_stays_finite(n, side, seed):
    crops_NCYX = torch.randn(n, 1, side, side, generator=seeded(seed)) * 3
    varied_NCYX = vary_intensity(crops_NCYX, AugmentConfig(), seeded(seed))
    assert varied_NCYX.shape == crops_NCYX.shape
    assert varied_NCYX.isfinite().all()
