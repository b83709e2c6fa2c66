"""Crops of sections among their neighbours: which ones are drawn, and what is done to which of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from isbi_infer.plan.neighbours import around, mirrored
from isbi_train.augment.crops import random_crops, vary_intensity
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.sections import hold_out
from isbi_train.networks.network import UNet
from isbi_train.networks.whole import predict_whole
from isbi_train.training.batches import Pool, Sections, bring_sections, draw_batch, step_seed

COUNT, STEPS = 9, 30
PLAIN = replace(AugmentConfig.none(), gap_probability=0.0)
TRAIN = TrainConfig(crop=32, batch=4, device="cpu")


@pytest.fixture(scope="module")
def sections():
    """Each section of its own grey, and with a label that says whether its number is odd."""
    numbers_Z111 = torch.arange(float(COUNT))[:, None, None, None]
    grey_ZCYX = numbers_Z111.expand(COUNT, 1, 48, 48) / COUNT
    maps_ZKYX = (numbers_Z111 % 2).expand(COUNT, 1, 48, 48)
    return Sections(grey_ZCYX, maps_ZKYX, 1.0, 1.0)


def drawn(sections, augment, neighbours=2):
    """Return the numbers of the sections that crops show, channel by channel, with the label of each crop."""
    found = []
    for step in range(STEPS):
        images_NCYX, maps_NKYX, _ = draw_batch(sections, augment, TRAIN, step, neighbours=neighbours)
        assert images_NCYX.shape == (4, 1 + 2 * neighbours, 32, 32)
        assert torch.allclose(images_NCYX, images_NCYX[:, :, :1, :1], atol=1e-4)
        for crop_CYX, maps_KYX in zip(images_NCYX, maps_NKYX, strict=True):
            numbers = [round(COUNT * grey.item()) for grey in crop_CYX[:, 0, 0]]
            assert (maps_KYX[0] == numbers[neighbours] % 2).all()  # of the section in the middle
            found.append(numbers)
    return found


@pytest.mark.parametrize("pooled", [False, True])
def test_a_crop_shows_a_section_and_its_neighbours_in_either_order(sections, pooled):
    parts = Pool((sections, sections), torch.tensor([0.5, 0.5]), 1.0) if pooled else sections
    found = drawn(parts, PLAIN)
    orders = [[around(z, COUNT, 2), around(z, COUNT, 2)[::-1]] for z in range(COUNT)]
    assert all(numbers in orders[numbers[2]] for numbers in found)
    assert {numbers[2] for numbers in found} == set(range(COUNT))
    assert {orders[numbers[2]].index(numbers) for numbers in found} == {0, 1}


def test_neighbours_of_thin_sections_are_drawn_farther_apart(sections):
    found = drawn(replace(sections, apart=3), PLAIN)
    apart = set()
    for numbers in found:
        z = numbers[2]
        fits = [
            step
            for step in (1, 2, 3)
            if sorted(numbers) == sorted(mirrored(z + step * k, COUNT) for k in range(-2, 3))
        ]
        assert fits, numbers
        apart.add(fits[0])
    assert apart == {1, 2, 3}


def test_sections_that_do_not_follow_each_other_are_no_neighbours(sections):
    found = drawn(replace(sections, apart=3, runs=(slice(0, 4), slice(4, 5), slice(5, COUNT))), PLAIN)
    for numbers in found:
        run = range(4) if numbers[2] < 4 else range(4, 5) if numbers[2] == 4 else range(5, COUNT)
        assert set(numbers) <= set(run)
    assert {numbers[2] for numbers in found} == set(range(COUNT))


def test_runs_end_where_sections_are_held_out_or_nobody_annotated_them(labelled):
    five = np.resize(labelled.image_ZYX, (9, *labelled.image_ZYX.shape[1:]))
    ignored_ZYX = np.zeros(five.shape, bool)
    ignored_ZYX[6] = True
    stack = LabelledStack(five, np.resize(labelled.cell_ZYX, five.shape), 4.0, ignored_ZYX)
    training, held_out = hold_out(stack, TrainConfig(hold_out=2, hold_out_start=2))
    assert training.places == (0, 1, 4, 5, 7, 8)
    assert training.runs == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert (held_out.places, held_out.runs) == ((2, 3), [slice(0, 2)])
    brought = bring_sections(training, TRAIN, None, torch.device("cpu"))
    assert brought.runs == tuple(training.runs)


def test_validation_shows_no_neighbours_from_beyond_a_run(labelled):
    torch.manual_seed(0)
    network = UNet(NetworkConfig(base=2, depth=1, unshuffle=2, neighbours=1)).eval()
    four_ZYX = labelled.image_ZYX
    found = predict_whole(network, four_ZYX, stride=4, border=0, runs=[slice(0, 1), slice(1, 4)])
    for run in (slice(0, 1), slice(1, 4)):
        np.testing.assert_array_equal(found[run], predict_whole(network, four_ZYX[run], stride=4, border=0))
    assert not np.array_equal(found, predict_whole(network, four_ZYX, stride=4, border=0))


def test_a_gap_is_filled_by_the_next_section_on_the_way_to_the_middle(sections):
    kinds = set()
    for numbers in drawn(sections, replace(PLAIN, gap_probability=1.0)):
        z = numbers[2]
        if numbers == [z] * 5:
            kinds.add("all")
            continue
        both = [around(z, COUNT, 2), around(z, COUNT, 2)[::-1]]
        filled = [
            [*order[:at], order[at + (1 if at < 2 else -1)], *order[at + 1 :]]
            for order in both
            for at in (0, 1, 3, 4)
        ]
        assert numbers in filled, numbers
        kinds.add("one")
    assert kinds == {"all", "one"}


def test_a_slip_displaces_all_neighbours_beyond_one_place_on_one_side_and_never_the_section():
    torch.manual_seed(0)
    images_ZCYX = torch.randn(COUNT, 1, 48, 48)
    part = Sections(images_ZCYX, torch.ones(COUNT, 1, 48, 48), 1.0, 1.0)
    slip = replace(PLAIN, slip_probability=1.0, slip_px=3.0)
    crop = replace(TRAIN, crop=48)
    kinds, ways = set(), set()
    for step in range(STEPS):
        plain, slipped = (
            draw_batch(part, chosen, crop, step, neighbours=2).images_NCYX
            for chosen in (replace(slip, slip_probability=1e-9), slip)
        )
        for before_CYX, after_CYX in zip(plain, slipped, strict=True):
            same = [torch.equal(a, b) for a, b in zip(before_CYX, after_CYX, strict=True)]
            mirrored_too = any(torch.equal(before_CYX[a], before_CYX[b]) for a in range(5) for b in range(a))
            if all(same) or mirrored_too:  # the former by less than half a pixel
                continue
            kinds.add(tuple(same))
            inner = np.s_[3:-3, 3:-3]
            fits = [
                (dy, dx)
                for dy in range(-3, 4)
                for dx in range(-3, 4)
                if all(
                    torch.allclose(b[inner], a.roll((dy, dx), (0, 1))[inner], atol=1e-3)
                    for a, b, kept in zip(before_CYX, after_CYX, same, strict=True)
                    if not kept
                )
            ]
            assert len(fits) == 1
            ways.update(fits)
    near, far = (True, True, True), (False, False)
    assert kinds == {(*near, *far), (*near, True, False), (*far, *near), (False, True, *near)}
    assert len(ways) > 15


def test_what_stands_in_for_a_neighbour_slips_as_the_section_that_it_is(sections):
    ramp_YX = torch.arange(48.0)[:, None].expand(48, 48)
    part = replace(sections, images_ZCYX=sections.images_ZCYX + ramp_YX)
    gaps = replace(PLAIN, gap_probability=1.0, slip_probability=1.0, slip_px=6.0)
    crop, moved = replace(TRAIN, crop=48), 0
    for step in range(STEPS):
        plain, slipped = (
            draw_batch(part, chosen, crop, step, neighbours=2).images_NCYX
            for chosen in (replace(gaps, slip_probability=1e-9), gaps)
        )
        for before_CYX, after_CYX in zip(plain, slipped, strict=True):
            assert torch.equal(after_CYX[2], before_CYX[2])
            for at in (0, 1, 3, 4):
                for other in range(5):
                    if torch.equal(before_CYX[at], before_CYX[other]):  # of one section
                        assert torch.equal(after_CYX[at], after_CYX[other])
                moved += not torch.equal(after_CYX[at], before_CYX[at])
    assert moved > STEPS


def test_dirt_and_scratches_are_of_the_section_alone_and_noise_is_of_each(sections):
    torch.manual_seed(1)
    images_NCYX = torch.randn(3, 1, 40, 40).expand(3, 5, 40, 40).contiguous()
    maps_NKYX = torch.ones(3, 1, 40, 40)
    dirty = replace(PLAIN, dirt_probability=1.0, knife_probability=1.0, defocus_probability=1.0)
    found_NCYX, _ = random_crops(images_NCYX, maps_NKYX, 32, dirty, torch.Generator().manual_seed(2))
    expected_NCYX, _ = random_crops(images_NCYX, maps_NKYX, 32, PLAIN, torch.Generator().manual_seed(2))
    same = [torch.equal(found_NCYX[:, c], found_NCYX[:, 0]) for c in range(5)]
    assert same == [True, True, False, True, True]
    assert found_NCYX.shape == expected_NCYX.shape
    noisy = replace(PLAIN, noise=1.0, grain_px=1.0, blocks_probability=1.0)
    noisy_NCYX = vary_intensity(images_NCYX, noisy, torch.Generator().manual_seed(3))
    assert not any(torch.equal(noisy_NCYX[:, c], noisy_NCYX[:, 0]) for c in range(1, 5))


def test_compression_is_that_of_each_section_by_itself():
    images_NCYX = torch.randn((2, 3, 32, 32), generator=torch.Generator().manual_seed(4))
    blocky = replace(PLAIN, blocks_probability=1.0)
    found_NCYX = vary_intensity(images_NCYX, blocky, torch.Generator().manual_seed(5))
    # as many draws of noise go before it, whatever it is scaled by
    for channel in range(3):
        alone_NCYX = vary_intensity(images_NCYX.roll(-channel, 1), blocky, torch.Generator().manual_seed(5))
        torch.testing.assert_close(alone_NCYX[:, 0], found_NCYX[:, channel])


def test_another_seed_draws_other_crops_and_the_same_seed_the_same(sections):
    first, again, other = (
        draw_batch(sections, AugmentConfig(), replace(TRAIN, seed=seed), step=3)[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    masks = []
    for seed in (1, 2):
        torch.manual_seed(step_seed(replace(TRAIN, seed=seed), 3))  # as dropout draws
        masks.append(torch.rand(8))
    assert not torch.equal(*masks)
    assert (
        len({step_seed(replace(TRAIN, seed=seed), step) for seed in range(20) for step in range(500)}) > 9_990
    )
