import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tifffile
from drawn import synthetic_stack
from hypothesis import given, settings
from hypothesis import strategies as st

from isbi_infer import ImageError, ModelError, ResourceError, Segmenter, UsageError
from isbi_infer.backends.cores import available_cores
from isbi_infer.model.contract import PRECISIONS
from isbi_infer.volumes import open_source
from isbi_models import default_model, released_models

MODEL = "isbi2012-unet-b32"  # of the tests of tiles: its halo leaves room for small ones


def whole_image_reference(section_YX, contract):
    """What DESIGN calls the result, computed without any of the code under test but onnxruntime itself."""
    x_YX = section_YX.astype(np.float64)
    x_YX = ((section_YX.astype(np.float32) - np.float32(x_YX.mean())) * np.float32(1 / x_YX.std())).astype(
        "f4"
    )
    pad = [
        (contract.border, contract.border + -(size + 2 * contract.border) % contract.stride)
        for size in x_YX.shape
    ]
    session = onnxruntime.InferenceSession(
        released_models()[MODEL].files[contract.precision].path, providers=["CPUExecutionProvider"]
    )
    (y_NCYX,) = session.run(None, {contract.input_name: np.pad(x_YX, pad, mode="reflect")[None, None]})
    height, width = x_YX.shape
    return y_NCYX[0, 0, contract.border : contract.border + height, contract.border : contract.border + width]


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(MODEL, provider="cpu")


@pytest.fixture(scope="module")
def large_YX():
    image_ZYX, _ = synthetic_stack(1, 530, 611, seed=7)
    return image_ZYX[0]


def test_auto_takes_the_fastest_released_file_and_any_other_can_be_insisted_on():
    assert Segmenter(provider="cpu").contract.precision == "int8"
    for name in default_model().files:
        assert Segmenter(provider="cpu", precision=PRECISIONS[name]).contract.precision == name


def test_a_precision_that_is_not_released_names_those_that_are():
    with pytest.raises(
        UsageError,
        match=r"in fp16 for cpu; choose from .*fp32.*, or make .*: isbi-export",
    ):
        Segmenter(provider="cpu", precision="fp16")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_result_is_the_whole_image_reference_to_the_bit(precision, large_YX):
    segmenter = Segmenter(MODEL, provider="cpu", precision=precision)
    assert (segmenter(large_YX) == whole_image_reference(large_YX, segmenter.contract)).all()


@settings(max_examples=settings().max_examples * 3 // 20)
@given(
    tile=st.sampled_from([208, 224, 256, 320, 400, 512]),
    batch=st.integers(1, 5),
    height=st.integers(1, 530),
    width=st.integers(1, 611),
)
def test_tiling_and_batching_never_change_a_bit(segmenter, large_YX, tile, batch, height, width):
    section_YX = large_YX[:height, :width]
    tiled = Segmenter(MODEL, provider="cpu", tile=tile, batch=batch)
    assert (tiled(section_YX) == segmenter(section_YX)).all()


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.more), "int8"])
@pytest.mark.parametrize("model", [name for name in released_models() if name != MODEL])
def test_the_other_released_models_have_no_seams_either(large_YX, model, precision):
    whole, tiled = (Segmenter(model, provider="cpu", precision=precision, tile=tile) for tile in (None, 416))
    assert len(tiled.plan(large_YX.shape).section.tiles) > 1
    assert (tiled(large_YX) == whole(large_YX)).all()


def test_a_halo_one_stride_smaller_is_not_exact_and_says_so(segmenter, large_YX):
    """Also the sharpness of the test above: 16 pixels less and the bits differ."""
    smaller = Segmenter(MODEL, provider="cpu", tile=208, halo=80)
    difference = np.abs(smaller(large_YX) - segmenter(large_YX)).max()
    assert 0 < difference < 0.05
    (note,) = smaller.notes
    assert "not exact" in note
    assert f"{segmenter.contract.halo_error['80']:.1g}" in note
    assert segmenter.notes == ()


