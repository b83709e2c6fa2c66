"""Graphs as a whole: inputs, outputs, order, sizes, and what they cost."""

import re

import numpy as np
import onnx
import pytest
from graph_builder import DOUBLE, FLOATS, Net, u_net
from onnx import helper

from isbi_export.graph.analysis.analyse import analyse


def model_with(change, **options):
    proto = onnx.load_from_string(u_net(2, "transposed", **options))
    change(proto.graph)
    return analyse(proto.SerializeToString())


def test_a_function_of_the_model_s_own_does_not_pass_for_the_standard_operation():
    proto = onnx.load_from_string(u_net(2, "transposed"))
    node = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    proto.functions.append(
        helper.make_function("", "Relu", ["x"], ["y"], [node], [helper.make_opsetid("", 20)])
    )
    found = analyse(proto.SerializeToString())
    assert not found.exact
    assert "function" in found.reasons[0]


def test_a_graph_within_the_graph_is_not_followed():
    inner = helper.make_graph([helper.make_node("Identity", ["image"], ["y"])], "inner", [], [])
    net = Net()
    found = net.analyse(net("If", np.array(True), then_branch=inner, else_branch=inner))
    assert "If 'n0' runs another graph" in found.reasons[0]


def test_operations_out_of_order_and_inputs_from_nowhere_are_named():
    assert "out of order" in model_with(lambda graph: graph.node.reverse()).reasons[0]
    assert "'gone'" in model_with(lambda graph: graph.node[3].input.__setitem__(0, "gone")).reasons[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda graph: graph.input.append(helper.make_tensor_value_info("more", 1, [1])), "2 inputs"),
        (lambda graph: graph.input[0].type.tensor_type.shape.dim.pop(), "is no \\(N, C, Y, X\\)"),
        (lambda graph: graph.ClearField("input"), "0 inputs"),
        (lambda graph: graph.ClearField("output"), "0 outputs"),
        (lambda graph: graph.output[0].__setattr__("name", "nowhere"), "nothing computes"),
    ],
)
def test_a_graph_that_is_not_from_image_to_image_is_named_and_gives_no_figures(change, said):
    found = model_with(change)
    assert not found.exact
    assert re.search(said, found.reasons[0])
    assert (found.stride, found.halo) == (1, 0)


def test_initialisers_that_are_inputs_too_are_no_images():
    def old_style(graph):
        for tensor in graph.initializer:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))

    assert model_with(old_style).exact


def test_a_fixed_image_size_is_followed_but_proves_nothing_for_tiles():
    found = analyse(u_net(2, "transposed", size=(1, 1, 64, "width")))
    assert not found.exact
    assert "Y axis of input 'image' is fixed at 64" in found.reasons[0]
    assert len(found.reasons) == 1
    assert (found.stride, found.halo) == (4, 24)


def test_a_fixed_batch_of_one_changes_nothing():
    found = analyse(u_net(2, "transposed", size=(1, 1, "height", "width")))
    assert found.exact, found.reasons
    assert found.halo == 24


@pytest.mark.parametrize(("multiple", "exact"), [(2, True), (4, True), (8, False), (12, False)])
def test_padding_to_a_multiple_within_the_graph_is_exact_only_where_tiles_are_never_padded(multiple, exact):
    net = Net()
    multiple = np.array([multiple])
    height = net("Shape", "image", start=2, end=3)
    missing = net("Mod", net("Sub", multiple, net("Mod", height, multiple)), multiple)
    padded = net("Pad", "image", net("Concat", np.array([0]), missing, axis=0), "", np.array([2]))
    x = net(
        "Resize",
        net.conv(net("MaxPool", padded, kernel_shape=[4, 4], strides=[4, 4])),
        "",
        DOUBLE * [1, 1, 2, 2],
    )
    found = net.analyse(net("Slice", x, np.array([0]), height, np.array([2])))
    assert found.exact == exact
    assert found.stride == 4
    if not exact:
        assert "image's size" in found.reasons[0]


