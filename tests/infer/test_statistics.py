import warnings

import numpy as np
import pytest
from drawn import synthetic_stack
from hypothesis import given
from hypothesis import strategies as st

from isbi_infer.pixels.mending import normalising_section
from isbi_infer.pixels.normalise import intensity_statistics, normalise
from isbi_infer.pixels.statistics import section_statistics
from isbi_infer.pixels.texture import texture_of
from isbi_infer.pixels.windows import Windowed
from isbi_infer.plan.scaling import Scaling
from isbi_infer.run.tissue import Tissue, measure_windows

DTYPES = [np.uint8, np.uint16, np.int16, np.int32, np.uint32, np.float32, np.float64]
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def tissue_YX():
    return synthetic_stack(sections=1, height=256, width=256)[0][0]


def numbers(statistics):
    return (
        statistics.mean,
        statistics.std,
        statistics.low,
        statistics.high,
        statistics.fill,
        statistics.tissue,
        statistics.outliers,
        statistics.blank,
    )


def with_hot_pixels(section_YX, count, value, seed=0):
    hot_YX = section_YX.copy()
    hot_YX.ravel()[np.random.default_rng(seed).choice(hot_YX.size, count, replace=False)] = value
    return hot_YX


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_canvas_and_hot_pixels_they_are_the_plain_ones_to_the_last_bit(tissue_YX, dtype):
    found, plain = section_statistics(tissue_YX.astype(dtype)), intensity_statistics(tissue_YX)
    assert (found.mean, found.std) == (plain.mean, plain.std)
    assert (found.tissue, found.outliers, found.blank, found.canvas_YX) == (1, 0, "", None)
    assert found.notes(3) == ()


@given(seed=seeds, count=st.integers(0, 30), highest=st.sampled_from([1, 3, 255]))
def test_they_are_the_same_in_every_dtype(seed, count, highest):
    random = np.random.default_rng(seed)
    section_YX = (
        random.normal(120 * highest, 20 * highest, (150, 90)).clip(0, 250 * highest).astype(np.uint16)
    )
    section_YX = with_hot_pixels(section_YX, count, 65535, seed)
    section_YX[:, 60:] = random.integers(0, 65536)
    expected = section_statistics(section_YX)
    for dtype in (np.int32, np.uint32, np.float32, np.float64):
        assert numbers(section_statistics(section_YX.astype(dtype))) == numbers(expected), dtype


@given(
    seed=seeds, turns=st.integers(0, 3), flipped=st.booleans(), dtype=st.sampled_from([np.uint16, np.float32])
)
def test_they_are_the_same_whichever_way_the_section_is_turned_and_stored(seed, turns, flipped, dtype):
    section_YX = (np.random.default_rng(seed).lognormal(3, 0.5, (80, 130)) * 40).astype(dtype)
    section_YX[:40, :64] = 7
    expected = numbers(section_statistics(section_YX))
    turned_YX = np.rot90(section_YX[:, ::-1] if flipped else section_YX, turns)
    assert numbers(section_statistics(turned_YX)) == expected
    assert numbers(section_statistics(np.asfortranarray(turned_YX))) == expected


@pytest.mark.parametrize("scale", [1, 64])
@pytest.mark.parametrize("count", [1, 20, 600])
def test_hot_pixels_are_left_out(tissue_YX, count, scale):
    section_YX = tissue_YX.astype(np.uint16) * scale
    hot_YX = with_hot_pixels(section_YX, count, 65535)
    found = section_statistics(hot_YX)
    rest = hot_YX[hot_YX < 65535].astype(np.float64)
    assert found.outliers == count
    assert found.mean == pytest.approx(rest.mean(), rel=1e-12)
    assert found.std == pytest.approx(rest.std(), rel=1e-12)


