import numpy as np
import pytest
from drawn import synthetic_stack
from hypothesis import given
from hypothesis import strategies as st

from isbi_infer.pixels.canvas import find_canvas, has_structure

TURNS = [(turns, flipped) for turns in range(4) for flipped in (False, True)]


@pytest.fixture(scope="module")
def tissue_YX():
    return synthetic_stack(sections=1, height=256, width=256)[0][0]


def padded(tissue_YX, value, top, left, bottom, right):
    section_YX = np.pad(tissue_YX, ((top, bottom), (left, right)), constant_values=value)
    truth_YX = np.pad(np.zeros(tissue_YX.shape, bool), ((top, bottom), (left, right)), constant_values=True)
    return section_YX, truth_YX


def rotated(image_YX, degrees, outside):
    """Turn about the centre, nearest neighbours, within the same frame."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    y, x = (np.indices(image_YX.shape) - (np.array(image_YX.shape)[:, None, None] - 1) / 2).astype(float)
    places = np.rint(
        np.stack((c * y - s * x, s * y + c * x)) + (np.array(image_YX.shape)[:, None, None] - 1) / 2
    )
    inside = ((places >= 0) & (places < np.array(image_YX.shape)[:, None, None])).all(axis=0)
    rows, columns = np.where(inside, places, 0).astype(int)
    return np.where(inside, image_YX[rows, columns], outside).astype(image_YX.dtype), ~inside


def with_clipped_blob(image_YX, radius, softness):
    """Darken to 0 within a round blob whose border is as soft as a stain's."""
    y, x = np.indices(image_YX.shape) - 128
    depth = 1 / (1 + np.exp((np.hypot(y, x) - radius) / softness))
    return np.clip(image_YX - 400 * depth, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("left", [300, 470, 505, 520])
def test_canvas_in_the_middle_of_a_wide_section_is_found_whole(tissue_YX, left):
    section_YX = np.tile(tissue_YX, (1, 5))
    truth_YX = np.zeros(section_YX.shape, bool)
    truth_YX[20:230, left : left + 700] = True
    section_YX[truth_YX] = 9
    np.testing.assert_array_equal(find_canvas(section_YX), truth_YX)
    np.testing.assert_array_equal(find_canvas(section_YX.T.copy()), truth_YX.T)


@given(
    value=st.integers(0, 255),
    sides=st.tuples(*[st.sampled_from([0, 1, 3, 8, 33, 100])] * 4),
)
def test_canvas_of_any_value_at_any_edge_is_found_to_the_pixel(tissue_YX, value, sides):
    section_YX, truth_YX = padded(tissue_YX, value, *sides)
    found_YX = find_canvas(section_YX)
    if not any(sides):
        assert found_YX is None
        return
    # Tissue pixels that have the canvas's value and touch it cannot be told from it; they are few.
    assert found_YX[truth_YX].all()
    assert found_YX[~truth_YX].mean() < 1e-3
    assert (section_YX[found_YX] == value).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_canvas_is_the_same_in_every_dtype(tissue_YX, dtype):
    section_YX, _ = padded(tissue_YX, 128, 40, 0, 7, 64)
    assert (find_canvas(section_YX.astype(dtype)) == find_canvas(section_YX)).all()


@pytest.mark.parametrize(("turns", "flipped"), TURNS)
def test_canvas_turns_and_flips_with_the_section(tissue_YX, turns, flipped):
    section_YX, _ = rotated(padded(tissue_YX, 0, 10, 0, 40, 60)[0], 11, 0)
    section_YX[150:200, 120:160] = 255
    turned_YX = np.rot90(section_YX[:, ::-1] if flipped else section_YX, turns)
    expected_YX = find_canvas(section_YX)
    expected_YX = np.rot90(expected_YX[:, ::-1] if flipped else expected_YX, turns)
    assert (find_canvas(turned_YX) == expected_YX).all()


@pytest.mark.parametrize("degrees", [-20, -3, 7, 45])
@pytest.mark.parametrize("value", [0, 255, 128])
def test_slanted_canvas_is_found_up_to_its_tips(tissue_YX, degrees, value):
    section_YX, truth_YX = rotated(tissue_YX, degrees, value)
    found_YX = find_canvas(section_YX)
    assert (found_YX & ~truth_YX).mean() < 1e-3
    assert (truth_YX & ~found_YX).sum() < 0.12 * truth_YX.sum()


@pytest.mark.parametrize("value", [0, 255, 128])
def test_a_missing_part_within_the_tissue_is_canvas(tissue_YX, value):
    section_YX = tissue_YX.copy()
    section_YX[90:140, 60:110] = value
    found_YX = find_canvas(section_YX)
    assert found_YX[90:140, 60:110].all()
    assert found_YX.sum() < 50 * 50 + 20


@pytest.mark.parametrize("radius", [25, 40, 60])
@pytest.mark.parametrize("softness", [1.5, 4])
def test_tissue_clipped_to_black_is_no_canvas(tissue_YX, radius, softness):
    section_YX = with_clipped_blob(tissue_YX, radius, softness)
    assert (section_YX == 0).mean() > 0.02
    assert find_canvas(section_YX) is None
    assert find_canvas(255 - section_YX) is None


@pytest.mark.parametrize("gain", [1, 2, 3])
@pytest.mark.parametrize("shift", [-60, 0, 60])
def test_contrast_that_clips_makes_no_canvas(tissue_YX, gain, shift):
    stretched_YX = np.clip((tissue_YX - 128.0) * gain + 128 + shift, 0, 255).astype(np.uint8)
    assert find_canvas(stretched_YX) is None


@pytest.mark.parametrize("levels", [4, 8, 16])
def test_few_grey_levels_make_no_canvas(tissue_YX, levels):
    assert find_canvas((tissue_YX.astype(int) * levels // 256).astype(np.uint8)) is None


def test_enlarged_pixels_make_no_canvas(tissue_YX):
    assert find_canvas(tissue_YX[:64, :64].repeat(8, axis=0).repeat(8, axis=1)) is None


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (64, 64), (700, 30)])
def test_a_blank_section_is_canvas_in_every_shape_that_tells(value, shape):
    found_YX = find_canvas(np.full(shape, value, np.uint8))
    if min(shape) >= 8:
        assert found_YX.all()
    else:
        assert found_YX is None or found_YX.all()


def test_specks_on_a_blank_section_are_canvas_too():
    section_YX = np.zeros((300, 300), np.uint8)
    section_YX[50, 60], section_YX[200:203, 100:104] = 255, 99
    assert find_canvas(section_YX).all()


@pytest.mark.parametrize("value", [np.finfo(np.float32).min, np.finfo(np.float32).max, -1e31])
def test_floats_that_no_microscope_gives_are_no_data_wherever_they_are(tissue_YX, value):
    section_YX = tissue_YX.astype(np.float32)
    section_YX[3, 4] = section_YX[100, 200] = value
    assert np.argwhere(find_canvas(section_YX)).tolist() == [[3, 4], [100, 200]]


def test_a_declared_value_outside_the_grey_values_is_no_data_wherever_it_is(tissue_YX):
    section_YX = tissue_YX.astype(np.float32)
    section_YX[3, 4] = -9999
    assert find_canvas(section_YX) is None
    assert np.argwhere(find_canvas(section_YX, nodata=-9999.0)).tolist() == [[3, 4]]


def test_a_declared_value_that_tissue_has_too_is_no_data_in_patches_only(tissue_YX):
    section_YX = np.maximum(tissue_YX, 1)
    section_YX[3, 4] = 0
    section_YX[100:110, 50:62] = 0
    found_YX = find_canvas(section_YX, nodata=0.0)
    assert found_YX[100:110, 50:62].all()
    assert found_YX.sum() == 120


def test_nan_is_no_data_where_declared(tissue_YX):
    section_YX = tissue_YX.astype(np.float64)
    section_YX[:, 7] = np.nan
    found_YX = find_canvas(section_YX, nodata=np.nan)
    assert found_YX[:, 7].all()
    assert found_YX.sum() == 256


def test_a_mask_is_canvas_and_stays_as_it_was(tissue_YX):
    mask_YX = np.zeros(tissue_YX.shape, bool)
    mask_YX[5, 9] = True
    section_YX, _ = tissue_YX.copy(), mask_YX.copy()
    section_YX[200:] = 0
    found_YX = find_canvas(section_YX, mask_YX=mask_YX)
    assert found_YX[5, 9]
    assert found_YX[200:].all()
    assert mask_YX.sum() == 1


@given(seed=st.integers(0, 2**32 - 1))
def test_noise_on_a_gradient_of_light_has_no_structure(seed):
    noise_YX = np.random.default_rng(seed).normal(128, 9, (256, 256)) + np.linspace(0, 20, 256)
    assert not has_structure(noise_YX.astype(np.uint8))


def test_interpolated_noise_has_no_structure():
    noise_YX = np.random.default_rng(0).normal(128, 20, (400, 400))
    assert not has_structure((noise_YX[1:] + noise_YX[:-1]) / 2)


def test_tissue_has_structure_below_noise_of_twice_its_contrast(tissue_YX):
    noise_YX = np.random.default_rng(0).normal(0, 2 * tissue_YX.std(), tissue_YX.shape)
    assert has_structure(tissue_YX)
    assert has_structure(tissue_YX + noise_YX)


def test_stripes_are_structure_whatever_their_period():
    for period in (4, 8, 16, 32):
        noise_YX = np.random.default_rng(0).normal(0, 5, (256, 256))
        assert has_structure(noise_YX + 30 * np.sin(np.arange(256) * 2 * np.pi / period)), period


def compressed(section_YX, step=20):
    """Round the cosine coefficients of blocks of 8 x 8 pixels, as JPEG does."""
    k, n = np.indices((8, 8))
    cosines = np.cos(np.pi * (2 * n + 1) * k / 16) * np.where(k == 0, 8**-0.5, 0.5)
    rows, columns = (size // 8 for size in section_YX.shape)
    blocks = section_YX.reshape(rows, 8, columns, 8).transpose(0, 2, 1, 3) - 128.0
    rounded = np.rint(cosines @ blocks @ cosines.T / step) * step
    rounded[..., 0, 0] = (cosines @ blocks @ cosines.T)[..., 0, 0]
    pixels = (cosines.T @ rounded @ cosines).transpose(0, 2, 1, 3).reshape(section_YX.shape)
    return np.rint(pixels + 128).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("value", [0, 255])
def test_canvas_whose_edges_a_lossy_codec_blurred_is_found(tissue_YX, value):
    section_YX, truth_YX = padded(tissue_YX, value, 45, 21, 35, 59)
    found_YX = find_canvas(compressed(section_YX))
    assert (truth_YX & ~found_YX).sum() < 0.01 * truth_YX.sum()
    assert (found_YX & ~truth_YX).mean() < 0.01
    assert find_canvas(compressed(tissue_YX)) is None
