"""Ids through the stack against ids: adapted Rand error and variation of information, in one piece."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from isbi_infer.errors import ImageError
from isbi_train.scores.instances import instance_scores, label_scores

PROGRAM = Path(sys.executable).with_name("isbi-train")


def brute(found, truth):
    """Return the adapted Rand error of the pixels that have a true id, pair by pair."""
    held = truth.ravel() > 0
    found, truth = found.ravel()[held], truth.ravel()[held]
    same = (found[:, None] == found, truth[:, None] == truth)
    both = (same[0] & same[1]).sum() - found.size
    return 1 - 2 * both / (same[0].sum() + same[1].sum() - 2 * found.size)


@pytest.mark.parametrize("seed", range(4))
def test_the_error_is_that_of_all_pairs_of_pixels(seed):
    truth, found = np.random.default_rng(seed).integers(0, 4, (2, 3, 6, 7))
    scores = instance_scores(found, truth)
    assert scores.error == pytest.approx(brute(found, truth))
    assert (scores.found, scores.truth) == (3, 3)


def test_the_same_ids_under_other_numbers_are_perfect():
    truth = np.random.default_rng(0).integers(0, 4, (3, 6, 7))
    scores = instance_scores(np.where(truth > 0, truth.astype(np.int64) * 10**9, 0), truth)
    assert (scores.error, scores.splits, scores.mergers) == pytest.approx((0, 0, 0), abs=1e-12)


def test_ids_of_single_sections_are_splits_and_one_id_for_all_is_mergers():
    truth = np.kron(np.arange(1, 5).reshape(1, 2, 2), np.ones((4, 2, 2), np.int64))
    each = truth + 10 * np.arange(4).reshape(4, 1, 1)
    assert instance_scores(each, truth).splits == pytest.approx(2)  # bits: one of four sections
    assert instance_scores(each, truth).mergers == pytest.approx(0, abs=1e-12)
    assert instance_scores(np.ones_like(truth), truth).mergers == pytest.approx(2)


def test_labels_as_they_are_score_by_section_whatever_their_numbers():
    truth = np.zeros((2, 9, 9), np.uint16)
    truth[:, :, :4], truth[:, :, 5:] = 700, 3
    assert label_scores(truth, truth > 0) == pytest.approx((1, 1))
    merged = np.ones_like(truth)
    assert label_scores(merged, truth > 0)[0] < 0.8


@pytest.mark.parametrize(
    ("found", "truth", "named"),
    [
        (np.ones((2, 3, 3), np.float32), np.ones((2, 3, 3), np.uint8), "float32"),
        (np.ones((2, 3, 3), np.uint8), np.zeros((2, 3, 3), np.uint8), "no id"),
        (np.ones((2, 3, 3), np.uint8), np.ones((2, 3, 4), np.uint8), "same shape"),
    ],
)
def test_what_is_no_pair_of_ids_is_refused(found, truth, named):
    with pytest.raises(ImageError, match=named):
        instance_scores(found, truth)


@pytest.mark.parametrize("below", [-1, -(2**62)])
def test_negative_ids_are_refused_and_not_taken_for_background(below):
    ids = np.ones((2, 3, 3), np.int64)
    ids[0, 0, 0] = 0
    negative = ids.copy()
    negative[1, 2, 2] = below
    says = f"go down to {below}; expected ids from 1 and 0 = background"
    for found, truth, named in ((negative, ids, "ids"), (ids, negative, "labels")):
        with pytest.raises(ImageError, match=f"^{named} {says}$"):
            instance_scores(found, truth)
    with pytest.raises(ImageError, match=f"^labels {says}$"):
        label_scores(negative, ids > 0)
    with pytest.raises(ImageError, match=f"^ids {says}$"):
        label_scores(ids, ids > 0, negative)


def test_the_command_scores_chosen_sections_in_one_piece(tmp_path):
    truth, found = np.random.default_rng(1).integers(0, 5, (2, 4, 8, 9)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "t.tif", truth, photometric="minisblack")
    tifffile.imwrite(tmp_path / "f.tif", found, photometric="minisblack")
    command = [
        PROGRAM,
        "evaluate",
        tmp_path / "f.tif",
        tmp_path / "t.tif",
        "--instances",
        "--sections",
        "1:",
        "--json",
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    scores = json.loads(said.stdout)
    assert scores["error"] == pytest.approx(instance_scores(found[1:], truth[1:]).error)
    assert scores["sections"] == "1:4"
