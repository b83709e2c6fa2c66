"""The overlay and the contact sheet: what they outline, for any number and shape of sections, without torch."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy
from PIL import Image

from isbi_infer.report.colours import colours_apart, indexed
from isbi_infer.report.pictures import OUTLINE, label_png, nearest, shrunk, thick_lines, whole
from isbi_infer.report.sheets import draw_contact_sheet, draw_overlay, outlined


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


def test_the_outline_is_where_the_probability_crosses_the_threshold():
    grey_YX = np.tile(np.arange(20, dtype=np.uint16) * 100, (10, 1))
    probability_YX = np.where(np.arange(20) < 8, np.float32(0.9), np.float32(0.2)) * np.ones(
        (10, 1), np.float32
    )
    picture_YXC, found_YX = outlined(whole(grey_YX), whole(probability_YX), (10, 20), 256, 0.5)
    marked_YX = (picture_YXC == OUTLINE).all(axis=2)
    np.testing.assert_array_equal(marked_YX, np.tile(np.arange(20) == 7, (10, 1)))
    np.testing.assert_array_equal(found_YX, np.rint(probability_YX * 255))
    none_YXC, _ = outlined(whole(grey_YX), whole(probability_YX), (10, 20), 256, 0.95)
    assert np.ptp(none_YXC.astype(int), axis=2).max() == 0


@pytest.mark.parametrize("shape", [(1, 16, 16), (31, 8, 8), (2, 1, 40), (1, 700, 300)])
def test_any_number_and_shape_of_sections_fits_on_a_sheet(tmp_path, shape):
    grey_ZYX = np.random.default_rng(1).integers(0, 255, shape, np.uint8)
    pairs = [(z, whole(grey_YX), whole(grey_YX / np.float32(255))) for z, grey_YX in enumerate(grey_ZYX)]
    for draw in (draw_contact_sheet, draw_overlay):
        draw(pairs, shape[1:], tmp_path / "sheet.png", title="noise " * 50)
        assert min(size_of(tmp_path / "sheet.png")) > 30
    draw_contact_sheet(pairs, shape[1:], tmp_path / "sheet.png", title="noise")
    assert max(size_of(tmp_path / "sheet.png")) < 3000


@pytest.mark.parametrize("factor", [1, 3, 7])
def test_a_small_picture_holds_the_means_of_its_pixels_however_it_is_read(monkeypatch, factor):
    values_YX = np.random.default_rng(2).integers(0, 2**16, (50, 31), np.uint16)
    small_YX = shrunk(whole(values_YX), values_YX.shape, factor)
    for y, x in np.ndindex(small_YX.shape):
        square_YX = values_YX[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
        assert small_YX[y, x] == pytest.approx(square_YX.mean(), rel=1e-6)
    read = []

    def window_of(window):
        read.append(window[0])
        return values_YX[window]

    monkeypatch.setattr("isbi_infer.report.pictures._READ_PIXELS", 31 * 10)
    monkeypatch.setattr("isbi_infer.report.pictures._MEAN_PIXELS", 31 * 4)
    np.testing.assert_array_equal(shrunk(window_of, values_YX.shape, factor), small_YX)
    assert len(read) > 3


def test_thin_lines_stay_when_a_picture_is_made_small():
    mask_YX = np.zeros((40, 40), bool)
    mask_YX[17] = True
    assert thick_lines(mask_YX, 8).any(axis=0).all()


@given(height=st.integers(1, 40), width=st.integers(1, 40), factor=st.integers(1, 50))
def test_a_small_picture_of_ids_holds_the_middle_of_each_square_also_of_those_cut_off(height, width, factor):
    labels_YX = np.arange(height * width, dtype=np.uint32).reshape(height, width)
    small_YX = nearest(labels_YX, factor)
    assert small_YX.shape == shrunk(whole(labels_YX), labels_YX.shape, factor).shape
    for y, x in np.ndindex(small_YX.shape):
        square_YX = labels_YX[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
        assert small_YX[y, x] == square_YX[square_YX.shape[0] // 2, square_YX.shape[1] // 2]


def test_segments_keep_their_colour_and_none_is_clear(tmp_path):
    first_YX = np.array([[0, 1, 2], [3, 70_000, 0]], np.uint32)
    chosen = colours_apart([first_YX])
    for name, labels_YX in (("a", first_YX), ("b", first_YX[:, ::-1])):
        (tmp_path / name).write_bytes(label_png(nearest(labels_YX, 1), chosen))
    colours = {name: np.asarray(Image.open(tmp_path / name).convert("RGBA")) for name in "ab"}
    np.testing.assert_array_equal(colours["a"], colours["b"][:, ::-1])
    assert (colours["a"][..., 3] == np.where(first_YX > 0, 255, 0)).all()
    assert len({tuple(colour) for colour in colours["a"][first_YX > 0]}) == 4


@given(
    labels_ZYX=hypothesis_numpy.arrays(
        np.uint32, (2, 9, 11), elements=st.sampled_from([0, 1, 2, 3, 5, 256, 257, 70_000])
    )
)
def test_neighbours_in_any_section_never_share_a_colour(labels_ZYX):
    chosen = colours_apart(labels_ZYX)
    assert set(chosen) == set(np.unique(labels_ZYX).tolist()) - {0}
    for labels_YX in labels_ZYX:
        index_YX = indexed(labels_YX, chosen)
        assert ((index_YX == 0) == (labels_YX == 0)).all()
        for axis in (0, 1):
            one, other = (np.delete(labels_YX, at, axis) for at in (0, -1))
            beside = (one != other) & (one > 0) & (other > 0)
            first, second = (np.delete(index_YX, at, axis) for at in (0, -1))
            assert (first != second)[beside].all()


def test_the_options_draw_pictures_of_the_run_without_torch(tmp_path, sample):
    tifffile.imwrite(tmp_path / "stack.tif", sample[0], photometric="minisblack")
    program = (
        "import sys\nfrom isbi_infer.cli import main\n"
        "sys.argv = ['isbi-infer', 'stack.tif', '--provider', 'cpu', '--quiet', '--report', 'r.html', "
        "'--overlay', 'o.png', '--contact-sheet', 'c.png']\n"
        "try:\n    main()\nexcept SystemExit as left:\n    assert not left.code, left.code\n"
        "print(*{'torch', 'scipy', 'skimage', 'matplotlib'} & set(sys.modules))"
    )
    run = partial(subprocess.run, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert run([sys.executable, "-c", program]).stdout.strip() == ""
    assert (tmp_path / "r.html").stat().st_size > 10_000
    assert size_of(tmp_path / "o.png")[0] > 3 * 224
    assert size_of(tmp_path / "c.png")[0] > 3 * 2 * 224
