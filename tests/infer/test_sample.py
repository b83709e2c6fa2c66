import re
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from isbi_infer.errors import UsageError
from isbi_infer.sample import main, synthetic_stack


@pytest.fixture(scope="module")
def stack():
    return synthetic_stack()


def test_the_same_seed_draws_the_same_stack_and_another_seed_another():
    image_ZYX, labels_ZYX = synthetic_stack(2, 96, 128, seed=5)
    again_ZYX, labels_again_ZYX = synthetic_stack(2, 96, 128, seed=5)
    other_ZYX, other_labels_ZYX = synthetic_stack(2, 96, 128, seed=6)
    np.testing.assert_array_equal(image_ZYX, again_ZYX)
    np.testing.assert_array_equal(labels_ZYX, labels_again_ZYX)
    assert (image_ZYX != other_ZYX).mean() > 0.9
    assert (labels_ZYX != other_labels_ZYX).mean() > 0.1


def test_a_shorter_stack_is_the_beginning_of_a_longer_one():
    for short_ZYX, long_ZYX in zip(synthetic_stack(1, 80, 80), synthetic_stack(3, 80, 80), strict=True):
        np.testing.assert_array_equal(short_ZYX, long_ZYX[:1])


@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 32, 32), (1, 97, 211), (1, 300, 64)])
def test_any_size_gives_bytes_with_both_classes(shape):
    image_ZYX, labels_ZYX = synthetic_stack(*shape)
    assert image_ZYX.shape == labels_ZYX.shape == shape
    assert image_ZYX.dtype == labels_ZYX.dtype == np.uint8
    assert set(np.unique(labels_ZYX)) == {0, 255}
    assert image_ZYX.std() > 20


def test_the_default_stack_is_eight_sections_of_512(stack):
    image_ZYX, labels_ZYX = stack
    assert image_ZYX.shape == labels_ZYX.shape == (8, 512, 512)


def test_greys_spread_like_a_micrograph_without_saturating(stack):
    image_ZYX, _ = stack
    assert 115 < image_ZYX.mean() < 140
    assert 38 < image_ZYX.std() < 50
    assert ((image_ZYX == 0) | (image_ZYX == 255)).mean() < 0.01


def test_about_a_fifth_of_every_section_is_membrane(stack):
    membrane_Z = (stack[1] == 0).mean(axis=(1, 2))
    assert (membrane_Z > 0.17).all()
    assert (membrane_Z < 0.29).all()
    assert 0.2 < membrane_Z.mean() < 0.25


def test_cells_are_closed_many_and_of_all_sizes(stack):
    for labels_YX in stack[1]:
        cells_YX, count = ndimage.label(labels_YX)
        areas = np.bincount(cells_YX.ravel())[1:]
        assert count > 70
        assert areas.max() < 0.2 * labels_YX.size
        assert np.percentile(areas, 90) > 8 * np.percentile(areas, 25)


def test_membranes_are_a_few_pixels_thick(stack):
    for labels_YX in stack[1]:
        depth_YX = ndimage.distance_transform_edt(labels_YX == 0)
        ridge_YX = (depth_YX == ndimage.maximum_filter(depth_YX, 3)) & (labels_YX == 0)
        assert 4 <= 2 * np.median(depth_YX[ridge_YX]) <= 8


def test_neighbouring_sections_resemble_each_other_more_than_distant_ones(stack):
    def likeness(stack_ZYX, step):
        pairs = zip(stack_ZYX[:-step], stack_ZYX[step:], strict=True)
        return np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs])

    for stack_ZYX in stack:
        near, further, far = (likeness(stack_ZYX, step) for step in (1, 2, 6))
        assert near > 0.15
        assert near > further + 0.03 > far + 0.03


def test_membranes_are_darker_than_cells_in_every_section(stack):
    for image_YX, labels_YX in zip(*stack, strict=True):
        membrane, cell = image_YX[labels_YX == 0].mean(), image_YX[labels_YX > 0].mean()
        assert cell - membrane > 40


def test_membranes_are_found_by_darkness_alone_only_in_part(stack):
    image_YX, labels_YX = stack[0][0], stack[1][0]
    smooth_YX = ndimage.gaussian_filter(image_YX.astype(float), 1.5)
    dark_YX = smooth_YX < np.percentile(smooth_YX, 22)
    right = (dark_YX & (labels_YX == 0)).sum() / dark_YX.sum()
    assert 0.5 < right < 0.9  # mitochondria, vesicles and shadows are dark too


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"sections": 0}, "sections is 0"),
        ({"height": 31}, "31x512"),
        ({"width": 8}, "512x8"),
        ({"seed": -1}, "seed is -1"),
        ({"width": 999999999999999}, "512x999999999999999 pixels is too large; pass at most 16384x16384"),
        ({"sections": 20000}, "20000 sections of 512x512 pixels are too many for a TIFF"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_by_name(arguments, named):
    with pytest.raises(UsageError, match=named):
        synthetic_stack(**arguments)


def test_the_module_writes_imagej_stacks_with_their_pixel_size(tmp_path):
    out, labels = tmp_path / "stack.tif", tmp_path / "labels.tif"
    options = ["--labels", labels, "--sections", "2", "--size", "64", "--seed", "5"]
    subprocess.run([sys.executable, "-m", "isbi_infer.sample", out, *options], check=True)
    for path, stack_ZYX in zip((out, labels), synthetic_stack(2, 64, 64, seed=5), strict=True):
        with tifffile.TiffFile(path) as file:
            np.testing.assert_array_equal(file.asarray(), stack_ZYX)
            assert file.imagej_metadata["spacing"] == pytest.approx(0.05)
            assert file.imagej_metadata["unit"] == "um"
            for axis in ("XResolution", "YResolution"):
                numerator, denominator = file.pages[0].tags[axis].value
                assert numerator / denominator == pytest.approx(250)


def test_labels_are_written_only_where_asked(tmp_path):
    main([str(tmp_path / "stack.tif"), "--sections", "1", "--size", "64"])
    assert [path.name for path in tmp_path.iterdir()] == ["stack.tif"]


@pytest.mark.parametrize(
    ("out", "options", "code"),
    [("stack.tif", ["--size", "8"], 2), ("nowhere/stack.tif", ["--size", "64"], 6)],
)
def test_the_module_leaves_with_the_code_of_its_error(tmp_path, capsys, out, options, code):
    with pytest.raises(SystemExit) as left:
        main([str(tmp_path / out), "--sections", "1", *options])
    assert left.value.code == code
    assert "Traceback" not in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("labels", "code", "says"),
    [
        ("stack.tif", 2, "would be written twice, as the stack and as --labels"),
        ("link.tif", 2, "would be written twice"),
        ("nowhere/labels.tif", 6, "the folder .*nowhere does not exist"),
    ],
)
def test_labels_that_cannot_be_written_leave_the_stack_that_was_there(tmp_path, capsys, labels, code, says):
    (tmp_path / "stack.tif").write_text("of an earlier run")
    (tmp_path / "link.tif").symlink_to("stack.tif")
    with pytest.raises(SystemExit) as left:
        main(
            [
                str(tmp_path / "stack.tif"),
                "--labels",
                str(tmp_path / labels),
                "--sections",
                "1",
                "--size",
                "64",
            ]
        )
    assert left.value.code == code
    assert re.search(says, capsys.readouterr().err)
    assert (tmp_path / "stack.tif").read_text() == "of an earlier run"
