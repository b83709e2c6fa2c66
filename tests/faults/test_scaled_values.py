"""Sections of tiny or huge grey values give the result of the plain section or are refused, and are never blank."""

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack

from isbi_infer import Segmenter
from isbi_infer.pixels.mending import normalising_section
from isbi_infer.pixels.normalise import normalise
from isbi_infer.pixels.statistics import section_statistics
from isbi_models import released_models

MODEL = next(iter(released_models().values())).files["float32"].path


@pytest.fixture(scope="module")
def section_YX():
    return synthetic_stack(1, 160, 224)[0][0].astype(np.float64)


@pytest.mark.parametrize(
    ("dtype", "power"),
    [(np.float32, power) for power in (-140, -126, 40, 60, 90)]
    + [(np.float64, power) for power in (-1000, -660, -332, -126, 40, 90)],
)
def test_a_section_times_a_power_of_two_is_normalised_alike(section_YX, dtype, power):
    scaled_YX = (section_YX * 2.0**power).astype(dtype)
    assert (scaled_YX.astype(np.float64) == section_YX * 2.0**power).all()
    plain, found = section_statistics(section_YX), section_statistics(scaled_YX)
    assert (found.mean, found.std, found.low) == tuple(
        value * 2.0**power for value in (plain.mean, plain.std, plain.low)
    )
    assert (
        (found.blank, found.outliers, found.tissue)
        == (plain.blank, plain.outliers, plain.tissue)
        == ("", 0, 1)
    )
    np.testing.assert_allclose(
        normalise(scaled_YX, normalising_section(scaled_YX)),
        normalise(section_YX, normalising_section(section_YX)),
        atol=1e-6,
    )


@pytest.mark.parametrize("power", [-332, -140, 60, 90])
def test_a_section_of_noise_is_blank_however_large_its_values_are(power):
    noise_YX = np.random.default_rng(3).normal(100, 10, (256, 256))
    assert section_statistics(noise_YX * 2.0**power).blank == "noise"


@pytest.mark.parametrize("factor", [1e-300, 1e-42, 1e18, 1e26])
def test_probabilities_of_tiny_and_huge_values_are_those_of_the_plain_section(section_YX, factor):
    segmenter = Segmenter(MODEL, provider="cpu")
    np.testing.assert_allclose(segmenter(section_YX * factor), segmenter(section_YX), atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "factor"),
    [
        (np.float32, 1e28),
        (np.float32, 3.4e38 / 255),
        (np.float64, 1e28),
        (np.float64, 1e36),
        (np.float64, 1e300),
    ],
)
def test_grey_values_that_would_stand_for_no_data_are_4(tmp_path, leaves, section_YX, dtype, factor):
    image_ZYX = np.stack([section_YX / section_YX.max() * 255] * 2) * factor
    tifffile.imwrite(tmp_path / "huge.tif", image_ZYX.astype(dtype), photometric="minisblack")
    code, _, said = leaves(tmp_path / "huge.tif", "--model", MODEL, "--provider", "cpu")
    assert code == 4
    assert "huge.tif: section 0: has grey values of" in said
    assert [path.name for path in tmp_path.iterdir()] == ["huge.tif"]


def test_tiny_values_that_resampling_would_lose_are_4(tmp_path, leaves, section_YX):
    tifffile.imwrite(tmp_path / "tiny.tif", section_YX * 1e-300)
    code, _, said = leaves(tmp_path / "tiny.tif", "--model", MODEL, "--provider", "cpu", "--pixel-size", "8")
    assert code == 4
    assert "tiny.tif: section 0: has grey values that differ by" in said


@pytest.mark.parametrize("fill", [-3.4028234663852886e38, 1e38, np.inf])
def test_a_section_of_fill_values_alone_is_blank_as_before(fill):
    section_YX = np.full((64, 64), fill, np.float32)
    section_YX[:8] = 0
    assert section_statistics(section_YX).blank == "constant"
