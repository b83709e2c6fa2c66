"""Sections that are read by windows: measured to the same bits as sections that are held whole, in little memory."""

import tracemalloc
from dataclasses import asdict, replace

import numpy as np
import pytest
from drawn import synthetic_stack

from isbi_infer.pixels import flat, windows
from isbi_infer.pixels.normalise import intensity_statistics
from isbi_infer.pixels.statistics import section_statistics
from isbi_infer.pixels.windows import Windowed
from isbi_infer.plan.scaling import Scaling
from isbi_infer.run.measured import PackedMask
from isbi_infer.run.tissue import Tissue, measure_windows

WIDTH = 420


@pytest.fixture
def narrow(monkeypatch):
    """Bands, slabs and lists of runs so small that a small section has many."""
    monkeypatch.setattr(windows, "_BAND", WIDTH * 70)
    monkeypatch.setattr(flat, "_MANY_RUNS", 200)


def windowed(section_YX):
    return Windowed(lambda window: section_YX[window].copy(), section_YX.shape, section_YX.dtype, WIDTH * 90)


def numbers(statistics):
    return asdict(replace(statistics, canvas_YX=None))


def tissue(dtype=np.uint8):
    return synthetic_stack(1, 380, WIDTH)[0][0].astype(dtype)


def with_canvas():
    section_YX = tissue()
    section_YX[:, :70] = 0
    section_YX[200:260, 300:360] = 255
    return section_YX


def wedge():
    section_YX = tissue()
    section_YX[:200, :200][np.tri(200, dtype=bool)[::-1]] = 0
    return section_YX


def hot():
    section_YX = with_canvas().astype(np.uint16)
    places = np.random.default_rng(0).integers(0, 380, (2, 40))
    section_YX[tuple(places)] = 60000
    return section_YX


def fractions(nodata):
    section_YX = tissue(np.float32) * np.float32(1.37)
    section_YX[:50] = nodata
    section_YX[100, 100] = nodata
    return section_YX


def noise():
    return np.random.default_rng(1).normal(128, 9, (380, WIDTH)).astype(np.float32)


def checkers():
    section_YX = (np.indices((380, WIDTH)) // 34).sum(0) % 2 * 200 + tissue() // 8
    return np.where(section_YX > 200, 255, section_YX).astype(np.uint8)


SECTIONS = {
    "tissue": (tissue, None),
    "signed": (lambda: tissue(np.int16) - 90, None),
    "wide": (lambda: tissue(np.int32) * 70000, None),
    "canvas": (with_canvas, None),
    "wedge": (wedge, None),
    "hot": (hot, None),
    "many flat patches": (checkers, None),
    "two levels": (lambda: tissue() // 128 * 255, None),
    "no data, NaN": (lambda: fractions(np.nan), np.nan),
    "no data, far": (lambda: fractions(-9999), -9999.0),
    "no data, a grey value": (with_canvas, 0.0),
    "fractions": (lambda: fractions(90.5), None),
    "noise": (noise, None),
    "constant": (lambda: np.full((380, WIDTH), 7, np.uint8), None),
    "a few pixels": (lambda: tissue()[:3, :5], None),
}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_read_by_windows_is_measured_to_the_same_bits(narrow, tmp_path, name):
    make, nodata = SECTIONS[name]
    section_YX = make()
    expected = section_statistics(section_YX, nodata=nodata)
    found = section_statistics(
        windowed(section_YX), nodata=nodata, store=lambda shape: PackedMask.make(tmp_path / "mask", shape)
    )
    assert numbers(found) == numbers(expected)
    if expected.canvas_YX is None:
        assert found.canvas_YX is None
    else:
        np.testing.assert_array_equal(found.canvas_YX[:], expected.canvas_YX)


@pytest.mark.parametrize("name", SECTIONS)
def test_bands_do_not_change_what_is_found(monkeypatch, name):
    make, nodata = SECTIONS[name]
    expected = section_statistics(make(), nodata=nodata)
    monkeypatch.setattr(windows, "_BAND", WIDTH * 45)
    monkeypatch.setattr(flat, "_MANY_RUNS", 50)
    found = section_statistics(make(), nodata=nodata)
    assert numbers(found) == numbers(expected)
    assert (found.canvas_YX is None) == (expected.canvas_YX is None)
    if found.canvas_YX is not None:
        np.testing.assert_array_equal(found.canvas_YX, expected.canvas_YX)


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("scaling", [None, Scaling(0.7, 0.7), Scaling(1.5, 1.2)])
@pytest.mark.parametrize("name", ["tissue", "canvas", "hot", "fractions"])
def test_tissue_at_the_models_pixel_size_is_measured_to_the_same_bits(narrow, name, scaling, as_bytes):
    section_YX = SECTIONS[name][0]()
    whole = Tissue.of(section_YX, scaling, as_bytes=as_bytes)
    found, statistics = measure_windows(windowed(section_YX), scaling, as_bytes=as_bytes)
    assert numbers(found) == numbers(whole.found)
    assert (statistics.mean, statistics.std) == (whole.statistics.mean, whole.statistics.std)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_intensities_are_summed_the_same_way_by_windows(dtype):
    section_YX = tissue(dtype) / dtype(3) if dtype != np.uint8 else tissue()
    assert intensity_statistics(windowed(section_YX)) == intensity_statistics(section_YX)


def test_a_packed_mask_holds_what_was_stored(tmp_path):
    mask_YX = np.random.default_rng(0).random((50, 37)) < 0.5
    packed = PackedMask.make(tmp_path / "mask", mask_YX.shape)
    for start in range(0, 50, 20):
        packed[start : min(start + 20, 50)] = mask_YX[start : start + 20]
    rows = slice(3, 41)
    for window in (
        rows,
        (rows, slice(9, 30)),
        (slice(None), slice(8, 9)),
        slice(0, 48, 4),
        (slice(5, 5), slice(0, 4)),
    ):
        np.testing.assert_array_equal(packed[window], mask_YX[window])


def test_memory_of_measuring_does_not_grow_with_the_section(monkeypatch, tmp_path):
    """A section of 30 times as many pixels, made as it is read."""

    def peak(height):
        tile_YX = tissue()

        def read(window):
            rows, columns = (np.arange(part.start, part.stop) for part in window)
            return tile_YX[np.ix_(rows % 380, columns % WIDTH)]

        section_YX = Windowed(read, (height, 420), np.uint8, 2**16)
        tracemalloc.start()
        section_statistics(section_YX, store=lambda shape: PackedMask.make(tmp_path / "mask", shape))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    monkeypatch.setattr(windows, "_BAND", 2**16)
    assert peak(600 * 30) < 1.05 * peak(600)
