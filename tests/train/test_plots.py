"""The picture of an evaluation: what is coloured as split or merger, which sections, which files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from isbi_infer.errors import OutputError, UsageError
from isbi_train.evaluation.evaluate import evaluate
from isbi_train.plots.scores import (
    MERGERS,
    SPLITS,
    coloured,
    plot_scores,
    sections_shown,
)
from isbi_train.scores.error_lines import split_lines, thinned_labels

DATA = Path(__file__).parents[1] / "data" / "thinned-scores"
STARTS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.fixture(scope="module")
def evaluation():
    return evaluate(DATA / "s4_proposal.tif", DATA / "s4_labels.tif")


def grid():
    """Four cells of 20x20 pixels with three pixels of membrane between them."""
    line = np.r_[np.ones(20, bool), np.zeros(3, bool), np.ones(20, bool)]
    return line[:, None] & line


def scored(folder, proposal_ZYX, labels_ZYX):
    for name, stack in (("proposal.tif", proposal_ZYX), ("labels.tif", labels_ZYX)):
        tifffile.imwrite(folder / name, stack, photometric="minisblack")
    return evaluate(folder / "proposal.tif", folder / "labels.tif")


def splits_and_mergers(found_YX, truth_YX):
    found, truth = thinned_labels(found_YX), thinned_labels(truth_YX)
    return split_lines(found, np.where(truth_YX, truth, 0)), split_lines(truth, found)


def test_thinning_leaves_lines_of_one_pixel_between_the_cells():
    thinned = thinned_labels(grid())
    assert set(np.unique(thinned)) == {0, 1, 2, 3, 4}
    assert (thinned == 0).sum() == 43 + 43 - 1
    np.testing.assert_array_equal(thinned[21], 0)


def test_equal_segmentations_have_neither_splits_nor_mergers():
    for errors in splits_and_mergers(grid(), grid()):
        assert not errors.any()


def test_a_cut_through_a_cell_is_a_split_where_it_runs():
    cut = grid()
    cut[8:11, :20] = False
    splits, mergers = splits_and_mergers(cut, grid())
    assert splits[9, 2:19].all()
    assert not splits[:7].any()
    assert not splits[12:].any()
    assert not splits[:, 22:].any()
    assert not mergers.any()


def test_a_hole_between_two_cells_is_a_merger_along_their_whole_border():
    holed = grid()
    holed[8:11, 20:23] = True
    splits, mergers = splits_and_mergers(holed, grid())
    assert not splits.any()
    assert mergers[2:19, 21].all()
    assert not mergers[24:].any()


def test_a_border_drawn_two_pixels_away_is_no_error():
    for errors in splits_and_mergers(np.roll(grid(), 2, axis=1), grid()):
        assert not errors[:, 5:].any()


def test_half_a_cell_lost_to_its_neighbour_is_both():
    wandered = grid()
    wandered[:20, 8:11] = False
    wandered[:20, 20:23] = True
    splits, mergers = splits_and_mergers(wandered, grid())
    assert splits[2:19, 9].all()
    assert mergers[2:19, 21].all()


def test_colours_stand_where_the_errors_are_and_grey_elsewhere(tmp_path):
    wandered = grid()
    wandered[:20, 8:11] = False
    wandered[:20, 20:23] = True
    found = scored(
        tmp_path, np.where(wandered, 0.9, 0.1).astype(np.float32)[None], grid()[None].view(np.uint8)
    )
    picture_YXC = coloured(found, 0, 0.5)
    assert picture_YXC.shape == (43, 43, 3)
    np.testing.assert_allclose(picture_YXC[10, 9], to_rgb(SPLITS), atol=1e-6)
    np.testing.assert_allclose(picture_YXC[10, 21], to_rgb(MERGERS), atol=1e-6)
    assert np.ptp(picture_YXC[30:], axis=2).max() == 0


def test_the_six_worst_sections_are_shown_in_their_order(tmp_path):
    labels_ZYX = np.repeat(grid()[None], 8, axis=0)
    proposal_ZYX = labels_ZYX.astype(np.float32)
    for z in (0, 2, 3, 4, 6, 7):
        proposal_ZYX[z, 8:11, :20] = 0
    assert sections_shown(scored(tmp_path, proposal_ZYX, labels_ZYX.view(np.uint8))) == [0, 2, 3, 4, 6, 7]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_suffix_says_the_format_and_the_bytes_are_the_same_each_time(evaluation, tmp_path, suffix):
    first, second = (tmp_path / f"{name}{suffix}" for name in ("first", "second"))
    plot_scores(evaluation, first)
    plot_scores(evaluation, second)
    assert first.read_bytes().startswith(STARTS[suffix])
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", ["scores", "scores.tif", "scores.jpeg"])
def test_other_suffixes_are_refused(evaluation, tmp_path, name):
    with pytest.raises(UsageError, match=r"\.png, \.svg, \.pdf"):
        plot_scores(evaluation, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_written_leaves_the_old_one(evaluation, tmp_path, monkeypatch):
    path = tmp_path / "scores.png"
    path.write_bytes(b"old")

    def full(self, file, **options):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(OutputError, match="No space left"):
        plot_scores(evaluation, path)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("shape", [(1, 43, 43), (2, 20, 43), (5, 43, 20)])
def test_any_number_and_shape_of_sections_fits(tmp_path, shape):
    labels_ZYX = np.resize(grid(), (shape[0], 43, 43))[:, : shape[1], : shape[2]].copy()
    plot_scores(
        scored(tmp_path, labels_ZYX.astype(np.float32), labels_ZYX.view(np.uint8)), tmp_path / "p.png"
    )
    height, width = imread(tmp_path / "p.png").shape[:2]
    assert 1500 < width < 1650
    assert height < 3 * width


def test_sections_that_nobody_annotated_are_not_drawn(tmp_path):
    labels_ZYX = np.stack([grid(), np.zeros_like(grid()), grid()])
    found = scored(tmp_path, np.ones(labels_ZYX.shape, np.float32), labels_ZYX.view(np.uint8))
    plot_scores(found, tmp_path / "scores.svg")
    assert found.sections == (0, 2)
    text = (tmp_path / "scores.svg").read_text()
    assert "section 2:" in text
    assert "section 1:" not in text


def test_pyplot_and_its_figures_stay_out(tmp_path):
    code = (
        "import sys; from pathlib import Path; from isbi_train.evaluation.evaluate import evaluate;"
        "from isbi_train.plots.scores import plot_scores; assert 'matplotlib' not in sys.modules;"
        f"plot_scores(evaluate(Path('{DATA}/s4_proposal.tif'), Path('{DATA}/s4_labels.tif')), Path('p.png'));"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path).returncode == 0
