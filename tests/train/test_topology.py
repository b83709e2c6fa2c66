"""The loss of gaps: a gap costs its share of a membrane's length, and pixels that do not count have none of it."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isbi_train.training.topology import cldice_loss, soft_skeleton

SIDE = 48


def crossing(width, gap=0, beyond=0, side=SIDE):
    """Membrane down the middle of a crop and across it, the latter with a gap; wider by so much on either side."""
    label = torch.ones(1, 1, side, side)
    across = slice(side // 2 - beyond, side // 2 + width + beyond)
    label[..., across] = 0
    label[:, :, across, gap:] = 0
    return label


def logits_of(label):
    return (label * 2 - 1) * 20


@pytest.mark.parametrize("width", [1, 2, 3, 6, 9, 15, 18])
def test_the_skeleton_of_a_membrane_is_its_middle_line(width):
    skeleton = soft_skeleton(1 - crossing(width, side=96))[0, 0]
    rows, columns = skeleton.nonzero(as_tuple=True)
    middle = 48 + (width - 1) / 2
    near = ((rows - middle).abs() <= 1.5) | ((columns - middle).abs() <= 1.5)
    corner = ((rows - middle).abs() <= width) & ((columns - middle).abs() <= width)
    assert (near | corner).all()
    by_row = skeleton[: 48 - width].sum(1)
    assert by_row.min() > 0.5
    assert by_row.max() <= 2 + 1e-6  # of an even width both in the middle


@pytest.mark.parametrize("width", [2, 5])
def test_membranes_that_are_all_found_cost_nothing_also_if_they_are_wider(width):
    truth = crossing(width)
    assert cldice_loss(logits_of(truth), truth).item() < 0.01
    assert cldice_loss(logits_of(crossing(width, beyond=1)), truth).item() < 0.05


def test_a_gap_costs_its_share_of_the_length_and_more_the_longer_it_is():
    truth = crossing(3)
    costs = [cldice_loss(logits_of(crossing(3, gap)), truth).item() for gap in (0, 4, 8, 16)]
    assert all(less < more for less, more in pairwise(costs))
    assert costs[0] < 0.01
    assert costs[3] == pytest.approx(
        16 / (2 * 2 * SIDE), rel=0.4
    )  # half of it, since none of the found is false


def test_every_crop_has_a_loss_of_its_own_so_that_a_batch_may_be_shared_out():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 1, 32, 32, generator=generator) * 3
    label = torch.cat([crossing(3, gap)[..., :32, :32] for gap in (0, 4, 8, 16)])
    halves = [cldice_loss(logits[part], label[part]).item() for part in (slice(2), slice(2, 4))]
    assert cldice_loss(logits, label).item() == pytest.approx(sum(halves) / 2, rel=1e-5)


@given(st.integers(0, 2**31))
def test_it_is_a_share_and_what_does_not_count_changes_nothing(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 1, 24, 24, generator=generator) * 3
    label = (torch.rand(2, 1, 24, 24, generator=generator) > 0.3).float()
    counts = torch.ones_like(label)
    plain = cldice_loss(logits, label)
    assert 0 <= plain <= 1
    assert cldice_loss(logits, torch.cat((label, counts), 1)).item() == pytest.approx(plain.item(), abs=1e-6)
    counts[..., :12] = 0
    left_out = cldice_loss(logits, torch.cat((label * counts, counts), 1))
    # No pixel is as near to those that count as the skeleton looks.
    logits[..., :2] = 7.0
    assert cldice_loss(logits, torch.cat((label * counts, counts), 1)).item() == pytest.approx(
        left_out.item(), abs=1e-6
    )


def test_gradients_close_a_gap():
    truth = crossing(3)
    logits = (logits_of(crossing(3, 8)) / 20).requires_grad_()
    cldice_loss(logits, truth).backward()
    assert (logits.grad[0, 0, SIDE // 2 + 1, :8] > 0).all()  # less cell, more membrane
