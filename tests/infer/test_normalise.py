import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isbi_infer.pixels.normalise import intensity_statistics, normalise

seeds = st.integers(0, 2**32 - 1)


def random_section(seed, shape=(300, 37)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@given(seed=seeds)
def test_one_section_gives_one_result_in_every_dtype(seed):
    section_YX = random_section(seed)
    reference = normalise(section_YX, intensity_statistics(section_YX))
    for dtype in (np.uint16, np.int16, np.int32, np.uint32, np.float16, np.float32, np.float64):
        other_YX = section_YX.astype(dtype)
        assert (normalise(other_YX, intensity_statistics(other_YX)) == reference).all(), dtype


@given(seed=seeds)
def test_the_statistics_are_those_of_float64_arithmetic(seed):
    section_YX = random_section(seed)
    statistics = intensity_statistics(section_YX)
    assert statistics.mean == pytest.approx(section_YX.mean(dtype=np.float64), rel=1e-13)
    assert statistics.std == pytest.approx(section_YX.std(dtype=np.float64), rel=1e-12)


@given(seed=seeds)
def test_a_normalised_section_has_zero_mean_and_unit_variance(seed):
    section_YX = random_section(seed)
    out_YX = normalise(section_YX, intensity_statistics(section_YX))
    assert out_YX.dtype == np.float32
    assert out_YX.mean(dtype=np.float64) == pytest.approx(0, abs=1e-5)
    assert out_YX.std(dtype=np.float64) == pytest.approx(1, abs=1e-5)


@given(seed=seeds)
def test_a_part_is_normalised_as_it_is_within_the_whole(seed):
    section_YX = random_section(seed)
    statistics = intensity_statistics(section_YX)
    part = (slice(100, 280), slice(3, 30))
    assert (normalise(section_YX[part], statistics) == normalise(section_YX, statistics)[part]).all()


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_a_constant_section_is_all_zero_rather_than_nan(value, dtype):
    section_YX = np.full((40, 50), value, dtype)
    assert (normalise(section_YX, intensity_statistics(section_YX)) == 0).all()


def test_a_brighter_and_more_contrasted_section_gives_nearly_the_same_result():
    section_YX = random_section(3)
    brighter_YX = section_YX.astype(np.uint16) * 100 + 5000
    np.testing.assert_allclose(
        normalise(brighter_YX, intensity_statistics(brighter_YX)),
        normalise(section_YX, intensity_statistics(section_YX)),
        atol=2e-6,
    )
