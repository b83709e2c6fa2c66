"""Reading ONNX files strictly: damage is a `ModelError` with its reason, and never another exception."""

from contextlib import suppress

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from isbi_export.graph.analysis.analyse import GraphAnalysis, analyse
from isbi_export.graph.analysis.reading import attributes_of, dims_of, numbers_of, read_onnx
from isbi_infer.errors import ModelError

IMAGE = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, "height", None])
RESULT = helper.make_tensor_value_info("result", TensorProto.FLOAT, ["batch", 1, "height", None])


def model_of(nodes, initialisers=(), **more):
    graph = helper.make_graph(nodes, "g", [IMAGE], [RESULT], list(initialisers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, **more)


def tiny_model():
    weight = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "weight")
    sizes = helper.make_tensor("shape", TensorProto.INT64, [4], [0, 1, 0, -1])
    return model_of(
        [
            helper.make_node("Conv", ["image", "weight"], ["a"], "conv", pads=[1, 1, 1, 1], strides=[1, 1]),
            helper.make_node("Reshape", ["a", "shape"], ["b"], "reshape"),
            helper.make_node("LeakyRelu", ["b"], ["result"], "relu", alpha=0.25),
        ],
        [weight, sizes],
    )


TINY = tiny_model().SerializeToString()


def test_shapes_of_inputs_tell_sizes_from_names_and_from_nothing():
    (image,) = read_onnx(TINY).graph.input
    assert dims_of(image) == ("batch", 1, "height", None)
    image.type.tensor_type.ClearField("shape")
    assert dims_of(image) is None


@pytest.mark.parametrize("value", [0, -3, 2.5, 0.0, "text", (1, -2, 3), (0.5, 1.5), ("a", "b")], ids=str)
def test_attributes_of_every_plain_kind_are_plain(value):
    written = list(value) if isinstance(value, tuple) else value
    node = helper.make_node("Op", ["image"], ["result"], **{"it": written})
    assert attributes_of(node) == {"it": value}


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    "dtype",
    ["float32", "float64", "float16", "int8", "uint8", "int16", "int32", "int64", "uint32", "uint64", "bool"],
)
def test_small_tensors_of_every_type_are_decoded(dtype, raw):
    expected = np.array([[0, 1, 100], [3, 1, 0]]).astype(dtype)
    if np.dtype(dtype).kind in "if":
        expected[0, 1] = -1
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    numbers = expected.tobytes() if raw else expected.reshape(-1).tolist()
    found = numbers_of(helper.make_tensor("t", code, expected.shape, numbers, raw=raw), 100)
    assert found.dtype == expected.dtype
    assert (found == expected).all()


def test_large_tensors_unknown_types_and_those_elsewhere_are_left_alone():
    outside = TensorProto(name="far", dims=[1], data_type=1, data_location=TensorProto.EXTERNAL)
    values, places = (numpy_helper.from_array(np.ones(1, dtype), "s") for dtype in ("f4", "i8"))
    for tensor in (
        numpy_helper.from_array(np.zeros(101, np.float32), "large"),
        helper.make_tensor("strings", TensorProto.STRING, [1], ["a"]),
        onnx.SparseTensorProto(values=values, indices=places, dims=[4]),
        outside,
    ):
        assert numbers_of(tensor, 100) is None


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("raw", [True, False])
def test_a_tensor_with_more_or_fewer_numbers_than_its_shape_says_is_damaged(count, raw):
    tensor = numpy_helper.from_array(np.zeros(count, np.float32), "t")
    if not raw:
        tensor = helper.make_tensor("t", TensorProto.FLOAT, [count], [0.0] * count)
    tensor.dims[0] = 3
    with pytest.raises(ModelError, match=r"damaged .*tensor 't'"):
        numbers_of(tensor, 100)


@pytest.mark.parametrize("dims", [[-1], [1] * 33, [2**31, 2**31]])
def test_a_tensor_of_an_impossible_shape_is_damaged(dims):
    model = tiny_model()
    model.graph.initializer[0].dims[:] = dims
    with pytest.raises(ModelError, match="tensor 'weight' has shape"):
        read_onnx(model.SerializeToString())


@pytest.mark.parametrize("what", ["initialiser", "attribute", "opset"])
def test_what_stands_twice_is_an_error_and_not_the_last_one(what):
    model = tiny_model()
    doubled = {
        "initialiser": model.graph.initializer,
        "attribute": model.graph.node[0].attribute,
        "opset": model.opset_import,
    }[what]
    doubled.append(doubled[0])
    with pytest.raises(ModelError, match=f"{what} .* stands twice"):
        read_onnx(model.SerializeToString())


def test_two_graphs_in_one_file_are_not_merged():
    with pytest.raises(ModelError, match="stands twice"):
        read_onnx(TINY + TINY)


@pytest.mark.parametrize("name", [b"conv", b"weight", b"image"])
def test_a_name_that_is_no_text_is_damage(name):
    with pytest.raises(ModelError, match="damaged"):
        read_onnx(TINY.replace(name, b"\xff" * len(name)))


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\x08",
        b"\x08" + b"\x80" * 40,
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x00\x01",
        b"\x0b",
    ],
)
def test_what_is_no_onnx_file_is_a_model_error(damage):
    with pytest.raises(ModelError, match="damaged or no ONNX file"):
        read_onnx(damage)


def test_graphs_nested_absurdly_deep_are_refused_and_not_followed():
    inner = b""
    for _ in range(3000):
        attribute = b"\x32" + varint(len(inner)) + inner + b"\xa0\x01\x05"
        node = b"\x2a" + varint(len(attribute)) + attribute
        inner = b"\x0a" + varint(len(node)) + node
    with pytest.raises(ModelError, match="damaged"):
        read_onnx(b"\x3a" + varint(len(inner)) + inner)


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def test_a_file_truncated_anywhere_is_a_model_error_unless_only_what_follows_the_graph_is_missing():
    whole = read_onnx(TINY)
    for cut in range(len(TINY)):
        with suppress(ModelError):
            assert read_onnx(TINY[:cut]).graph == whole.graph


def test_a_flipped_bit_gives_an_analysis_or_a_model_error_and_nothing_else():
    for at in range(8 * len(TINY)):
        damaged = bytearray(TINY)
        damaged[at // 8] ^= 1 << at % 8
        with suppress(ModelError):
            assert isinstance(analyse(bytes(damaged)), GraphAnalysis)


@settings(max_examples=settings().max_examples * 5)
@given(at=st.integers(0, len(TINY) - 1), new=st.binary(max_size=4), gone=st.integers(0, 4))
def test_bytes_put_in_or_taken_out_give_an_analysis_or_a_model_error(at, new, gone):
    with suppress(ModelError):
        assert isinstance(analyse(TINY[:at] + new + TINY[at + gone :]), GraphAnalysis)


@given(data=st.binary(max_size=60))
def test_any_bytes_at_all_give_a_file_or_a_model_error(data):
    with suppress(ModelError):
        assert isinstance(read_onnx(data), onnx.ModelProto)