def test_the_measured_error_falls_as_the_halo_grows(segmenter):
    errors = [segmenter.contract.halo_error[str(halo)] for halo in range(0, 96, 16)]
    assert errors[0] > 0.1 > errors[-1] > 0
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(("halo", "nearest"), [(90, 96), (-16, 0), (7, 0)])
def test_a_halo_off_the_stride_is_refused_with_the_nearest_that_works(halo, nearest):
    with pytest.raises(UsageError, match=f"try {nearest}"):
        Segmenter(MODEL, provider="cpu", halo=halo)


def test_an_estimate_says_what_the_plan_is(segmenter):
    estimate = segmenter.estimate((30, 512, 512))
    section = estimate.plan.section
    assert (len(section.tiles), section.tile_shape, section.halo) == (1, (512, 512), 96)
    assert section.overhead == 1
    assert estimate.plan.memory_bytes > 512 * 512 * 4 * 8
    assert estimate.seconds > 0
    assert "30 sections of 512 x 512" in str(estimate)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (15, 17), (16, 16), (3, 7, 9)])
def test_the_smallest_sections_come_back_in_their_shape(segmenter, shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    out = segmenter(image)
    assert out.shape == shape
    assert out.dtype == np.float32
    assert ((out >= 0) & (out <= 1)).all()


def test_a_constant_section_gives_finite_probabilities(segmenter):
    assert np.isfinite(segmenter(np.full((50, 60), 128, np.uint8))).all()


def test_each_section_is_normalised_on_its_own(segmenter, synthetic_ZYX):
    uneven_ZYX = synthetic_ZYX.astype(np.uint16) * np.array([1, 40, 90], np.uint16)[:, None, None]
    np.testing.assert_allclose(segmenter(uneven_ZYX), segmenter(synthetic_ZYX), atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float64])
def test_the_dtype_of_a_stack_does_not_matter(segmenter, synthetic_ZYX, dtype):
    assert (segmenter(synthetic_ZYX.astype(dtype)) == segmenter(synthetic_ZYX)).all()


def test_a_section_alone_gives_what_it_gives_within_a_stack(segmenter, synthetic_ZYX):
    assert (segmenter(synthetic_ZYX)[1] == segmenter(synthetic_ZYX[1])).all()


def test_stream_reads_a_bounded_number_of_sections_ahead(segmenter, synthetic_ZYX):
    taken = []

    def sections():
        for z in range(100):
            taken.append(z)
            yield synthetic_ZYX[z % 3]

    stream = segmenter.stream(sections())
    for z in range(5):
        assert (next(stream) == segmenter(synthetic_ZYX[z % 3])).all()
        time.sleep(0.2)
        assert len(taken) <= z + 1 + available_cores() + 3
    stream.close()
    reached = len(taken)
    time.sleep(0.2)
    assert len(taken) == reached
    assert not [
        thread.name for thread in threading.enumerate() if thread.name.startswith(("worker", "reader"))
    ]


def test_an_error_while_reading_comes_after_the_sections_before_it(segmenter, synthetic_ZYX):
    def sections():
        yield from synthetic_ZYX
        raise ImageError("section 3 is damaged")

    results = []
    with pytest.raises(ImageError, match="section 3"):
        results.extend(segmenter.stream(sections()))
    assert len(results) <= 3
    stream = segmenter.stream(sections())
    assert (next(stream) == segmenter(synthetic_ZYX[0])).all()


def test_the_average_over_flips_and_rotations_is_the_average_of_whole_image_results(segmenter, large_YX):
    section_YX = large_YX[:300, :411]
    views = [(turns, flipped) for flipped in (False, True) for turns in range(4)]
    total_YX = np.zeros(section_YX.shape)
    for turns, flipped in views:
        view_YX = np.rot90(section_YX[:, ::-1] if flipped else section_YX, turns)
        back_YX = np.rot90(segmenter(np.ascontiguousarray(view_YX)), -turns)
        total_YX += back_YX[:, ::-1] if flipped else back_YX
    expected_YX = (total_YX / 8).astype(np.float32)
    for tile in (None, 224):
        assert (Segmenter(MODEL, provider="cpu", tta=True, tile=tile)(section_YX) == expected_YX).all()


