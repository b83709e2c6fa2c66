"""Affinities: their loss against its definition pair by pair, and a head that leaves nothing behind."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from isbi_train.config import AugmentConfig
from isbi_train.networks.network import UNet
from isbi_train.training.affinities import REACHES_PX, affinity_loss, cells

few = settings(max_examples=settings().max_examples // 10)
SIDE = 40


def maps_of(seed, counted):
    generator = np.random.default_rng(seed)
    label_NYX = ndimage.gaussian_filter(generator.normal(size=(2, SIDE, SIDE)), (0, 2, 2)) > -0.05
    parts = [label_NYX, generator.random(label_NYX.shape) < 0.9] if counted else [label_NYX]
    return torch.from_numpy(np.stack(parts, 1)).float()


def by_definition(logits_NAYX, maps_NKYX, coarse):
    """Look at every pair by itself."""
    losses = []
    for number in range(2 * len(REACHES_PX)):
        reach = REACHES_PX[number % len(REACHES_PX)]
        dy, dx = (reach, 0) if number < len(REACHES_PX) else (0, reach)
        total, pairs = 0.0, 0
        for crop, logits_YX in zip(maps_NKYX.numpy(), logits_NAYX[:, number].double().numpy(), strict=True):
            numbered_YX, _ = ndimage.label(crop[0])
            at_most_YX = numbered_YX if len(crop) == 1 else ndimage.label(np.maximum(crop[0], 1 - crop[1]))[0]
            for y in range(0, SIDE - dy, coarse):
                for x in range(0, SIDE - dx, coarse):
                    one, other = (y, x), (y + dy, x + dx)
                    together = numbered_YX[one] == numbered_YX[other] != 0
                    maybe = at_most_YX[one] == at_most_YX[other] != 0
                    logit = logits_YX[y // coarse, x // coarse] * (1 if together else -1)
                    pairs += 1
                    known = len(crop) == 1 or (crop[1][one] and crop[1][other])
                    if known and together == maybe:
                        total += np.logaddexp(0, -logit)
        losses.append(total / pairs)
    return np.mean(losses)


@few
@given(seed=st.integers(0, 1000), counted=st.booleans(), coarse=st.sampled_from([1, 2, 4]))
def test_the_loss_is_that_of_every_pair_of_pixels_in_one_cell_or_not(seed, counted, coarse):
    maps_NKYX = maps_of(seed, counted)
    logits_NAYX = torch.randn(
        (2, 2 * len(REACHES_PX), SIDE // coarse, SIDE // coarse),
        generator=torch.Generator().manual_seed(seed),
    )
    found = affinity_loss(logits_NAYX, maps_NKYX).item()
    assert found == pytest.approx(by_definition(logits_NAYX, maps_NKYX, coarse), rel=1e-5)


@pytest.mark.parametrize(("between", "counted", "taught"), [(1, 1, 1), (0, 1, -1), (1, 0, 0), (0, 0, 0)])
def test_what_does_not_count_decides_of_no_pair(between, counted, taught):
    maps_NKYX = torch.ones((1, 2, SIDE, SIDE))
    maps_NKYX[0, 0, 18:22], maps_NKYX[0, 1, 18:22] = between * counted, counted
    logits_NAYX = torch.zeros((1, 2 * len(REACHES_PX), SIDE, SIDE), requires_grad=True)
    affinity_loss(logits_NAYX, maps_NKYX).backward()
    slope = logits_NAYX.grad[0, 0, 16, 5].item()  # of a pixel above, whose partner lies 8 pixels below
    assert np.sign(-slope) == taught


def test_cells_are_what_hangs_together_by_sides_and_crops_have_cells_of_their_own():
    label_NYX = torch.zeros((2, 1, 4, 4))
    label_NYX[0, 0, :2, :2] = label_NYX[0, 0, 2:, 2:] = 1  # they touch at a corner
    label_NYX[1] = 1
    found_NYX = cells(label_NYX)
    assert found_NYX[0, 0, 0] != found_NYX[0, 3, 3]
    assert found_NYX[0, 0, 3] == 0
    assert (found_NYX[1] == found_NYX[1, 0, 0]).all()


def test_steps_on_one_batch_lower_the_loss_of_affinities(labelled, network, train_config):
    from isbi_train.training.batches import bring_sections, draw_batch
    from isbi_train.training.device import choose_device
    from isbi_train.training.state import TrainingState
    from isbi_train.training.train import take_step

    train = train_config(learning_rate=1e-2, affinity_weight=1.0)
    sections = bring_sections(labelled, train, None, torch.device("cpu"))
    batch = draw_batch(sections, AugmentConfig.none(), train, step=0)
    torch.manual_seed(1)
    state = TrainingState.start(UNet(replace(network, dropout=0.0)), train, choose_device(train))

    def measured():
        with torch.no_grad():
            return affinity_loss(state.network(batch.images_NCYX)[1]["affinities"][0], batch.maps_NKYX).item()

    before = measured()
    for _ in range(60):
        take_step(state, *batch, train, sections.weight_scale)
    assert measured() < 0.9 * before
