"""The reader of ONNX files: against the ``onnx`` package on sound files, and on damaged ones."""

from contextlib import suppress

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from isbi_export.graph.analysis.analyse import GraphAnalysis, analyse
from isbi_export.graph.analysis.onnxfile import Graph, OnnxFile, Tensor, read_onnx
from isbi_infer.errors import ModelError
from isbi_models import default_model

IMAGE = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, "height", None])
RESULT = helper.make_tensor_value_info("result", TensorProto.FLOAT, ["batch", 1, "height", None])


def model_of(nodes, initialisers=(), **more):
    graph = helper.make_graph(nodes, "g", [IMAGE], [RESULT], list(initialisers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, **more)


def tiny_model():
    weight = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "weight")
    sizes = helper.make_tensor("shape", TensorProto.INT64, [4], [0, 1, 0, -1])
    model = model_of(
        [
            helper.make_node("Conv", ["image", "weight"], ["a"], "conv", pads=[1, 1, 1, 1], strides=[1, 1]),
            helper.make_node("Reshape", ["a", "shape"], ["b"], "reshape"),
            helper.make_node("LeakyRelu", ["b"], ["result"], "relu", alpha=0.25),
        ],
        [weight, sizes],
    )
    helper.set_model_props(model, {"one": "1", "two": "zwei\N{SUPERSCRIPT TWO}"})
    return model


TINY = tiny_model().SerializeToString()


def outside(name="far"):
    tensor = TensorProto(name=name, dims=[1], data_type=1, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def plain(attribute):
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value).tolist()
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize("model", [TINY, default_model().path.read_bytes()], ids=["tiny", "released"])
def test_everything_read_is_what_the_onnx_package_reads(model):
    found, expected = read_onnx(model), onnx.load_from_string(model)
    assert found.ir_version == expected.ir_version
    assert found.opsets == {"": expected.opset_import[0].version}
    assert found.metadata == {entry.key: entry.value for entry in expected.metadata_props}
    for node, proto in zip(found.graph.nodes, expected.graph.node, strict=True):
        assert (node.op_type, node.name, node.domain) == (proto.op_type, proto.name, proto.domain)
        assert (node.inputs, node.outputs) == (tuple(proto.input), tuple(proto.output))
        assert node.attributes == {a.name: plain(a) for a in proto.attribute}
    assert list(found.graph.initialisers) == [tensor.name for tensor in expected.graph.initializer]
    for tensor in expected.graph.initializer:
        mine = found.graph.initialisers[tensor.name]
        assert (mine.dims, mine.dtype, mine.external) == (tuple(tensor.dims), tensor.data_type, False)
        assert (mine.array(10**9) == numpy_helper.to_array(tensor)).all()


def test_shapes_of_inputs_tell_sizes_from_names_and_from_nothing():
    (image,) = read_onnx(TINY).graph.inputs
    assert (image.name, image.dtype, image.shape) == (
        "image",
        TensorProto.FLOAT,
        ("batch", 1, "height", None),
    )
    shapeless = model_of([])
    shapeless.graph.input[0].type.tensor_type.ClearField("shape")
    assert read_onnx(shapeless.SerializeToString()).graph.inputs[0].shape is None


@pytest.mark.parametrize(
    "value",
    [0, -3, 2.5, 0.0, "text", (1, -2, 3), (0.5, 1.5), ("a", "b")],
    ids=str,
)
def test_attributes_of_every_plain_kind_survive(value):
    written = list(value) if isinstance(value, tuple) else value
    node = helper.make_node("Op", ["image"], ["result"], **{"it": written})
    (read,) = read_onnx(model_of([node]).SerializeToString()).graph.nodes
    assert read.attributes == {"it": value}


def test_attributes_hold_tensors_and_graphs():
    inner = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "inner", [], [])
    tensor = numpy_helper.from_array(np.arange(3), "t")
    node = helper.make_node("If", ["image"], ["result"], then_branch=inner, value=tensor)
    (read,) = read_onnx(model_of([node]).SerializeToString()).graph.nodes
    assert isinstance(read.attributes["then_branch"], Graph)
    assert read.attributes["then_branch"].nodes[0].op_type == "Relu"
    assert isinstance(read.attributes["value"], Tensor)
    assert read.attributes["value"].array().tolist() == [0, 1, 2]


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
    tensor = helper.make_tensor("t", code, expected.shape, numbers, raw=raw)
    found = read_onnx(model_of([], [tensor]).SerializeToString()).graph.initialisers["t"].array()
    assert found.dtype == expected.dtype
    assert (found == expected).all()