def test_hot_pixels_far_beyond_floats_between_0_and_1_are_left_out(tissue_YX):
    section_YX = (tissue_YX / 255).astype(np.float32)
    expected = section_statistics(section_YX)
    found = section_statistics(with_hot_pixels(section_YX, 20, 1e9))
    assert found.outliers == 20
    assert found.mean == pytest.approx(expected.mean, abs=1e-3 * expected.std)
    assert found.std == pytest.approx(expected.std, rel=1e-3)


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.6])
def test_canvas_changes_nothing(tissue_YX, value, share):
    side = round(256 / (1 - share) ** 0.5)
    section_YX = np.full((side, side), value, np.uint8)
    section_YX[5:261, 3:259] = tissue_YX
    found, expected = section_statistics(section_YX), section_statistics(tissue_YX)
    assert found.tissue == pytest.approx(256**2 / side**2, abs=1e-4)
    assert found.box == (slice(5, 261), slice(3, 259))
    assert found.mean == pytest.approx(expected.mean, abs=1e-3 * expected.std)
    assert found.std == pytest.approx(expected.std, rel=1e-3)
    assert found.notes(3) == (f"{100 * (1 - found.tissue):.0f} % of section 3 is canvas",)


@pytest.mark.parametrize("value", [np.finfo(np.float64).min, np.finfo(np.float64).max, -9999, np.nan])
def test_no_data_values_change_nothing_and_warn_of_nothing(tissue_YX, value):
    section_YX = tissue_YX.astype(np.float64)
    section_YX[:20] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = section_statistics(section_YX, nodata=value)
        undeclared = found if np.isnan(value) else section_statistics(section_YX)
    expected = section_statistics(tissue_YX[20:])
    assert numbers(found)[:5] == numbers(undeclared)[:5] == numbers(expected)[:5]
    assert found.box == (slice(20, 256), slice(0, 256))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0, 77])
def test_a_blank_section_is_said(dtype, value):
    found = section_statistics(np.full((200, 200), value, dtype))
    assert (found.tissue, found.blank, found.std, found.inverse_std) == (0, "constant", 0, 0)
    assert found.notes(7) == ("section 7 is blank",)


def test_noise_alone_is_said_and_stays_tissue():
    noise_YX = np.random.default_rng(0).normal(120, 9, (256, 256)).astype(np.uint8)
    found = section_statistics(noise_YX)
    assert found.notes(7) == ("section 7 is blank but for noise",)
    assert found.canvas_YX is None


def test_tissue_with_hot_pixels_is_not_taken_for_noise(tissue_YX):
    assert section_statistics(with_hot_pixels(tissue_YX.astype(np.uint16), 50, 65535)).blank == ""


@pytest.mark.parametrize("side", [64, 96, 140, 256])  # 1.6, 3.5, 7.5 and 25 % of the section
@pytest.mark.parametrize("noise", [1, 4])
def test_a_little_tissue_within_much_resin_is_not_taken_for_noise(tissue_YX, side, noise):
    section_YX = np.random.default_rng(0).normal(190, noise, (512, 512)).round().astype(np.uint8)
    section_YX[100 : 100 + side, 200 : 200 + side] = tissue_YX[:side, :side]
    for dtype in (np.uint8, np.uint16, np.float32):
        found = section_statistics(section_YX.astype(dtype))
        assert found.blank == ""
        if side < 100:
            assert found.outliers == 0
            assert (found.mean, found.std) == pytest.approx((section_YX.mean(), section_YX.std()), rel=1e-4)


def test_noise_with_more_than_a_few_hot_pixels_stays_noise():
    noise_YX = np.random.default_rng(0).normal(190, 4, (512, 512)).round().astype(np.uint16)
    found = section_statistics(with_hot_pixels(noise_YX, 2000, 60000))
    assert (found.blank, found.outliers) == ("noise", 2000)


@pytest.mark.parametrize("count", [70, 700, 3000])  # up to 5 % of the section
def test_hot_pixels_stay_what_they_are_however_many(tissue_YX, count):
    """Also where they are as bright as can be, or of all grey values there are."""
    random = np.random.default_rng(1)
    narrow_YX = (110 + 0.1 * tissue_YX).round().astype(np.uint8)
    values = np.exp(random.uniform(np.log(1500), np.log(60000), count)).astype(np.uint16)
    for section_YX, value in ((tissue_YX.astype(np.uint16), 60000), (narrow_YX, 255), (tissue_YX, values)):
        hot_YX = with_hot_pixels(
            section_YX.astype(np.uint16) if section_YX is tissue_YX else section_YX, count, value
        )
        found = section_statistics(hot_YX)
        assert (found.blank, found.outliers) == ("", count)
        assert found.std == pytest.approx(section_YX.std(), rel=0.02)


