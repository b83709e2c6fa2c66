"""Looks of other microscopes and programs: bent grey values and sharpened images, of each crop by itself."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isbi_train.augment.crops import vary_intensity
from isbi_train.augment.looks import bend_greys, sharpen
from isbi_train.config import AugmentConfig

NONE = AugmentConfig.none()
ALL = slice(None)
seeds = st.integers(0, 2**31)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def crops(n=4, side=64, seed=0):
    return torch.randn(n, 1, side, side, generator=generator(seed))


@given(seeds, st.floats(0.05, 1.5))
def test_a_curve_of_grey_values_rises_everywhere_and_leaves_the_mean_of_the_section_where_it_is(seed, tone):
    greys = torch.linspace(-5, 5, 4096).reshape(1, 1, 64, 64)
    bent = bend_greys(greys, replace(NONE, tone=tone), generator(seed), n=1, kept=ALL)
    assert (bent.flatten().diff() > 0).all()
    assert bent[0, 0, 31, 63] < 0 < bent[0, 0, 32, 0]
    assert bent.abs().min() < 0.01
    within = bend_greys(
        torch.tensor([-3.0, 3.0]).reshape(1, 1, 1, 2),
        replace(NONE, tone=tone),
        generator(seed),
        n=1,
        kept=ALL,
    )
    assert within.diff().item() == pytest.approx(6, rel=1e-4)  # as wide a range as before


def test_curves_differ_from_crop_to_crop():
    same = crops(1).expand(6, 1, 64, 64)
    bent = bend_greys(same, replace(NONE, tone=0.5), generator(1), n=6, kept=ALL)
    assert len({round(part.std().item(), 4) for part in bent}) == 6


@given(seeds)
def test_half_of_the_crops_are_sharpened_and_keep_their_contrast(seed):
    smooth = torch.nn.functional.avg_pool2d(crops(16, seed=seed), 5, stride=1, padding=2)
    sharp = sharpen(smooth, replace(NONE, sharpness=2.0), generator(seed), n=16, kept=ALL)
    changed_N = (sharp != smooth).flatten(1).any(1)
    assert 0 < changed_N.sum() < 16
    torch.testing.assert_close(sharp.std((1, 2, 3)), smooth.std((1, 2, 3)), rtol=1e-3, atol=0)
    steps = [part[changed_N].diff(dim=3).abs().mean((1, 2, 3)) for part in (smooth, sharp)]
    assert (steps[1] > steps[0]).all()


@pytest.mark.parametrize("look", [bend_greys, sharpen])
def test_a_crop_looks_the_same_whichever_others_are_computed(look):
    config = replace(NONE, tone=0.5, sharpness=2.0)
    whole = look(crops(6), config, generator(3), n=6, kept=ALL)
    part = look(crops(6)[2:5], config, generator(3), n=6, kept=slice(2, 5))
    torch.testing.assert_close(part, whole[2:5], rtol=0, atol=1e-6)


@pytest.mark.parametrize("look", [bend_greys, sharpen])
def test_a_look_that_is_not_asked_for_draws_nothing(look):
    drawing = generator(4)
    before = drawing.get_state()
    assert look(crops(), NONE, drawing, n=4, kept=ALL) is not None
    assert torch.equal(drawing.get_state(), before)
    assert torch.equal(look(crops(), NONE, drawing, n=4, kept=ALL), crops())


def test_crops_are_bent_and_sharpened_where_the_settings_say_so():
    plain = vary_intensity(crops(8), NONE, generator(5))
    for change in ({"tone": 0.5}, {"sharpness": 2.0}):
        assert not torch.allclose(vary_intensity(crops(8), replace(NONE, **change), generator(5)), plain)
