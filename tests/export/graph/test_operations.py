"""Single operations, of every version: followed exactly, or named."""

import re

import numpy as np
import pytest
from graph_builder import DOUBLE, FLOATS, HALF, TORCHS, TRIPLE, Net

ONES_4, ONES_5 = np.ones((1, 1, 4, 4), FLOATS), np.ones((1, 1, 5, 5), FLOATS)
ZERO = np.uint8(0)


def pooled(net, x):
    return net("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])


@pytest.mark.parametrize(
    ("opset", "build", "stride", "context"),
    [
        (8, lambda n, x: n("Upsample", pooled(n, x), scales=[1.0, 1.0, 2.0, 2.0], mode="nearest"), 2, 0),
        (9, lambda n, x: n("Upsample", pooled(n, x), DOUBLE, mode="nearest"), 2, 0),
        (9, lambda n, x: n("Upsample", pooled(n, x), DOUBLE, mode="linear"), 2, 2),
        (10, lambda n, x: n("Resize", pooled(n, x), DOUBLE, mode="linear"), 2, 2),
        (13, lambda n, x: n("Resize", pooled(n, x), "", DOUBLE, mode="linear"), 2, 2),
        (18, lambda n, x: n("Resize", pooled(n, x), "", DOUBLE[2:], axes=[2, 3], mode="cubic"), 2, 4),
        (20, lambda n, x: n("Resize", pooled(n, x), "", DOUBLE, mode="linear", **TORCHS), 2, 2),
        (20, lambda n, x: n("Resize", n("Resize", x, "", HALF), "", DOUBLE), 2, 0),
        (20, lambda n, x: n("Resize", n("Resize", x, "", HALF, mode="linear"), "", DOUBLE), 2, 0),
        (
            20,
            lambda n, x: n("AveragePool", n("Resize", x, "", TRIPLE), kernel_shape=[3, 3], strides=[3, 3]),
            1,
            0,
        ),
        (
            8,
            lambda n, x: n(
                "Slice", n("Pad", x, pads=[0, 0, 2, 2, 0, 0, 1, 1]), axes=[2, 3], starts=[1, 1], ends=[-2, -2]
            ),
            1,
            1,
        ),
        (
            20,
            lambda n, x: n.conv(
                n("Pad", x, np.array([2, 2, 2, 2]), "", np.array([2, -1])), kernel=(5, 5), pads=[0] * 4
            ),
            1,
            2,
        ),
        (12, lambda n, x: n("Softmax", n.conv(x, 1, 3), axis=1), None, "normalises over the whole image"),
        (13, lambda n, x: n.conv(n("Softmax", n.conv(x, 1, 3), axis=1), 3), 1, 2),
        (13, lambda n, x: n("Softmax", x), None, "normalises over the whole X axis"),
        (13, lambda n, x: n("ReduceMax", n.conv(x, 1, 3), axes=[1], keepdims=1), 1, 1),
        (18, lambda n, x: n("ReduceMax", n.conv(x, 1, 3), np.array([1])), 1, 1),
        (
            20,
            lambda n, x: n(
                "Unsqueeze", n("ReduceMax", n.conv(x, 1, 3), np.array([1]), keepdims=0), np.array([1])
            ),
            1,
            1,
        ),
        (20, lambda n, x: n("ArgMax", n.conv(x, 1, 3), axis=1), 1, 1),
        (20, lambda n, x: n("Conv", x, ONES_5, auto_pad="SAME_UPPER"), 1, 2),
        (
            20,
            lambda n, x: n(
                "ConvTranspose",
                n("Conv", x, ONES_4, auto_pad="SAME_LOWER", strides=[2, 2]),
                ONES_4,
                auto_pad="SAME_UPPER",
                strides=[2, 2],
            ),
            2,
            3,
        ),
        (
            20,
            lambda n, x: n(
                "ConvTranspose", pooled(n, x), ONES_5, strides=[2, 2], pads=[2] * 4, output_padding=[1, 1]
            ),
            2,
            2,
        ),
        (
            20,
            lambda n, x: n("ConvTranspose", pooled(n, x), ONES_4, strides=[2, 2], output_shape=[64, 64]),
            None,
            "ConvTranspose|shape",
        ),
        (
            20,
            lambda n, x: n("MaxPool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[2] * 4, dilations=[2, 2]),
            1,
            2,
        ),
        (
            20,
            lambda n, x: n(
                "Resize", n("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), "", DOUBLE
            ),
            2,
            1,
        ),
        (
            20,
            lambda n, x: n.conv(
                n("DequantizeLinear", n("QuantizeLinear", x, FLOATS(0.1), ZERO), FLOATS(0.1), ZERO)
            ),
            1,
            1,
        ),
        (
            20,
            lambda n, x: n(
                "Conv",
                x,
                n("DequantizeLinear", np.ones((1, 1, 3, 3), np.uint8), FLOATS(0.1), ZERO),
                pads=[1] * 4,
            ),
            1,
            1,
        ),
        (
            20,
            lambda n, x: n(
                "DequantizeLinear",
                n(
                    "QLinearConv",
                    n("QuantizeLinear", x, FLOATS(0.1), ZERO),
                    FLOATS(0.1),
                    ZERO,
                    np.ones((1, 1, 3, 3), np.uint8),
                    FLOATS(1),
                    ZERO,
                    FLOATS(1),
                    ZERO,
                    pads=[1] * 4,
                ),
                FLOATS(1),
                ZERO,
            ),
            1,
            1,
        ),
        (
            20,
            lambda n, x: n("FusedConv", x, ONES_5, pads=[2] * 4, activation="Relu", domain="com.microsoft"),
            1,
            2,
        ),
        (20, lambda n, x: n("LRN", n.conv(x, 1, 3), size=3), 1, 1),
        (
            20,
            lambda n, x: n(
                "Where",
                n("Greater", x, FLOATS(0)),
                n("Pow", x, FLOATS(2)),
                n("Clip", x, FLOATS(0), FLOATS(1)),
            ),
            1,
            0,
        ),
        (20, lambda n, x: n("Add", x, n("Expand", FLOATS(1), n("Shape", x))), 1, 0),
        (20, lambda n, x: n("Add", x, n("ConstantOfShape", n("Shape", x))), 1, 0),
        (20, lambda n, x: n("Add", x, np.ones((1, 1, 1, 7), FLOATS)), None, "shapes"),
        (20, lambda n, x: n("Einsum", x, equation="nchw->nchw"), None, "Einsum .* not known"),
        (20, lambda n, x: n("Relu", x, domain="made.up"), None, "Relu .* not known"),
        (20, lambda n, x: n("NonZero", x), None, "NonZero"),
        (
            20,
            lambda n, x: n("Pad", x, np.array([0, 0, 1, 1, 0, 0, 1, 1]), mode="wrap"),
            None,
            "wraps around the whole image",
        ),
        (
            20,
            lambda n, x: n("BatchNormalization", x, *[np.ones(1, FLOATS)] * 4, training_mode=1),
            None,
            "training",
        ),
        (20, lambda n, x: n("Dropout", x, FLOATS(0.5), np.array(True)), None, "training"),
        (
            20,
            lambda n, x: n("Resize", n("Resize", x, "", TRIPLE, mode="linear"), "", 1 / TRIPLE),
            None,
            "rounding",
        ),
        (
            20,
            lambda n, x: n("Resize", n("Resize", x, "", HALF, antialias=1, mode="linear"), "", DOUBLE),
            None,
            "smooths",
        ),
        (20, lambda n, x: n("Slice", x, np.array([1]), np.array([2**60]), np.array([3])), None, "shape"),
        (
            20,
            lambda n, x: n(
                "Pad",
                n("Slice", x, np.array([-9]), np.array([2**60]), np.array([2])),
                np.array([0, 0, 9, 0, 0, 0, 0, 0]),
            ),
            None,
            "shape",
        ),
        (
            20,
            lambda n, x: n("MatMul", x, n("Transpose", x, perm=[0, 1, 3, 2])),
            None,
            "both depend on the image",
        ),
        (
            20,
            lambda n, x: n("Conv", x, n("Slice", x, np.array([0, 0]), np.array([3, 3]), np.array([2, 3]))),
            None,
            "kernel that is computed",
        ),
        (20, lambda n, x: n("MaxPool", x, kernel_shape=[5000, 1], strides=[5000, 1]), None, "4096"),
    ],
)
def test_operations_of_every_version_are_followed_or_named(opset, build, stride, context):
    net = Net(opset)
    found = net.analyse(build(net, "image"))
    if stride is None:
        assert not found.exact
        assert any(re.search(context, reason) for reason in found.reasons), found.reasons
    else:
        assert found.exact, found.reasons
        assert (found.stride, max(found.context)) == (stride, context)
