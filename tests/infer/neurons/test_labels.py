"""Cells out of probabilities: segments as the scores count them, links both ways, ids by size, and a table."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from isbi_infer.errors import UsageError
from isbi_infer.neurons.links import mutual_best_overlap
from isbi_infer.neurons.segments import Segmentation
from isbi_infer.neurons.sink import LabelSink
from isbi_infer.sample import synthetic_stack
from isbi_infer.volumes.pixel_size import PixelSize
from isbi_infer.volumes.protocol import Block, StackInfo
from isbi_train.scores.metrics import thinned_scores

PROGRAM = Path(sys.executable).with_name("isbi-infer")
SIZE = PixelSize(y_nm=4.0, x_nm=4.0, z_nm=50.0)
small_labels = st_numpy.arrays(np.int32, (5, 6), elements=st.integers(0, 4))


def written(folder, probability_ZYX, **options):
    """Return labels and the rows of the table that a stack of probabilities is made into."""
    path = folder / "cells.tif"
    like = StackInfo(shape=probability_ZYX.shape, pixel_size=SIZE)
    _, height, width = probability_ZYX.shape
    with LabelSink(path, like=like, **options) as sink:
        for z, section_YX in enumerate(probability_ZYX):
            sink.write(Block(z, (z, z + 1), (0, height), (0, width)), section_YX[None])
        notes = sink.finish()
    with (folder / "cells.csv").open(newline="") as file:
        return tifffile.imread(path), list(csv.DictReader(file)), notes


def probabilities(sections=4, side=96):
    """Return rough probabilities of cell of a synthetic stack, and its labels."""
    _, label_ZYX = synthetic_stack(sections, side, side)
    noise_ZYX = np.random.default_rng(0).random(label_ZYX.shape, np.float32)
    return np.clip(np.where(label_ZYX > 0, 0.9, 0.1) + 0.3 * (noise_ZYX - 0.5), 0, 1).astype(
        np.float32
    ), label_ZYX


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_unlinked_labels_have_the_scores_of_their_probabilities(tmp_path, threshold):
    probability_ZYX, label_ZYX = probabilities()
    labels_ZYX, _, _ = written(tmp_path, probability_ZYX, threshold=threshold)
    scores = thinned_scores(probability_ZYX, label_ZYX)
    at = int(np.abs(scores.thresholds - threshold).argmin())
    for z, labels_YX in enumerate(labels_ZYX):
        ids = np.unique(labels_YX[labels_YX > 0])
        assert len(ids) == scores.basins[at, z]
        assert np.count_nonzero(labels_YX == 0) == scores.line_pixels[at, z]
    ids_per_section = [set(np.unique(labels_YX)) - {0} for labels_YX in labels_ZYX]
    assert sum(map(len, ids_per_section)) == len(set.union(*ids_per_section))


def test_the_largest_cell_is_the_first_and_the_table_says_what_it_measures(tmp_path):
    probability_ZYX, _ = probabilities()
    labels_ZYX, rows, (note,) = written(tmp_path, probability_ZYX, link="overlap")
    sizes = np.bincount(labels_ZYX.ravel())[1:]
    assert (np.diff(sizes) <= 0).all()
    assert [int(row["pixels"]) for row in rows] == sizes.tolist()
    assert labels_ZYX.dtype == np.uint16
    assert f"{len(rows)} cells" in note
    for row in (rows[0], rows[-1]):
        z, y, x = np.nonzero(labels_ZYX == int(row["id"]))
        assert (int(row["first_section"]), int(row["last_section"])) == (z.min(), z.max())
        for name, places in (("z", z), ("y", y), ("x", x)):
            assert float(row[name]) == pytest.approx(places.mean(), abs=1e-3)
        assert float(row["volume_um3"]) == pytest.approx(len(z) * 4e-3 * 4e-3 * 50e-3, rel=1e-5)
        on_edge = (y == 0) | (x == 0) | (y == 95) | (x == 95)
        assert int(row["touches_edge"]) == on_edge.any()


def test_the_same_sections_again_are_joined_to_as_many_cells(tmp_path):
    probability_ZYX, _ = probabilities(sections=1)
    thrice_ZYX = np.repeat(probability_ZYX, 3, axis=0)
    one, _, _ = written(tmp_path, probability_ZYX)
    linked, _, _ = written(tmp_path, thrice_ZYX, link="overlap")
    apart, _, _ = written(tmp_path, thrice_ZYX)
    assert linked.max() == one.max()
    assert apart.max() == 3 * one.max()
    np.testing.assert_array_equal(linked[0], linked[2])


@given(before_YX=small_labels, after_YX=small_labels)
def test_links_are_mutual_and_of_most_pixels(before_YX, after_YX):
    pairs = mutual_best_overlap(before_YX, after_YX)
    assert len(np.unique(pairs[:, 0])) == len(np.unique(pairs[:, 1])) == len(pairs)
    turned = mutual_best_overlap(after_YX, before_YX)
    assert sorted(map(tuple, turned[:, ::-1])) == sorted(map(tuple, pairs))
    for one, other in pairs:
        shared = np.count_nonzero((before_YX == one) & (after_YX == other))
        inside = after_YX[(before_YX == one) & (after_YX > 0)]
        assert shared == np.bincount(inside).max() > 0


def test_what_is_best_one_way_only_is_not_joined():
    """A large cell is the best partner of every small one behind it, which would join them all."""
    before_YX = np.ones((4, 8), np.int32)
    after_YX = np.repeat([[1, 1, 1, 2, 2, 3, 3, 3]], 4, axis=0)
    assert mutual_best_overlap(before_YX, after_YX).tolist() == [[1, 1]]


def test_small_segments_are_left_out(tmp_path):
    probability_ZYX, _ = probabilities()
    every, _, _ = written(tmp_path, probability_ZYX)
    large, _, _ = written(tmp_path, probability_ZYX, smallest=50)
    sizes = np.bincount(every.ravel())[1:]
    assert (np.bincount(large.ravel())[1:] >= 50).all()
    assert large.max() == np.count_nonzero(sizes >= 50) < every.max()


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_stack_without_cells_has_no_labels_and_says_so(tmp_path, value):
    labels_ZYX, rows, (note,) = written(tmp_path, np.full((2, 16, 16), value, np.float32), threshold=0.5)
    assert not labels_ZYX.any()
    assert rows == []
    assert "no cell was found" in note


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_membrane_maps_and_bytes_give_the_same_labels(tmp_path, dtype):
    bytes_ZYX = np.rint(probabilities()[0] * 255).astype(np.uint8)
    expected, _, _ = written(tmp_path, (bytes_ZYX / np.float32(255)), threshold=0.501)
    turned = 255 - bytes_ZYX if dtype == "uint8" else 1 - bytes_ZYX / np.float32(255)
    found, _, _ = written(tmp_path, turned, threshold=0.501, membrane=True)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("wrong", [{"threshold": 1.0}, {"threshold": -0.1}, {"smallest": -1}])
def test_what_makes_no_sense_is_refused(tmp_path, wrong):
    with pytest.raises(UsageError):
        LabelSink(tmp_path / "cells.tif", like=StackInfo(shape=(1, 8, 8)), **wrong)


def test_scratch_memory_is_used_again_without_a_trace():
    segment = Segmentation(0.5)
    first_YX, other_YX = probabilities(2)[0]
    expected_YX, count = segment(first_YX)
    segment(other_YX)
    again_YX, counted = segment(first_YX)
    np.testing.assert_array_equal(again_YX, expected_YX)
    assert count == counted


@pytest.mark.parametrize(
    ("options", "code", "what"),
    [
        (["--labels", "cells.png"], 2, "labels are written as TIFF"),
        (["--labels", "stack.tif"], 2, "the output is the input file"),
        (["--labels", "out.tif", "-o", "out.tif"], 2, "go to two files"),
        (["--labels", "nowhere/cells.tif"], 6, "nowhere"),
    ],
)
def test_labels_that_cannot_be_written_are_named_before_any_work(tmp_path, options, code, what):
    tifffile.imwrite(tmp_path / "stack.tif", synthetic_stack(1, 64, 64)[0][0])
    done = subprocess.run(
        [PROGRAM, "stack.tif", "--provider", "cpu", "--threshold", "0.5", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert what in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stack.tif"]


def test_a_run_writes_labels_beside_its_result(tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", synthetic_stack(2, 64, 64)[0], photometric="minisblack")
    done = subprocess.run(
        [PROGRAM, "stack.tif", "--provider", "cpu", "--labels", "cells.tif", "--link", "overlap"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    probability_ZYX = tifffile.imread(tmp_path / "stack.probability.tif")
    labels_ZYX = tifffile.imread(tmp_path / "cells.tif")
    expected, _, _ = written(tmp_path, probability_ZYX, link="overlap")
    np.testing.assert_array_equal(labels_ZYX, expected)
    assert "cells.tif" in done.stderr