def test_a_small_memory_limit_makes_smaller_tiles_and_the_same_result(segmenter, large_YX):
    small = Segmenter(MODEL, provider="cpu", memory=64 * 2**20)
    assert len(small.plan(large_YX.shape).section.tiles) > len(segmenter.plan(large_YX.shape).section.tiles)
    assert (small(large_YX) == segmenter(large_YX)).all()


def test_memory_for_no_tile_is_said(large_YX):
    with pytest.raises(ResourceError, match="memory"):
        Segmenter(provider="cpu", memory=2**20)(large_YX)


def test_sections_of_different_shapes_in_one_stream_are_refused(segmenter, synthetic_ZYX):
    with pytest.raises(ImageError, match="differ in shape"):
        list(segmenter.stream([synthetic_ZYX[0], synthetic_ZYX[1, :50]]))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((2, 3, 4, 5), np.uint8), "shape (2, 3, 4, 5)"),
        (np.zeros(5, np.uint8), "shape (5,)"),
        (np.zeros((0, 5), np.uint8), "shape (0, 5)"),
        (np.zeros((5, 5), np.complex64), "complex64"),
        (np.zeros((5, 5), bool), "bool"),
        (np.array([[1.0, np.nan], [np.inf, 0]]), "2 pixels"),
    ],
)
def test_an_array_that_is_no_greyscale_stack_is_refused_by_what_it_is(segmenter, image, said):
    with pytest.raises(ImageError) as caught:
        segmenter(image)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"tile": 100}, {"tile": 192}, {"tile": 0}, {"batch": 0}, {"provider": "gpu"}]
)
def test_an_impossible_option_is_refused_at_once(options):
    with pytest.raises(UsageError):
        Segmenter(MODEL, **options)


@pytest.mark.parametrize("model", released_models())
def test_a_released_model_finds_the_membranes_of_the_synthetic_sample(model):
    image_ZYX, labels_ZYX = synthetic_stack(1, 384, 384)
    probability_ZYX = Segmenter(model, provider="cpu")(image_ZYX)
    agreement = ((probability_ZYX > 0.5) == (labels_ZYX > 0)).mean()
    assert agreement > 0.85  # 0.78 by calling everything cell
    assert probability_ZYX[labels_ZYX > 0].mean() > probability_ZYX[labels_ZYX == 0].mean() + 0.5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"PK\x03\x04 whatever torch.save wrote", "PyTorch"),
        (b"\x80\x04\x95", "pickle"),
        (b"no protobuf at all", "not a readable ONNX"),
    ],
)
def test_a_file_that_is_no_model_is_named_for_what_it_is(tmp_path, content, said):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=said) as caught:
        Segmenter(path)
    assert str(path) in str(caught.value)


def test_a_missing_model_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere\.onnx"):
        Segmenter(tmp_path / "nowhere.onnx")


def test_a_truncated_model_is_a_model_error(tmp_path):
    whole = Path(default_model().path).read_bytes()
    path = tmp_path / "model.onnx"
    for length in np.linspace(1, len(whole) - 1, 12).astype(int):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            Segmenter(path)


@pytest.fixture
def five(tmp_path):
    tifffile.imwrite(tmp_path / "five.tif", synthetic_stack(5, 64, 64)[0], photometric="minisblack")
    with open_source(tmp_path / "five.tif") as source:
        yield source


@pytest.mark.parametrize("only", [[2, 1], [1, 1], [-1], [5]])
def test_sections_that_are_not_there_or_out_of_order_are_refused(segmenter, five, only):
    with pytest.raises(UsageError, match="expected ascending numbers from 0 to 4"):
        segmenter.stream_source(five, only=only)


def test_some_sections_of_a_source_are_those_of_all_and_are_planned_for_as_so_many(segmenter, five):
    every_ZYX = np.stack(list(segmenter.stream_source(five)))
    np.testing.assert_array_equal(list(segmenter.stream_source(five, only=[1, 4])), every_ZYX[[1, 4]])
    assert list(segmenter.stream_source(five, only=[])) == []
    one, alone = segmenter.plan_source(five, only=[3]), segmenter.plan((1, 64, 64))
    assert (one.workers, one.all_cores, one.batch) == (alone.workers, alone.all_cores, alone.batch)
