"""The challenge's scores: against stored figures, against plain Python, and against what they must mean."""

import json
import math
import subprocess
import sys
from collections import Counter, deque
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from isbi_infer.errors import DependencyError, ImageError, UsageError
from isbi_train.scores import metrics
from isbi_train.scores.metrics import SplitMergeScores, ThinnedScores, thinned_scores

DATA = Path(__file__).parents[1] / "data" / "thinned-scores"
FIGURES = json.loads((DATA / "scores.json").read_text())
STACKS = sorted(FIGURES)
quick = settings(max_examples=settings().max_examples // 2)


def stack(name):
    return (
        tifffile.imread(DATA / f"{name}_proposal.tif"),
        tifffile.imread(DATA / f"{name}_labels.tif"),
    )


def around(y, x, shape):
    for near in ((y, x + 1), (y, x - 1), (y + 1, x), (y - 1, x)):
        if 0 <= near[0] < shape[0] and 0 <= near[1] < shape[1]:
            yield near


def plain_components(cell_YX):
    label, new = {}, 0
    for seed in zip(*np.nonzero(cell_YX), strict=True):
        if seed in label:
            continue
        label[seed] = new = new + 1
        waiting = [seed]
        while waiting:
            for near in around(*waiting.pop(), cell_YX.shape):
                if cell_YX[near] and near not in label:
                    label[near] = new
                    waiting.append(near)
    return label


def plain_thinning(cell_YX):
    """Label of each pixel, None for line pixels, and the number of basins."""
    rows, columns = cell_YX.shape
    label = plain_components(cell_YX)
    if not label:
        return dict.fromkeys(np.ndindex(rows, columns), 1), 1
    basins = len(set(label.values()))
    membrane = [(y, x) for x in range(columns) for y in range(rows) if (y, x) not in label]
    queue = deque(p for p in membrane if any(cell_YX[near] for near in around(*p, cell_YX.shape)))
    queued = set(queue)
    while queue:
        pixel = queue.popleft()
        beside = set()
        for near in around(*pixel, cell_YX.shape):
            if near in label:
                beside.add(label[near])
            elif near not in queued:
                queued.add(near)
                queue.append(near)
        beside.discard(None)
        label[pixel] = beside.pop() if len(beside) == 1 else None
    return label, basins


def plain_scores(proposal_YX, truth_YX, threshold):
    """Rand and information (precision, recall, score), entropies, and the three counts, of one section."""
    truth = plain_components(truth_YX > 0)
    found, basins = plain_thinning(proposal_YX.astype(np.float64) > threshold)
    total = len(truth)
    pairs = Counter((segment, found[pixel] or ("line", pixel)) for pixel, segment in truth.items())
    a, b = Counter(truth.values()), Counter()
    for (_, basin), n in pairs.items():
        b[basin] += n
    s_a, s_b, s_ab = (math.fsum((n / total) ** 2 for n in c.values()) for c in (a, b, pairs))
    h_a, h_b, h_ab = (-math.fsum(n / total * math.log(n / total) for n in c.values()) for c in (a, b, pairs))
    shared = h_a + h_b - h_ab
    information = (shared / h_a, shared / h_b, 2 * shared / (h_a + h_b)) if h_a and h_b else (0, 0, 0)
    counts = len(a), basins, sum(label is None for label in found.values())
    return (s_ab / s_b, s_ab / s_a, 2 * s_ab / (s_a + s_b)), information, min(h_a, h_b), counts


def assert_equals_plain_python(proposal_YX, truth_YX):
    scores = thinned_scores(proposal_YX, truth_YX)
    for t, threshold in enumerate(scores.thresholds):
        rand, info, entropy, counts = plain_scores(proposal_YX, truth_YX, threshold)
        assert counts == (scores.segments[t, 0], scores.basins[t, 0], scores.line_pixels[t, 0])
        assert row(scores.rand, t, 0) == pytest.approx(rand, abs=1e-9)
        if entropy > 1e-9:
            assert row(scores.info, t, 0) == pytest.approx(info, abs=1e-9)
        else:  # a single segment or basin: the last bit decides
            assert not abs(scores.info.score[t, 0]) > 1e-9


def row(scores, t, s):
    return scores.precision[t, s], scores.recall[t, s], scores.score[t, s]


def grid(cells, size, gap):
    """Labels of a square of cells, ``gap`` pixels of membrane between them."""
    line = np.tile(np.r_[np.ones(size, bool), np.zeros(gap, bool)], cells)[:-gap]
    return np.where(line[:, None] & line[None], 255, 0).astype(np.uint8)


def section(seed, shape, cell=0.75):
    rng = np.random.default_rng(seed)
    labels = (rng.random(shape) < cell).astype(np.uint8)
    assume(labels.mean() >= 0.5)
    return rng, labels


shapes = st.tuples(st.integers(1, 14), st.integers(1, 14))
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("name", STACKS)
def test_reference_stacks_agree_at_every_threshold_and_section(name):
    scores, figures = thinned_scores(*stack(name)), FIGURES[name]
    assert scores.thresholds.tolist() == [figure["threshold"] for figure in figures["thresholds"]]
    for t, at_threshold in enumerate(figures["thresholds"]):
        assert scores.rand.mean[t] == pytest.approx(at_threshold["v_rand"], abs=1e-9)
        assert scores.info.mean[t] == pytest.approx(at_threshold["v_info"], abs=1e-9)
        for s, figure in enumerate(at_threshold["slices"]):
            rand = figure["rand_precision"], figure["rand_recall"], figure["v_rand"]
            info = figure["info_precision"], figure["info_recall"], figure["v_info"]
            assert row(scores.rand, t, s) == pytest.approx(rand, abs=1e-9)
            assert row(scores.info, t, s) == pytest.approx(info, abs=1e-9)
            assert scores.segments[t, s] == figure["gt_components"]
            assert scores.basins[t, s] == figure["proposal_basins"]
            assert scores.line_pixels[t, s] == figure["thinned_border_pixels"]
    assert scores.v_rand == pytest.approx(figures["v_rand_thin"], abs=1e-9)
    assert scores.v_info == pytest.approx(figures["v_info_thin"], abs=1e-9)
    assert scores.best_threshold_rand == figures["best_threshold"]["best_threshold_rand"]
    assert scores.best_threshold_info == figures["best_threshold"]["best_threshold_info"]


@settings(max_examples=settings().max_examples * 2)
@given(seeds, shapes, st.floats(0.5, 0.95))
def test_random_sections_agree_with_plain_python(seed, shape, cell):
    rng, labels = section(seed, shape, cell)
    assert_equals_plain_python((rng.integers(0, 12, shape) / 11).astype(np.float32), labels)


@pytest.mark.parametrize("name", STACKS)
def test_transposed_reference_sections_agree_with_plain_python(name):
    proposal, labels = stack(name)
    assert_equals_plain_python(proposal[0, :, 48:].T, labels[0, :, 48:].T)


@quick
@given(seeds, shapes)
def test_identical_segmentations_score_one(seed, shape):
    _, labels = section(seed, shape)
    scores = thinned_scores(labels.astype(np.float32), labels)
    assume(scores.segments[0, 0] > 1)
    assert scores.v_rand == pytest.approx(1, abs=1e-12)
    assert scores.v_info == pytest.approx(1, abs=1e-12)


@quick
@given(st.integers(2, 4), st.integers(6, 12), st.integers(1, 2), st.booleans())
def test_cut_through_a_cell_lowers_recall_far_more_than_precision(cells, size, gap, across):
    labels = grid(cells, size, gap)
    proposal = (labels > 0).astype(np.float32)
    proposal[size // 2, :size] = 0
    if across:
        proposal = np.ascontiguousarray(proposal.T)
    scores = thinned_scores(proposal, labels)
    for score in (scores.rand, scores.info):
        assert 1 - score.recall[5, 0] > 0.01
        assert 1 - score.recall[5, 0] > 5 * (1 - score.precision[5, 0])


@quick
@given(st.integers(2, 4), st.integers(6, 12), st.integers(1, 2), st.booleans())
def test_hole_in_a_membrane_lowers_precision_far_more_than_recall(cells, size, gap, across):
    labels = grid(cells, size, gap)
    proposal = (labels > 0).astype(np.float32)
    proposal[size // 2, size : size + gap] = 1
    if across:
        proposal = np.ascontiguousarray(proposal.T)
    scores = thinned_scores(proposal, labels)
    for score in (scores.rand, scores.info):
        assert 1 - score.precision[5, 0] > 0.01
        assert 1 - score.precision[5, 0] > 5 * (1 - score.recall[5, 0])


@quick
@given(st.sampled_from(STACKS), st.permutations(range(3)), st.sampled_from([1, 2, None]))
def test_order_of_sections_changes_nothing(name, order, workers):
    proposal, labels = stack(name)
    one = thinned_scores(proposal, labels, workers=1)
    other = thinned_scores(proposal[order], labels[order], workers=workers)
    for one_score, other_score in ((one.rand, other.rand), (one.info, other.info)):
        assert one_score.mean.tolist() == other_score.mean.tolist()
        assert one_score.best == other_score.best
        assert one_score.best_threshold == other_score.best_threshold
        assert one_score.precision[:, order].tolist() == other_score.precision.tolist()
    assert one.line_pixels[:, order].tolist() == other.line_pixels.tolist()


def same(one: ThinnedScores, other: ThinnedScores):
    pairs = [(one.rand, other.rand), (one.info, other.info)]
    return all(row(a, t, 0) == row(b, t, 0) for a, b in pairs for t in range(11))


def test_8_bit_probabilities_are_divided_by_255_and_say_so():
    proposal, labels = stack("s3")
    eight_bit = np.rint(proposal * 255).astype(np.uint8)
    scores = thinned_scores(eight_bit, labels)
    assert same(scores, thinned_scores(eight_bit.astype(np.float32) / 255, labels))
    assert any("divided by 255" in note for note in scores.notes)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4", ">f8"])
def test_float_dtypes_and_layouts_score_alike(dtype):
    proposal, labels = stack("s3")
    proposal = proposal.astype(np.float16)
    expected = thinned_scores(proposal.astype(np.float32), labels)
    assert same(thinned_scores(proposal.astype(dtype), labels), expected)
    assert same(thinned_scores(np.asfortranarray(proposal.astype(dtype)), labels), expected)
    assert not expected.notes


def test_threshold_is_strict_and_compared_in_double_precision():
    from isbi_infer.neurons.thinning import levels

    single, double = np.full((1, 1), 0.1, np.float32), np.full((1, 1), 0.1)  # float32(0.1) is above 0.1
    assert levels(single, np.array(metrics.THRESHOLDS)) == 2
    assert levels(double, np.array(metrics.THRESHOLDS)) == 1
    assert metrics.pixel_scores(single, np.ones((1, 1)), 0.1).pixel_error == 0
    assert metrics.pixel_scores(double, np.ones((1, 1)), 0.1).pixel_error == 1


def test_binarised_maps_are_scored_with_a_note():
    proposal, labels = stack("s3")
    scores = thinned_scores(proposal > 0.5, labels)
    assert any("binarised" in note for note in scores.notes)
    assert same(scores, thinned_scores((proposal > 0.5).astype(np.float32), labels))
    assert scores.v_rand < thinned_scores(proposal, labels).v_rand


def test_inverted_probabilities_are_scored_with_a_note():
    proposal, labels = stack("s3")
    assert any("score 1 - p" in note for note in thinned_scores(1 - proposal, labels).notes)


PROPOSAL, LABELS = np.full((4, 6), 0.5, np.float32), np.ones((4, 6), np.uint8)


def with_value(value):
    proposal = PROPOSAL.copy()
    proposal[1, 2] = value
    return proposal


@pytest.mark.parametrize(
    ("proposal", "labels", "message"),
    [
        (PROPOSAL[:2], LABELS, r"shape \(2, 6\) and labels \(4, 6\)"),
        (PROPOSAL[0], LABELS[0], r"1 axes, shape \(6,\); expected \(Y, X\)"),
        (PROPOSAL[None, None], LABELS[None, None], "4 axes"),
        (PROPOSAL[:, :0], LABELS[:, :0], r"empty, shape \(4, 0\)"),
        (with_value(1.25), LABELS, r"between 0.5 and 1.25; expected \[0, 1\]"),
        (with_value(-0.25), LABELS, "between -0.25 and 0.5"),
        (with_value(np.nan), LABELS, "hold 1 NaN or infinite"),
        (with_value(np.inf), LABELS, "hold 1 NaN or infinite"),
        (PROPOSAL.astype(np.uint16), LABELS, "are uint16; expected .* divide them by 65535"),
        (PROPOSAL.astype(np.int64), LABELS, "are int64; expected .* convert them"),
        (PROPOSAL.astype(complex), LABELS, "are complex128"),
        (LABELS, LABELS, "uint8 with the largest value 1; .* pass a 0/1 mask as bool"),
        (PROPOSAL, LABELS.astype(str), "labels are <U"),
        (PROPOSAL, with_value(np.nan), "labels hold 1 NaN"),
        (PROPOSAL, 1 - LABELS, r"100.0% of the labels are membrane; .* score against labels == 0"),
        (PROPOSAL, np.arange(24).reshape(4, 6) % 23 == 0, r"91.7% of the labels are membrane"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(proposal, labels, message):
    for score in (thinned_scores, metrics.pixel_scores, metrics.expected_calibration_error):
        with pytest.raises(ImageError, match=message) as caught:
            score(proposal, labels)
        assert "\n" not in str(caught.value)


def test_arguments_out_of_range_are_usage_errors():
    with pytest.raises(UsageError, match="workers is 0"):
        thinned_scores(PROPOSAL, LABELS, workers=0)
    with pytest.raises(UsageError, match="bins is 0"):
        metrics.expected_calibration_error(PROPOSAL, LABELS, bins=0)
    for score in (metrics.pixel_scores, metrics.adapted_rand_error, metrics.variation_of_information):
        with pytest.raises(UsageError, match="threshold is 2"):
            score(PROPOSAL, LABELS, threshold=2)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_proposal_without_or_all_cell_is_one_basin(value):
    labels = grid(3, 6, 1)
    scores = thinned_scores(np.full(labels.shape, value, np.float32), labels)
    assert set(scores.basins.ravel().tolist()) == {1}
    assert set(scores.line_pixels.ravel().tolist()) == {0}
    assert scores.rand.recall == pytest.approx(1)
    assert scores.v_rand == pytest.approx(2 / 10)  # nine equal cells: 2 (1/9) / (1/9 + 1)
    assert scores.v_info == pytest.approx(0, abs=1e-12)


def test_single_segment_that_is_found_has_no_information():
    scores = thinned_scores(np.full((4, 6), 0.75), LABELS)
    assert scores.v_rand == 1
    assert row(scores.info, 0, 0) == (1, 0, 0)


def test_section_without_cell_in_its_labels_has_no_score_and_a_note():
    labels = np.stack([grid(3, 6, 1)] * 3)
    labels[1] = 0
    scores = thinned_scores(np.where(labels > 0, 0.75, 0.25), labels)
    assert np.isnan(scores.rand.score[:, 1]).all()
    assert scores.rand.score[5, ::2] == pytest.approx(1)
    assert math.isnan(scores.v_rand)
    assert math.isnan(scores.best_threshold_info)
    assert any("labels of section 1 (from 0)" in note for note in scores.notes)


def test_nan_spoils_only_its_threshold():
    score = np.array([[0.5, 0.5], [math.nan, 1.0], [0.6, 0.8], [0.7, 0.7]])
    scores = SplitMergeScores(np.arange(4) / 10, score, score, score)
    assert math.isnan(scores.mean[1])
    assert scores.best == pytest.approx(0.7)
    assert scores.best_threshold in (0.2, 0.3)


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1)])
def test_one_row_and_one_column_agree_with_plain_python(shape):
    labels = np.resize([1, 1, 1, 0], shape).astype(np.uint8)
    assert_equals_plain_python(np.resize([0.9, 0.8, 0.15, 0.4, 0.6], shape).astype(np.float32), labels)


def test_nan_is_membrane_to_the_kernel():
    from isbi_infer.neurons.thinning import levels

    row_XY = np.array([[np.nan, 0.0, 0.05, 1.0]])
    assert levels(row_XY, np.array(metrics.THRESHOLDS)).tolist() == [[0, 0, 1, 11]]


def test_results_cannot_be_changed():
    scores = thinned_scores(PROPOSAL, LABELS)
    with pytest.raises(ValueError, match="read-only"):
        scores.rand.score[0, 0] = 1


def test_pixel_scores_of_a_section_counted_by_hand():
    proposal = np.array([[0.9, 0.9, 0.9, 0.1], [0.9, 0.1, 0.5, 0.1]])
    labels = np.array([[255, 255, 0, 0], [255, 255, 255, 0]])
    scores = metrics.pixel_scores(proposal, labels)
    assert scores.pixel_error == 3 / 8
    assert (scores.dice_cell, scores.iou_cell) == (6 / 9, 3 / 6)
    assert (scores.dice_membrane, scores.iou_membrane) == (4 / 7, 2 / 5)
    assert metrics.pixel_scores(LABELS == 1, LABELS).iou_membrane == 1


def test_scores_without_thinning_tell_mergers_from_splits():
    labels = grid(3, 8, 1)
    perfect = (labels > 0).astype(np.float32)
    merged, split = perfect.copy(), perfect.copy()
    merged[4, 8] = 1
    split[4, :8] = 0
    assert metrics.adapted_rand_error(perfect, labels).error == pytest.approx(0)
    assert metrics.variation_of_information(perfect, labels).total == pytest.approx(0, abs=1e-12)

    rand = metrics.adapted_rand_error(merged, labels)
    assert rand.precision < 0.9
    assert rand.recall == 1
    information = metrics.variation_of_information(merged, labels)
    assert information.mergers == pytest.approx(2 / 9)  # two of nine cells, one bit each
    assert information.splits == pytest.approx(0, abs=1e-12)

    rand = metrics.adapted_rand_error(split, labels)
    assert rand.recall < 0.97
    assert rand.precision > 0.99
    information = metrics.variation_of_information(split, labels)
    assert information.splits > 0.1
    assert information.mergers == pytest.approx(0, abs=1e-12)


def test_section_without_cell_gives_nan_without_thinning_too():
    labels = np.stack([grid(3, 6, 1)] * 3)
    labels[1] = 0
    assert math.isnan(metrics.adapted_rand_error(labels, labels).error)
    assert math.isnan(metrics.variation_of_information(labels, labels).total)


def test_calibration_error_is_the_distance_of_probability_and_frequency():
    labels = np.tile([1, 1, 1, 0], (5, 4))
    assert metrics.expected_calibration_error(np.full(labels.shape, 0.75), labels) == pytest.approx(0)
    assert metrics.expected_calibration_error(np.full(labels.shape, 1.0), labels) == pytest.approx(0.25)
    assert metrics.expected_calibration_error(labels.astype(float), labels) == 0


def test_import_brings_in_nothing_heavy():
    heavy = "torch", "numba", "skimage", "scipy"
    code = f"import sys, isbi_train.scores.metrics; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("module", "score"), [("numba", thinned_scores), ("skimage", metrics.adapted_rand_error)]
)
def test_missing_package_names_the_extra(monkeypatch, module, score):
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DependencyError, match=r"pip install 'isbi-infer\[scores\]'"):
        score(PROPOSAL, LABELS)
