"""What a caller may hand to a Segmenter, and what each other thing is told."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import synthetic_stack

from isbi_infer import ImageError, ResourceError, Segmenter, UsageError


@pytest.fixture(scope="module")
def image_ZYX():
    image_ZYX, _ = synthetic_stack(2, 96, 128)
    return image_ZYX


class Exhausted:
    """A section that cannot be read, and says so by what ends an iteration."""

    def __array__(self, dtype=None, copy=None):
        raise StopIteration


@pytest.mark.parametrize("samples", [3, 4])
def test_colour_samples_are_never_taken_for_pixels(segmenter, image_ZYX, samples):
    for coloured, axes in (
        (np.stack([image_ZYX[0]] * samples, -1), r"\(Y, X, C\)"),
        (np.stack([image_ZYX] * samples, -1), r"\(Z, Y, X, C\)"),
    ):
        with pytest.raises(ImageError, match=f"looks like {axes} with {samples} colour samples"):
            segmenter(coloured)


def test_what_is_masked_does_not_count_and_comes_out_as_membrane(segmenter, image_ZYX):
    spoiled_ZYX = image_ZYX.astype(np.float32)
    mask_ZYX = np.zeros(image_ZYX.shape, bool)
    mask_ZYX[:, :, :32] = True
    spoiled_ZYX[mask_ZYX] = np.nan
    found_ZYX = segmenter(np.ma.masked_array(spoiled_ZYX, mask_ZYX))
    assert (found_ZYX[mask_ZYX] == 0).all()
    assert (found_ZYX[:, :, 32:] == segmenter(np.ascontiguousarray(image_ZYX[:, :, 32:]))).all()


def test_a_masked_array_without_a_masked_pixel_is_an_array(segmenter, image_ZYX):
    assert (segmenter(np.ma.masked_array(image_ZYX)) == segmenter(image_ZYX)).all()


def test_pixels_that_are_not_numbers_are_counted_unless_they_are_masked(segmenter, image_ZYX):
    spoiled_ZYX = image_ZYX.astype(np.float32)
    spoiled_ZYX[0, :2, :3] = np.inf
    with pytest.raises(ImageError, match="6 pixels are NaN or infinite; mask them first"):
        segmenter(spoiled_ZYX)


def test_torch_tensors_are_taken_also_with_gradients(segmenter, image_ZYX):
    tensor = torch.from_numpy(image_ZYX.astype(np.float32)).requires_grad_()
    assert (segmenter(tensor) == segmenter(image_ZYX)).all()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((8, 8), bool), "of bool"),
        (np.zeros((8, 8), "datetime64[s]"), "datetime64"),
        (np.zeros((8, 8), object), "of object"),
        ("stack.tif", "use segment_file for a path"),
        (Path("stack.tif"), "use segment_file for a path"),
        ([[1, 2], [3]], "found list of which no array can be made .ValueError: setting an array element"),
        (torch.zeros((8, 8), dtype=torch.bfloat16), "found Tensor of which no array can be made .TypeError"),
    ],
)
def test_anything_else_is_one_clear_error(segmenter, image, said):
    with pytest.raises(ImageError, match=said):
        segmenter(image)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda x_YX: np.where(x_YX > x_YX.mean(), np.nan, x_YX),
            "pixels are NaN or infinite; mask them first",
        ),
        (
            lambda x_YX: np.where(x_YX > x_YX.mean(), np.inf, x_YX),
            "pixels are NaN or infinite; mask them first",
        ),
        (lambda x_YX: np.full(x_YX.shape, np.nan), "12288 pixels are NaN or infinite"),
        (lambda x_YX: x_YX > 128, "of bool"),
        (lambda x_YX: x_YX.astype(complex), "of complex128"),
        (lambda x_YX: x_YX.astype(object), "of object"),
        (lambda x_YX: x_YX[0], r"found shape \(128,\)"),
        (lambda x_YX: x_YX[:0], r"found shape \(0, 128\)"),
        (lambda x_YX: x_YX[None], r"expected two axes \(Y, X\), found shape \(1, 96, 128\)"),
        (lambda x_YX: np.stack([x_YX] * 3, -1), r"looks like \(Y, X, C\) with 3 colour samples"),
        (lambda x_YX: 7, r"found shape \(\)"),
        (lambda x_YX: [[1, 2], [3]], "found list of which no array can be made"),
        (lambda x_YX: Exhausted(), r"found Exhausted of which no array can be made \(StopIteration"),
        (lambda x_YX: "stack.tif", "use segment_file for a path"),
    ],
)
@pytest.mark.parametrize("place", [0, 2])
def test_each_section_of_a_stream_is_checked_as_a_call_checks_it(segmenter, image_ZYX, spoil, said, place):
    sections = [image_ZYX[z % 2] for z in range(4)]
    sections[place] = spoil(sections[place])
    results = segmenter.stream(sections)
    for z in range(place):
        assert (next(results) == segmenter(sections[z])).all()
    with pytest.raises(ImageError, match=f"^section {place}: .*{said}"):
        next(results)
    assert next(results, None) is None


def test_a_stream_takes_what_a_call_takes(segmenter, image_ZYX):
    mask_YX = np.zeros(image_ZYX.shape[1:], bool)
    mask_YX[:, :32] = True
    spoiled_YX = np.where(mask_YX, np.nan, image_ZYX[0])
    sections = [
        image_ZYX[0].tolist(),
        torch.from_numpy(image_ZYX[1].astype(np.float32)).requires_grad_(),
        np.ma.masked_array(spoiled_YX, mask_YX),
    ]
    for section, result_YX in zip(sections, segmenter.stream(iter(sections)), strict=True):
        assert (result_YX == segmenter(section)).all()
    assert list(segmenter.stream([])) == []


@pytest.mark.parametrize("kind", ["array", "masked", "tensor", "array of its own"])
def test_sections_may_be_one_array_that_is_filled_again_and_again(segmenter, kind):
    image_ZYX, _ = synthetic_stack(6, 48, 64)
    mask_ZYX = np.zeros(image_ZYX.shape, bool)
    mask_ZYX[[0, 2, 4], :, :20] = kind == "masked"
    buffer_YX, buffer_mask_YX = image_ZYX[0].copy(), mask_ZYX[0].copy()

    class Own:
        def __array__(self, dtype=None, copy=None):
            return buffer_YX

    handed = {
        "array": buffer_YX,
        "masked": np.ma.masked_array(buffer_YX, buffer_mask_YX, copy=False),
        "tensor": torch.from_numpy(buffer_YX),
        "array of its own": Own(),
    }[kind]

    def sections():
        for section_YX, mask_YX in zip(image_ZYX, mask_ZYX, strict=True):
            buffer_YX[...], buffer_mask_YX[...] = section_YX, mask_YX
            yield handed

    expected_ZYX = segmenter(np.ma.masked_array(image_ZYX, mask_ZYX))
    np.testing.assert_array_equal(list(segmenter.stream(sections())), expected_ZYX)


@pytest.mark.parametrize("path", ["stack.tif", Path("stack.tif")])
def test_a_path_is_no_stream_of_sections(segmenter, path):
    with pytest.raises(ImageError, match=r"stack\.tif: expected sections one by one; use segment_file"):
        segmenter.stream(path)


@pytest.mark.parametrize("sections", [5, None, np.array(5)])
def test_what_does_not_come_one_by_one_is_no_stream_of_sections(segmenter, sections):
    with pytest.raises(ImageError, match=f"^expected sections one by one, found {type(sections).__name__}"):
        segmenter.stream(sections)


HUGE = 10**5000  # which Python does not write


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"tile": "512"}, "tile is '512'; expected a whole number"),
        ({"batch": 1.5}, "batch is 1.5; expected a whole number"),
        ({"halo": True}, "halo is True; expected a whole number"),
        ({"memory": "plenty"}, "no amount of memory"),
        ({"memory": 0}, "memory 0 is no memory at all; expected bytes, or an amount such as 4GiB"),
        ({"memory": -(2**30)}, "memory -1073741824 is no memory at all"),
        ({"pixel_size": "4nm"}, "pixel size is '4nm'; expected a number"),
        ({"pixel_size": True}, "pixel size is True; expected a number"),
        ({"pixel_size": np.array([4.0, 5.0])}, "pixel size is array.*; expected a number"),
        ({"pixel_size": HUGE}, "pixel size is a number of hundreds of digits"),
        ({"tile": HUGE}, "tile is beyond any machine"),
        ({"batch": HUGE}, "batch is beyond any machine"),
        ({"memory": HUGE}, "memory is beyond any machine"),
        ({"tta": "no"}, "tta is 'no'; expected True or False"),
        ({"pixels": "many"}, "pixels is 'many'; expected a whole number, 0 or more"),
        ({"pixels": -1}, "pixels is -1; expected a whole number, 0 or more"),
        ({"model": 5}, "the model is given as int; expected a path, or the name of a released model"),
        ({"model": b"em"}, "the model is given as bytes; expected a path"),
        ({"provider": None}, "provider is None; expected auto or a name"),
        ({"provider": ["cpu"]}, r"provider is \['cpu'\]; expected auto or a name"),
        ({"precision": None}, "precision is None; expected auto or a name"),
        ({"precision": ["fp32"]}, r"precision is \['fp32'\]; expected auto or a name"),
    ],
)
def test_wishes_of_another_kind_are_usage_errors(wish, said):
    with pytest.raises(UsageError, match=said) as caught:
        Segmenter(**{"provider": "cpu"} | wish)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "shape", [(0, 5), (5,), (), (1, 2, 3, 4), (-1, 5), (2.5, 3), (0, 5, 5), 5, None, "ab"]
)
def test_a_plan_of_what_is_no_shape_is_a_usage_error(segmenter, shape):
    for ask in (segmenter.plan, segmenter.estimate):
        with pytest.raises(UsageError, match=r"^shape .* is neither \(Y, X\) nor \(Z, Y, X\)"):
            ask(shape)


@pytest.mark.parametrize("options", [{"emit": "nothing"}, {"dtype": "float16"}])
def test_a_plan_of_what_is_no_output_is_a_usage_error(segmenter, options):
    with pytest.raises(UsageError, match="; choose "):
        segmenter.plan((8, 8), **options)


def test_what_is_no_file_and_no_source_is_a_usage_error(segmenter, image_ZYX, tmp_path):
    out = tmp_path / "out.tif"
    for ask in (
        lambda: segmenter.segment_file(image_ZYX, out),
        lambda: segmenter.plan_source(image_ZYX),
        lambda: segmenter.stream_source(image_ZYX),
        lambda: segmenter.segment_source(image_ZYX, ()),
    ):
        with pytest.raises(UsageError, match="expected an open source, found ndarray"):
            ask()
    with pytest.raises(UsageError, match="output is given as int; expected a path"):
        segmenter.segment_file(tmp_path / "stack.tif", 5)
    with pytest.raises(UsageError, match="result is given as int; expected a path"):
        segmenter.verify(5, None)
    assert not list(tmp_path.iterdir())


def test_an_estimate_is_made_of_a_section_too(segmenter):
    assert segmenter.estimate((40, 50)).plan == segmenter.plan((40, 50))


def test_a_batch_for_which_no_memory_is_left_is_refused():
    with pytest.raises(ResourceError, match="the memory allows 0 pixels a tile"):
        Segmenter(provider="cpu", memory="4GiB", batch=10**10)


def test_memory_may_be_written_as_people_write_it():
    assert Segmenter(provider="cpu", memory="64GiB").plan((9, 9)) == Segmenter(
        provider="cpu", memory=64 * 2**30
    ).plan((9, 9))
    segmenter = Segmenter(provider="cpu", tile=np.int64(512))
    assert segmenter.plan((9, 9)).section.tile_shape == (segmenter.contract.stride, segmenter.contract.stride)


def test_progress_emit_and_dtype_are_those_of_files(segmenter, image_ZYX):
    steps = []
    found_ZYX = segmenter(
        image_ZYX, emit="membrane", dtype="uint8", progress=lambda done, total: steps.append((done, total))
    )
    assert steps == [(0, 2), (1, 2), (2, 2)]  # a tile each
    assert found_ZYX.dtype == np.uint8
    expected_ZYX = np.rint((1 - segmenter(image_ZYX)) * np.float32(255))
    assert (found_ZYX == expected_ZYX).all()


@pytest.mark.parametrize(
    ("emit", "dtype", "canvas"),
    [("cell", "float32", 0), ("membrane", "float32", 1), ("cell", "uint8", 0), ("membrane", "uint8", 255)],
)
def test_canvas_comes_out_as_membrane_whatever_membrane_is(segmenter, image_ZYX, emit, dtype, canvas):
    mask_ZYX = np.zeros(image_ZYX.shape, bool)
    mask_ZYX[:, :, :32] = True
    masked_ZYX = np.ma.masked_array(image_ZYX, mask_ZYX)
    streamed = segmenter.stream(masked_ZYX, emit=emit, dtype=dtype)
    for found_YX in (*segmenter(masked_ZYX, emit=emit, dtype=dtype), *streamed):
        assert (found_YX[:, :32] == canvas).all()


@pytest.mark.parametrize("raised", [KeyError("a"), StopIteration("b")])
def test_what_a_progress_callback_raises_ends_the_run(segmenter, image_ZYX, raised):
    def progress(done, total):
        if done:
            raise raised

    arrives = RuntimeError if isinstance(raised, StopIteration) else type(raised)
    with pytest.raises(arrives) as caught:
        segmenter(image_ZYX, progress=progress)
    assert raised in (caught.value, caught.value.__cause__)


@pytest.mark.parametrize("again", [lambda s: pickle.loads(pickle.dumps(s)), copy.copy, copy.deepcopy])
def test_a_copy_is_another_segmenter_that_computes_the_same(segmenter, image_ZYX, again):
    copied = again(segmenter)
    assert copied is not segmenter
    assert (copied(image_ZYX) == segmenter(image_ZYX)).all()


def test_a_copy_of_a_model_file_that_has_changed_since_is_refused(tmp_path, image_ZYX):
    from isbi_models import default_model

    files = default_model().files
    path = tmp_path / "model.onnx"
    path.write_bytes(files["float32"].path.read_bytes())
    content = pickle.dumps(Segmenter(path, provider="cpu"))
    path.write_bytes(files["int8"].path.read_bytes())
    with pytest.raises(UsageError, match="is not the file that it was"):
        pickle.loads(content)


def test_it_shows_what_it_is_and_closes_at_the_end_of_a_with_statement(image_ZYX):
    with Segmenter(provider="cpu") as segmenter:
        segmenter(image_ZYX)
        shown = repr(segmenter)
    assert "the released model on cpu in int8" in shown
    assert segmenter.model_sha256[:12] in shown