def test_a_tiny_share_of_canvas_and_a_single_hot_pixel_are_said_in_whole_sentences(tissue_YX):
    section_YX = tissue_YX.astype(np.float32)
    section_YX[0, 0], section_YX[9, 9] = -9999, 1e6
    assert section_statistics(section_YX, nodata=-9999).notes(0) == (
        "less than 1 % of section 0 is canvas",
        "1 hot or dead pixel was replaced in section 0",
    )


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.float32, np.float64])
def test_a_large_offset_costs_no_precision(tissue_YX, dtype):
    section_YX = (tissue_YX // 8).astype(dtype)
    shifted_YX = section_YX + dtype(2**19)
    expected_YX = normalise(section_YX, section_statistics(section_YX))
    np.testing.assert_allclose(normalise(shifted_YX, section_statistics(shifted_YX)), expected_YX, atol=1e-6)


LONG_DOUBLE = pytest.param(
    np.longdouble,
    2**60,
    marks=pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="long doubles are doubles here"),
)
HIGH = [(np.uint64, 2**60), (np.uint64, 2**63), (np.int64, -(2**63)), (np.int64, 2**62), LONG_DOUBLE]


@pytest.mark.parametrize(("dtype", "offset"), HIGH)
@pytest.mark.parametrize("kind", ["tissue", "canvas", "hot and dead pixels", "canvas of 0"])
def test_grey_values_beyond_what_float64_holds_are_told_apart(tissue_YX, dtype, offset, kind):
    plain_YX = tissue_YX.astype(dtype)
    if kind.startswith("canvas"):
        plain_YX[:, :100] = 7
    high_YX = plain_YX + dtype(offset)
    if kind == "canvas of 0":
        high_YX[:, :100] = 0
    if kind == "hot and dead pixels":
        high_YX[9, 9], high_YX[99, 7] = 0, offset + 2**40
        plain_YX[9, 9], plain_YX[99, 7] = dtype(2**30), dtype(2**40)
    found, expected = section_statistics(high_YX), section_statistics(plain_YX)
    assert numbers(found) == numbers(expected)
    high, plain = Tissue.of(high_YX), Tissue.of(plain_YX)
    np.testing.assert_array_equal(
        normalise(high.pixels_YX, high.statistics), normalise(plain.pixels_YX, plain.statistics)
    )


@pytest.mark.parametrize(("dtype", "offset"), HIGH)
def test_whole_sections_beyond_what_float64_holds_are_normalised_as_the_plain_ones(tissue_YX, dtype, offset):
    plain_YX = tissue_YX.astype(dtype)
    high_YX = plain_YX + dtype(offset)
    for measured in (normalising_section, intensity_statistics):
        high, plain = measured(high_YX), measured(plain_YX)
        np.testing.assert_array_equal(normalise(high_YX, high), normalise(plain_YX, plain))
        assert texture_of(high_YX, high) == texture_of(plain_YX, plain)


@pytest.mark.parametrize("offset", [2**60, 2**64 - 300])
@pytest.mark.parametrize("scaling", [None, Scaling(y=0.7, x=0.6)])
def test_integers_of_64_bits_are_the_same_by_windows_and_as_plain_ones(tissue_YX, offset, scaling):
    plain_YX = tissue_YX.astype(np.uint64)
    plain_YX[:, :100] = 7
    high_YX = plain_YX + np.uint64(offset)
    by_windows = Windowed(lambda window: high_YX[window].copy(), high_YX.shape, high_YX.dtype, 5000)
    high, plain = Tissue.of(high_YX, scaling), Tissue.of(plain_YX, scaling)
    found, normalising = measure_windows(by_windows, scaling)
    assert (*numbers(found), found.offset) == (*numbers(high.found), high.found.offset)
    assert normalising == high.statistics
    np.testing.assert_allclose(
        normalise(high.pixels_YX, high.statistics), normalise(plain.pixels_YX, plain.statistics), atol=1e-3
    )
