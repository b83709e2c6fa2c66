import numpy as np
import pytest
from drawn import synthetic_stack

from isbi_infer.model.opening import open_model
from isbi_infer.pixels import mending
from isbi_infer.pixels.mending import in_window, tissue_of
from isbi_infer.pixels.normalise import normalise
from isbi_infer.pixels.statistics import section_statistics
from isbi_infer.plan.tiles import plan_section, read_mirrored


@pytest.fixture(scope="module")
def stack():
    return synthetic_stack(sections=3, height=256, width=256)


@pytest.fixture(scope="module", params=["fp32", "int8"])
def segment(request):
    """A section to its probabilities: statistics, tissue, network, whole section."""
    model = open_model(None, "cpu", request.param)

    def run(section_YX):
        statistics = section_statistics(section_YX)
        image_YX = normalise(tissue_of(section_YX, statistics), statistics)
        contract = model.contract
        plan = plan_section(
            image_YX.shape, stride=contract.stride, halo=contract.halo, border=contract.border
        )
        (tile,) = plan.tiles
        batch_NCYX = np.ascontiguousarray(read_mirrored(image_YX, plan.pad, tile.reads))[None, None]
        result_YX = model.backend.run(batch_NCYX)[0, 0][tile.crop]
        whole = slice(0, section_YX.shape[0]), slice(0, section_YX.shape[1])
        return in_window(result_YX, statistics.box, statistics, whole)

    return run


def scores(probability_ZYX, labels_ZYX):
    metrics = pytest.importorskip("isbi_train.scores.metrics", exc_type=ImportError)
    found = metrics.thinned_scores(np.stack(probability_ZYX), labels_ZYX)
    return found.rand.best, found.info.best


@pytest.mark.parametrize("share", [0, 0.1, 0.3, 0.5, 0.6])
def test_canvas_around_a_section_leaves_its_result_unchanged_to_the_last_bit(stack, segment, share):
    image_ZYX, _ = stack
    side = round(256 / (1 - share) ** 0.5)
    top, left = (side - 256) // 2, (side - 256) // 3
    window = np.s_[top : top + 256, left : left + 256]
    for section_YX, value in zip(image_ZYX, (0, 255, 128), strict=True):
        padded_YX = np.full((side, side), value, np.uint8)
        padded_YX[window] = section_YX
        result_YX = segment(padded_YX)
        assert (result_YX[window] == segment(section_YX)).all()
        result_YX[window] = 0
        assert (result_YX == 0).all()


@pytest.mark.parametrize("scale", [pytest.param(1, marks=pytest.mark.more), 64])
def test_twenty_hot_pixels_in_256_by_256_cost_no_score(segment, scale):
    image_ZYX, labels_ZYX = synthetic_stack(
        sections=3, height=512, width=512
    )  # in less one segment is worth 0.005
    hot_ZYX = image_ZYX.astype(np.uint16) * scale
    for z, section_YX in enumerate(hot_ZYX):
        section_YX.ravel()[np.random.default_rng(z).choice(section_YX.size, 80, replace=False)] = 65535
    expected = scores([segment(section_YX) for section_YX in image_ZYX], labels_ZYX)
    assert scores([segment(section_YX) for section_YX in hot_ZYX], labels_ZYX) == pytest.approx(
        expected, abs=0.002
    )


def test_a_missing_part_leaves_the_result_around_it(stack, segment):
    image_ZYX, _ = stack
    holed_YX = image_ZYX[0].copy()
    holed_YX[100:150, 80:140] = 0
    result_YX, expected_YX = segment(holed_YX), segment(image_ZYX[0])
    assert (result_YX[102:148, 82:138] == 0).all()
    far_YX = np.ones((256, 256), bool)
    far_YX[90:160, 70:150] = False
    assert ((result_YX > 0.5) != (expected_YX > 0.5))[far_YX].mean() < 0.01


def test_nothing_is_copied_where_all_is_tissue(stack):
    section_YX = stack[0][0]
    statistics = section_statistics(section_YX)
    assert np.shares_memory(tissue_of(section_YX, statistics), section_YX)
    assert in_window(section_YX, statistics.box, statistics, statistics.box) is section_YX


def test_a_notch_is_filled_with_the_mirror_image_of_what_is_beside_it(stack):
    section_YX = stack[0][0].copy()
    section_YX[:40, 100:150] = 0
    filled_YX = tissue_of(section_YX, section_statistics(section_YX))
    assert (filled_YX[5, 100:120] == section_YX[5, 99 - np.arange(1, 21)]).all()
    assert (filled_YX[20:40, 125] == section_YX[40 + np.arange(20, 0, -1), 125]).all()
    outside_YX = np.ones(section_YX.shape, bool)
    outside_YX[:40, 100:150] = False
    assert (filled_YX == section_YX)[outside_YX].all()


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_what_is_filled_lies_within_the_fences(stack, dtype):
    section_YX = stack[0][0].astype(dtype)
    section_YX[::9, ::7], section_YX[200:, 200:] = 65535, 0
    section_YX[10:14, 10:200] = 65535
    statistics = section_statistics(section_YX)
    filled_YX = tissue_of(section_YX, statistics)
    assert filled_YX.dtype == dtype
    assert filled_YX.min() >= statistics.low
    assert filled_YX.max() <= statistics.high


def test_large_sections_are_filled_as_small_ones_are(stack, monkeypatch):
    section_YX = np.tile(stack[0][0], (3, 3))
    random = np.random.default_rng(0)
    section_YX[:, 300:301] = section_YX[500:600, 90:700] = 0
    section_YX = section_YX.astype(np.uint16)
    section_YX.ravel()[random.choice(section_YX.size, 900, replace=False)] = 65535
    statistics = section_statistics(section_YX)
    whole_YX = tissue_of(section_YX, statistics)
    monkeypatch.setattr(mending, "_BLOCK", 200)
    assert (tissue_of(section_YX, statistics) == whole_YX).all()


def test_nan_never_comes_through(stack):
    section_YX = stack[0][0].astype(np.float32)
    section_YX[100:130, 20:90] = section_YX[5, 5] = np.nan
    statistics = section_statistics(section_YX, nodata=np.nan)
    assert np.isfinite(tissue_of(section_YX, statistics)).all()
