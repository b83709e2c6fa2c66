"""What goes wrong with a section in the microscope: each fault does what its name says, and nothing where it is off."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isbi_train.augment.acquisition_faults import (
    compress,
    draw_canvas,
    draw_knife_marks,
    draw_seams,
    draw_shading,
    draw_streaks,
    grain,
    shot_noise,
)
from isbi_train.augment.crops import vary_intensity
from isbi_train.config import AugmentConfig

CROP = 48
NONE = AugmentConfig(
    seam_probability=0,
    knife_probability=0,
    streak_probability=0,
    shading=0,
    grain_px=0,
    blocks_probability=0,
    canvas_probability=0,
)
ALWAYS = replace(
    NONE,
    seam_probability=1,
    knife_probability=1,
    streak_probability=1,
    shading=0.5,
    grain_px=1.5,
    blocks_probability=1,
    canvas_probability=1,
)
seeds = st.integers(0, 2**31)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("draw", [draw_seams, draw_knife_marks, draw_streaks, draw_shading, draw_canvas])
def test_a_fault_that_is_off_draws_nothing_at_all(draw):
    source = generator()
    before = source.get_state()
    assert draw(3, CROP, NONE, source) is None
    assert torch.equal(source.get_state(), before)


@given(seeds)
def test_seams_shift_what_lies_beyond_a_line_as_one_piece(seed):
    seams = draw_seams(2, CROP, ALWAYS, generator(seed))
    for displacement_YX2, brightness_YX in zip(seams.displacement_NYX2, seams.brightness_NYX, strict=True):
        assert len(displacement_YX2.reshape(-1, 2).unique(dim=0)) <= 2
        assert displacement_YX2.abs().max() <= ALWAYS.seam_shift_px
        shifted_YX = displacement_YX2.abs().sum(-1) > 0
        assert not brightness_YX[~shifted_YX].any()


@given(seeds)
def test_knife_marks_are_thin_and_no_darker_or_brighter_than_the_settings_say(seed):
    marks_NYX = draw_knife_marks(4, CROP, ALWAYS, generator(seed))
    assert marks_NYX.abs().max() <= 3 * ALWAYS.knife_contrast  # where three cross
    assert (marks_NYX.abs() > 0.05).float().mean() < 0.5


@given(seeds)
def test_streaks_run_along_rows_or_columns(seed):
    for streaks_YX in draw_streaks(4, CROP, ALWAYS, generator(seed)):
        along_rows = torch.equal(streaks_YX, streaks_YX[:, :1].expand(CROP, CROP))
        along_columns = torch.equal(streaks_YX, streaks_YX[:1].expand(CROP, CROP))
        assert along_rows or along_columns


@given(seeds)
def test_shading_is_smooth_and_within_its_strength(seed):
    shading_NYX = draw_shading(4, CROP, ALWAYS, generator(seed))
    assert shading_NYX.abs().max() <= ALWAYS.shading
    step = 2 * ALWAYS.shading / (CROP - 1) * 2  # of a 3 x 3 grid, two cells a side
    assert shading_NYX.diff(dim=1).abs().max() <= step + 1e-6
    assert shading_NYX.diff(dim=2).abs().max() <= step + 1e-6


def test_grain_correlates_neighbours_and_keeps_the_variance():
    noise_NCYX = torch.randn(64, 1, CROP, CROP, generator=generator())
    grainy_NCYX = grain(noise_NCYX, ALWAYS, generator(1), n=64, kept=slice(None))
    changed_N = (grainy_NCYX != noise_NCYX).flatten(1).any(1)
    assert 0 < changed_N.sum() < 64  # half of all crops keep white noise
    part = grainy_NCYX[changed_N, 0]
    torch.testing.assert_close(part.std((1, 2)), torch.ones(len(part)), atol=0.01, rtol=0)
    assert (part[:, :, 1:] * part[:, :, :-1]).mean() > 0.1
    plain = noise_NCYX[:, 0]
    assert (plain[:, :, 1:] * plain[:, :, :-1]).mean().abs() < 0.02


@given(seeds, st.floats(0, 1))
def test_counted_electrons_make_bright_tissue_noisier_and_black_one_silent(seed, share):
    noise = torch.randn(1, 1, 64, 64, generator=generator(seed))
    variance = {
        grey: (shot_noise(noise, torch.full_like(noise, grey), share).var() / noise.var()).item()
        for grey in (-8.0, -4.0, -2.0, 0.0, 4.0)
    }
    assert variance[0.0] == pytest.approx(1)
    for grey in (-4.0, -2.0, 4.0):
        assert variance[grey] == pytest.approx(1 + share * grey / 4, abs=1e-3)
    assert variance[-8.0] == pytest.approx(1 - share, abs=1e-3)  # nothing is blacker than black


def test_crops_are_noisier_where_they_are_bright_only_if_asked():
    flat = torch.cat((torch.full((8, 1, CROP, CROP), -2.0), torch.full((8, 1, CROP, CROP), 2.0)))
    still = replace(AugmentConfig.none(), noise=0.5)
    for shot in (0.0, 1.0):
        varied = vary_intensity(flat, replace(still, shot=shot), generator())
        again = vary_intensity(flat, still, generator())
        dark, bright = (varied - flat)[:8].std((1, 2, 3)), (varied - flat)[8:].std((1, 2, 3))
        as_before = (again - flat).std((1, 2, 3))
        ratio = (bright / as_before[8:]).mean() / (dark / as_before[:8]).mean()
        assert ratio == pytest.approx(1.0 if shot == 0 else math.sqrt(3), rel=1e-3)


def test_lossy_blocks_change_grey_values_block_by_block_and_weaker_ones_less():
    crops_NCYX = torch.randn(8, 1, 50, 50, generator=generator())

    def error(strength):
        config = replace(ALWAYS, blocks_strength=strength)
        found = compress(crops_NCYX, config, generator(1), n=8, kept=slice(None))
        assert torch.equal(found[..., 48:, :], crops_NCYX[..., 48:, :])  # beyond the last whole block
        return (found - crops_NCYX)[..., :48, :48].abs().mean()

    assert 0 < error(0.2) < error(1.0)
    constant = torch.full((2, 1, 16, 16), 0.0)
    assert torch.equal(compress(constant, ALWAYS, generator(), n=2, kept=slice(None)), constant)


@given(seeds)
def test_canvas_leaves_most_of_a_crop_to_learn_from(seed):
    canvas_NYX, grey_N = draw_canvas(4, CROP, ALWAYS, generator(seed))
    assert canvas_NYX.dtype == torch.bool
    assert canvas_NYX.float().mean((1, 2)).max() < 0.6
    assert grey_N.abs().max() <= 3
