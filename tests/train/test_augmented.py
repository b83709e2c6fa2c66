"""Augmented pairs as files: reproducible, of the sections asked for, and drawn as training draws them."""

import json

import numpy as np
import pytest
import tifffile
import torch
from drawn import synthetic_stack
from matplotlib.image import imread
from scipy.ndimage import map_coordinates

from isbi_infer.errors import OutputError, UsageError
from isbi_train.augment.examples import PairMaker, write_pairs
from isbi_train.config import AugmentConfig
from isbi_train.data.labelled import LabelledStack
from isbi_train.plots.sheets import draw_pairs

STILL = AugmentConfig.none()


def written(stack, folder, **changes):
    chosen = {"count": 5, "seed": 1, "sections": range(3), "per_file": 2, "draw": draw_pairs, "shown": 1}
    return write_pairs(stack, folder, **{**chosen, **changes})


def read(folder, kind, side=64):
    return np.concatenate(
        [tifffile.imread(path).reshape(-1, side, side) for path in sorted(folder.glob(f"{kind}-*"))]
    )


def test_the_same_seed_gives_the_same_files_and_another_one_others(labelled, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        files = written(labelled, tmp_path / name, seed=seed)
        assert all(path.exists() for path in files)
    a, b, c = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("a", "b", "c")
    )
    assert a == b
    assert set(a) == set(c)
    assert all(a[name] != c[name] for name in a)


def test_the_number_of_threads_changes_neither_the_files_nor_the_caller(tmp_path):
    image_ZYX, label_ZYX = synthetic_stack(1, 256, 256)
    stack, seen = LabelledStack(image_ZYX, label_ZYX > 0, 4.0), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            write_pairs(
                stack,
                tmp_path / f"{threads}",
                count=12,
                seed=1,
                sections=range(1),
                shown=1,
                progress=lambda done, total: seen.append(torch.get_num_threads()),
            )
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)
    assert set(seen) == {1}
    for path in (tmp_path / "1").iterdir():
        assert (tmp_path / "3" / path.name).read_bytes() == path.read_bytes()


def test_files_hold_pairs_in_order_with_the_rest_in_the_last(labelled, tmp_path):
    written(labelled, tmp_path)
    spans = ("00000-00001", "00002-00003", "00004-00004")
    names = [f"{kind}-{span}.tif" for kind in ("images", "labels") for span in spans]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*names, "augmented.json", "preview.png"])
    make = PairMaker(labelled[:3], seed=1)
    images, labels = read(tmp_path, "images"), read(tmp_path, "labels")
    assert images.dtype == labels.dtype == np.uint8
    assert images.shape == labels.shape == (5, 64, 64)
    assert set(np.unique(labels)) == {0, 255}
    for number in range(5):
        image_YX, label_YX = make(number)
        np.testing.assert_array_equal(images[number], image_YX)
        np.testing.assert_array_equal(labels[number], label_YX)


def test_a_pair_does_not_depend_on_how_many_are_made_or_kept_together(labelled, tmp_path):
    written(labelled, tmp_path / "few", count=3, per_file=1)
    written(labelled, tmp_path / "many", count=7, per_file=4)
    for kind in ("images", "labels"):
        np.testing.assert_array_equal(read(tmp_path / "few", kind), read(tmp_path / "many", kind)[:3])


def test_only_the_sections_asked_for_are_drawn_from_and_each_as_often(labelled, tmp_path):
    cell_ZYX = np.indices(labelled.cell_ZYX.shape)[2] > 5
    grey_ZYX = np.where(cell_ZYX, 200, 40).astype(np.uint8)
    grey_ZYX[2:] = 7
    marked = LabelledStack(grey_ZYX, cell_ZYX, None)
    written(marked, tmp_path / "a", sections=range(2), config=STILL)
    other = LabelledStack(
        np.where(np.arange(4)[:, None, None] < 2, grey_ZYX, 99).astype(np.uint8), cell_ZYX, None
    )
    written(other, tmp_path / "b", sections=range(2), config=STILL)
    np.testing.assert_array_equal(read(tmp_path / "a", "images"), read(tmp_path / "b", "images"))
    assert {PairMaker(labelled[:3], seed=1).shown(number).section for number in range(6)} == {0, 1, 2}
    assert [PairMaker(labelled[:3], seed=1).shown(number).section for number in range(6)] == [
        0,
        1,
        2,
        0,
        1,
        2,
    ]


