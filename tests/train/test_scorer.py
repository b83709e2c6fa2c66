"""Scores of sections that come one by one: the figures, to the bit, of the whole stack."""

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from isbi_infer.errors import ImageError
from isbi_infer.scoring import ScoringSink
from isbi_infer.volumes.protocol import Block
from isbi_train.evaluation.evaluate import evaluate
from isbi_train.evaluation.scorer import label_scorer
from isbi_train.scores.metrics import pixel_scores, thinned_scores


def write(path, stack):
    tifffile.imwrite(path, stack, photometric="minisblack")
    return path


def pair(shape, seed):
    """Random labels, mostly cell, and probabilities that follow them more or less."""
    generator = np.random.default_rng(seed)
    label_ZYX = (generator.random(shape) < 0.8).astype(np.uint8) * 255
    label_ZYX[:, 0] = 255
    label_ZYX[:, -1, 0] = 0  # both classes, or nobody annotated it
    soft_ZYX = 0.5 * generator.random(shape) + generator.random() * 0.5 * (label_ZYX > 0)
    return soft_ZYX.astype(np.float32), label_ZYX


@settings(max_examples=settings().max_examples // 2)
@given(
    sections=st.integers(1, 5),
    side=st.integers(4, 24),
    seed=st.integers(0, 999),
    dtype=st.sampled_from(["float32", "uint8"]),
    membrane=st.booleans(),
    order=st.randoms(),
)
def test_sections_in_any_order_score_what_the_stored_stack_scores(
    tmp_path_factory, sections, side, seed, dtype, membrane, order
):
    soft_ZYX, label_ZYX = pair((sections, side, side + 1), seed)
    stored_ZYX = soft_ZYX if dtype == "float32" else np.rint(soft_ZYX * 255).astype(np.uint8)
    whole = stored_ZYX.dtype.type(255 if dtype == "uint8" else 1)
    path = write(tmp_path_factory.getbasetemp() / "labels.tif", label_ZYX)
    numbers = list(range(sections))
    order.shuffle(numbers)
    shape = label_ZYX.shape if sections > 1 else label_ZYX.shape[1:]  # as the file of one section has it
    with label_scorer(path, shape, membrane=membrane) as scorer:
        for z in numbers:
            scorer.add(z, whole - stored_ZYX[z] if membrane else stored_ZYX[z])
        found = scorer.scores()
    as_stored_ZYX = whole - (whole - stored_ZYX) if membrane else stored_ZYX
    thinned, pixels = thinned_scores(as_stored_ZYX, label_ZYX), pixel_scores(as_stored_ZYX, label_ZYX)
    np.testing.assert_equal(
        {name: np.nan if found[name] is None else found[name] for name in found if name != "notes"},
        {
            "v_rand_thin": thinned.v_rand,
            "v_info_thin": thinned.v_info,
            "best_threshold_rand": thinned.best_threshold_rand,
            "best_threshold_info": thinned.best_threshold_info,
            "pixel_error": pixels.pixel_error,
            "dice_membrane": pixels.dice_membrane,
            "dice_cell": pixels.dice_cell,
        },
    )
    assert found["notes"] == [note for note in thinned.notes if "8-bit" not in note]


def test_a_run_hands_its_blocks_over(tmp_path, sample):
    soft_ZYX, label_ZYX = pair((4, 16, 16), 1)
    labels, prediction = write(tmp_path / "labels.tif", label_ZYX), write(tmp_path / "p.tif", soft_ZYX)
    with label_scorer(labels, label_ZYX.shape, membrane=False) as scorer:
        sink = ScoringSink(scorer)
        for index, z in enumerate(((0, 1), (1, 4))):
            sink.write(Block(index, z, (0, 16), (0, 16)), soft_ZYX[slice(*z)])
        found = scorer.scores()
    plain = evaluate(prediction, labels).to_plain()
    assert {name: plain[name] for name in found} == found


def test_notes_are_about_the_whole_stack_and_not_about_a_section(tmp_path):
    soft_ZYX, label_ZYX = pair((3, 16, 16), 2)
    soft_ZYX[1] = label_ZYX[1] > 0  # binary and perfect, in one section
    labels = write(tmp_path / "labels.tif", label_ZYX)
    with label_scorer(labels, label_ZYX.shape, membrane=False) as scorer:
        for z in range(3):
            scorer.add(z, soft_ZYX[z])
        assert scorer.scores()["notes"] == []
    with label_scorer(labels, label_ZYX.shape, membrane=True) as scorer:
        for z in range(3):
            scorer.add(z, soft_ZYX[z])
        (note,) = scorer.scores()["notes"]
    assert "score 1 - p" in note


def test_what_is_no_probability_is_an_error_that_names_the_section(tmp_path):
    soft_ZYX, label_ZYX = pair((2, 8, 8), 3)
    soft_ZYX[1, 2, 3] = np.nan
    with label_scorer(write(tmp_path / "l.tif", label_ZYX), label_ZYX.shape, membrane=False) as scorer:
        for z in range(2):
            scorer.add(z, soft_ZYX[z])
        with pytest.raises(ImageError, match="section 1 of the result: probabilities hold 1 NaN"):
            scorer.scores()


def test_missing_and_repeated_sections_are_faults_of_the_caller(tmp_path):
    soft_ZYX, label_ZYX = pair((2, 8, 8), 4)
    with label_scorer(write(tmp_path / "l.tif", label_ZYX), label_ZYX.shape, membrane=False) as scorer:
        scorer.add(1, soft_ZYX[1])
        with pytest.raises(ValueError, match="1 of 2 sections were not added"):
            scorer.scores()
        for z, section_YX in ((1, soft_ZYX[1]), (2, soft_ZYX[0]), (0, soft_ZYX[0, 1:])):
            with pytest.raises(ValueError, match="expected each of 2"):
                scorer.add(z, section_YX)


def test_labels_that_are_mostly_membrane_are_refused_over_all_sections_together(tmp_path):
    label_ZYX = np.full((3, 8, 8), 255, np.uint8)
    label_ZYX[0] = 0  # nobody annotated it, which makes no inverted stack
    label_ZYX[1, 1:7] = 0
    label_ZYX[2, 3] = 0
    label_scorer(write(tmp_path / "l.tif", label_ZYX), label_ZYX.shape, membrane=False).close()
    label_ZYX[2, 4] = 0
    label_ZYX[2, 5] = 0
    with pytest.raises(ImageError, match=r"l\.tif: 56% of the pixels are membrane"):
        label_scorer(write(tmp_path / "l.tif", label_ZYX), label_ZYX.shape, membrane=False)