def test_large_tensors_and_unknown_types_are_left_alone():
    large = numpy_helper.from_array(np.zeros(5000, np.float32), "large")
    strings = helper.make_tensor("strings", TensorProto.STRING, [1], ["a"])
    initialisers = read_onnx(model_of([], [large, strings]).SerializeToString()).graph.initialisers
    assert initialisers["large"].array() is None
    assert initialisers["strings"].array() is None


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("raw", [True, False])
def test_a_tensor_with_more_or_fewer_numbers_than_its_shape_says_is_damaged(count, raw):
    tensor = numpy_helper.from_array(np.zeros(count, np.float32), "t")
    if not raw:
        tensor = helper.make_tensor("t", TensorProto.FLOAT, [count], [0.0] * count)
    tensor.dims[0] = 3
    with pytest.raises(ModelError, match=f"holds {count} numbers"):
        read_onnx(model_of([], [tensor]).SerializeToString()).graph.initialisers["t"].array()


def hidden_tensors():
    """Every place of a model that can hold a tensor."""
    relu = helper.make_node("Relu", ["image"], ["result"])
    yield "initialiser", model_of([relu], [outside()])
    yield "attribute", model_of([helper.make_node("Constant", [], ["c"], value=outside()), relu])
    many = helper.make_node("Custom", [], ["c"], domain="x")
    many.attribute.add(name="all", type=onnx.AttributeProto.TENSORS).tensors.append(outside())
    yield "list of tensors", model_of([many, relu])
    inner = helper.make_graph([], "inner", [], [], [outside()])
    yield "subgraph", model_of([helper.make_node("If", ["image"], ["c"], then_branch=inner), relu])
    for number, place in enumerate(("values", "indices")):
        parts = [
            numpy_helper.from_array(np.zeros(1, np.float32), "v"),
            numpy_helper.from_array(np.zeros(1, "i8"), "i"),
        ]
        parts[number] = outside()
        sparse = onnx.SparseTensorProto(values=parts[0], indices=parts[1], dims=[4])
        model = model_of([relu])
        model.graph.sparse_initializer.append(sparse)
        yield f"sparse initialiser's {place}", model
        constant = helper.make_node("Constant", [], ["c"], sparse_value=sparse)
        yield f"sparse attribute's {place}", model_of([constant, relu])
    constant = helper.make_node("Constant", [], ["c"], value=outside())
    function = helper.make_function("own", "F", [], ["c"], [constant], [helper.make_opsetid("", 20)])
    yield "function", model_of([relu], functions=[function])
    model = model_of([relu])
    model.training_info.add().algorithm.initializer.append(outside())
    yield "training", model


@pytest.mark.parametrize(
    ("place", "model"), list(hidden_tensors()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_tensor_outside_the_file_is_found_wherever_it_stands(place, model):
    assert len(read_onnx(model.SerializeToString()).external) == 1
    assert read_onnx(TINY).external == ()


@pytest.mark.parametrize("what", ["metadata key", "initialiser", "attribute", "opset"])
def test_what_stands_twice_is_an_error_and_not_the_last_one(what):
    model = tiny_model()
    doubled = {
        "metadata key": model.metadata_props,
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


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (b"", "no graph"),
        (b"\x08", "truncated"),
        (b"\x08" + b"\x80" * 9 + b"\x02", "longer than 64 bits"),
        (b"\x08" + b"\x80" * 40, "longer than 64 bits"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "truncated"),
        (b"\x38\x01", "field 7 has wire type 0"),
        (b"\x00\x01", "field number 0"),
        (b"\x0b", "wire type 3"),
        (b"\x3a\x00\x72\x04\x0a\x02\xff\xfe", "not UTF-8"),
    ],
)
def test_each_kind_of_damage_has_its_words(damage, said):
    with pytest.raises(ModelError, match=said):
        read_onnx(damage)


def test_graphs_nested_absurdly_deep_are_refused_and_not_followed():
    inner = b""
    for _ in range(3000):
        attribute = b"\x32" + varint(len(inner)) + inner + b"\xa0\x01\x05"
        node = b"\x2a" + varint(len(attribute)) + attribute
        inner = b"\x0a" + varint(len(node)) + node
    with pytest.raises(ModelError, match="nested"):
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


@settings(max_examples=300)
@given(at=st.integers(0, len(TINY) - 1), new=st.binary(max_size=4), gone=st.integers(0, 4))
def test_bytes_put_in_or_taken_out_give_an_analysis_or_a_model_error(at, new, gone):
    with suppress(ModelError):
        assert isinstance(analyse(TINY[:at] + new + TINY[at + gone :]), GraphAnalysis)


@given(data=st.binary(max_size=60))
def test_any_bytes_at_all_give_a_file_or_a_model_error(data):
    with suppress(ModelError):
        assert isinstance(read_onnx(data), OnnxFile)