def test_stride_counts_paths_that_a_wider_one_hides():
    """The pooled path looks less far than the wide one beside it, and still fixes the grid."""
    net = Net()
    wide = net.conv("image", kernel=(51, 51))
    narrow = net(
        "Resize", net("MaxPool", "image", kernel_shape=[4, 4], strides=[4, 4]), "", DOUBLE * [1, 1, 2, 2]
    )
    found = net.analyse(net("Add", wide, narrow))
    assert (found.exact, found.stride, max(found.context)) == (True, 4, 25)


def test_operations_beside_the_way_to_the_output_do_not_count():
    net = Net()
    net("GlobalAveragePool", "image")
    assert net.analyse(net.conv("image")).exact


def test_sides_are_told_apart():
    net = Net()
    x = net.conv("image", kernel=(4, 6), pads=[3, 1, 0, 4])
    assert net.analyse(x).context == (3, 0, 1, 4)


def test_elements_that_a_tile_lacks_count_even_if_their_pixels_lie_within():
    """A shift to the right, then a 3x3 convolution: its last column reads what the tile has cut off."""
    net = Net()
    pads, start, end = [0, 0, 0, 2, 0, 0, 0, 0], np.array([0]), np.array([-2])
    shifted = net("Slice", net("Pad", "image", np.array(pads)), start, end, np.array([3]))
    found = net.analyse(net.conv(shifted))
    assert found.exact
    assert found.context == (1, 1, 3, 1)


def test_an_element_between_the_kernels_of_a_transposed_convolution_depends_on_no_pixel():
    net = Net()
    kernel, options = np.ones((1, 1, 1, 1), FLOATS), {"strides": [4, 4], "output_padding": [3, 3]}
    found = net.analyse(
        net("ConvTranspose", net("MaxPool", "image", kernel_shape=[4, 4], strides=[4, 4]), kernel, **options)
    )
    assert (found.exact, found.stride, found.context) == (True, 4, (0, 0, 0, 0))


def test_operations_and_memory_per_pixel_are_those_counted_by_hand():
    net = Net()
    x = net.conv("image", 1, 8)  # 2 * 9 * 8
    x = net("Relu", x)
    x = net.conv(net("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 8, 8, group=8)  # 2 * 9 * 8 / 4
    x = net.conv(x, 8, 4, (2, 2), op="ConvTranspose", strides=[2, 2], pads=[0] * 4)  # 2 * 8 * 4 * 4 / 4
    found = net.analyse(net.conv(x, 4, 1, (1, 1)))  # 2 * 4
    assert found.flops_per_pixel == 144 + 36 + 64 + 8
    assert found.activation_bytes_per_pixel == 4 * (
        8 + 2
    )  # the first level and its pooling; ReLU is in place


def test_memory_counts_a_skip_until_it_is_read():
    found = analyse(u_net(3, "transposed"))
    assert found.activation_bytes_per_pixel == 4 * (2 + 2 + 4)  # skip and upsampled, and what joins them


def test_numbers_of_a_section_as_a_whole_are_no_image():
    plain = u_net(2, "transposed")
    raw = onnx.load_from_string(plain)
    graph = raw.graph
    image = graph.input[0]
    for name in ("mean", "inverse_std"):
        graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 1, 1, 1]))
    for node in graph.node:
        node.input[:] = ["normalised" if name == image.name else name for name in node.input]
    graph.node.insert(0, helper.make_node("Mul", ["difference", "inverse_std"], ["normalised"]))
    graph.node.insert(0, helper.make_node("Sub", ["grey", "mean"], ["difference"]))
    graph.node.insert(0, helper.make_node("Cast", [image.name], ["grey"], to=onnx.TensorProto.FLOAT))
    image.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    found, expected = analyse(raw.SerializeToString()), analyse(plain)
    assert (found.exact, found.reasons) == (True, ())
    assert (found.stride, found.context, found.halo) == (expected.stride, expected.context, expected.halo)