def test_without_any_variation_a_pair_is_its_section(labelled):
    make = PairMaker(labelled, seed=3, config=STILL)
    for number in range(4):
        image_YX, label_YX = make(number)
        section_YX = labelled.image_ZYX[number].astype(float)
        expected_YX = 128 + 32 * (section_YX - section_YX.mean()) / section_YX.std()
        # gamma acts within +-3 standard deviations
        assert np.abs(image_YX - expected_YX.clip(32, 224)).max() <= 1
        np.testing.assert_array_equal(label_YX, labelled.cell_ZYX[number] * np.uint8(255))


def test_the_grid_shown_is_the_one_that_was_sampled(labelled):
    make = PairMaker(labelled, seed=5, crop=48)
    for number in range(4):
        shown = make.shown(number)
        image_YX, label_YX = make(number)
        np.testing.assert_array_equal(shown.image_YX, image_YX)
        np.testing.assert_array_equal(shown.label_YX, label_YX)
        # Near the border the interpolated coordinates are those of mirrored pixels.
        inner = np.logical_and.reduce([(c > 1) & (c < 62) for c in (shown.y_YX, shown.x_YX)])
        cell_YX = labelled.cell_ZYX[shown.section].astype(float)
        coverage_YX = map_coordinates(cell_YX, [shown.y_YX, shown.x_YX], order=1, mode="nearest")
        clear = inner & (np.abs(coverage_YX - 0.5) > 0.01)
        assert clear.mean() > 0.4
        np.testing.assert_array_equal(shown.label_YX[clear] > 0, coverage_YX[clear] > 0.5)


def test_the_settings_say_how_the_pairs_were_made(labelled, tmp_path):
    written(labelled, tmp_path, crop=32, sections=range(1, 3))
    said = json.loads((tmp_path / "augmented.json").read_text())
    assert (said["count"], said["seed"], said["crop"], said["sections"]) == (5, 1, 32, "1:3")
    assert AugmentConfig.from_plain(said["augment"]) == AugmentConfig()
    assert said["sha256"] == labelled.sha256()


def test_the_picture_has_a_row_for_each_pair_shown(labelled, tmp_path):
    make = PairMaker(labelled, seed=5)
    heights = []
    for count in (1, 3):
        draw_pairs([make.shown(number) for number in range(count)], tmp_path / "p.png")
        heights.append(imread(tmp_path / "p.png").shape[0])
    assert heights[1] > 2.5 * heights[0]


class StoppedError(Exception):
    pass


def test_an_interrupted_run_leaves_whole_files_and_no_settings(labelled, tmp_path):
    def stop(done, total):
        if done == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        written(labelled, tmp_path, progress=stop)
    whole = ["images-00000-00001.tif", "labels-00000-00001.tif", "preview.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == whole
    with pytest.raises(UsageError, match="--overwrite"):
        written(labelled, tmp_path)
    written(labelled, tmp_path, overwrite=True)
    assert len(read(tmp_path, "labels")) == 5


def test_overwriting_a_finished_run_takes_its_settings_away_first(labelled, tmp_path):
    written(labelled, tmp_path)

    def stop(done, total):
        raise StoppedError

    with pytest.raises(StoppedError):
        written(labelled, tmp_path, overwrite=True, seed=9, progress=stop)
    assert not (tmp_path / "augmented.json").exists()
    with pytest.raises(UsageError, match="is none of the 2 files"):
        written(labelled, tmp_path, overwrite=True, count=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "cannot make 0 pairs"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"crop": 65}, "crop of 65 pixels.*16 to 64"),
        ({"crop": 0}, "crop of 0 pixels"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_file(labelled, tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        written(labelled, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_a_folder_below_a_file_is_an_output_error(labelled, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        written(labelled, tmp_path / "file" / "out")
