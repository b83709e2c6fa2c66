"""Graphs for the tests of the analysis, written operation by operation."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from isbi_export.graph.analysis.analyse import analyse

FLOATS = np.float32
TORCHS = {"coordinate_transformation_mode": "asymmetric"}
DOUBLE, TRIPLE, HALF = (np.array([1, 1, factor, factor], FLOATS) for factor in (2, 3, 0.5))


class Net:
    """Builds a graph operation by operation; every kernel is positive, so that nothing cancels."""

    def __init__(self, opset=20, size=("batch", 1, "height", "width"), result=None):
        self.opset, self.size, self.result = opset, size, result or ("batch", None, None, None)
        self.nodes, self.initialisers = [], []

    def __call__(self, op, *inputs, outputs=1, domain=None, **attributes):
        names = [self.constant(x) if not isinstance(x, str) else x for x in inputs]
        results = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        node = helper.make_node(op, names, results, f"n{len(self.nodes)}", domain=domain, **attributes)
        self.nodes.append(node)
        return results[0] if outputs == 1 else results

    def constant(self, value):
        name = f"c{len(self.initialisers)}"
        self.initialisers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def conv(self, x, before=1, after=1, kernel=(3, 3), *, op="Conv", group=1, pads=None, **attributes):
        weight = np.ones((after, before // group, *kernel), np.float32)
        if op == "ConvTranspose":
            weight = np.ones((before, after // group, *kernel), np.float32)
        pads = [k // 2 for k in kernel] * 2 if pads is None else pads
        return self(op, x, weight, group=group, pads=pads, **attributes)

    def model(self, output):
        graph = helper.make_graph(
            [*self.nodes, helper.make_node("Identity", [output], ["result"], "end")],
            "g",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, self.size)],
            [helper.make_tensor_value_info("result", TensorProto.FLOAT, self.result)],
            self.initialisers,
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()

    def analyse(self, output):
        return analyse(self.model(output))


def u_net(levels, upsample, folding="none", **options):
    """Give the graph of a U-Net with two 3x3 convolutions a level."""
    net = Net(**options)

    def block(x, before, after=2):
        return net.conv(net("Relu", net.conv(x, before, after)), after, after)

    def up(x):
        if upsample == "transposed":
            return net.conv(x, 2, 2, (2, 2), op="ConvTranspose", strides=[2, 2], pads=[0] * 4)
        if upsample == "sizes":
            shape = net("Shape", x)
            space = net("Mul", net("Slice", shape, np.array([2]), np.array([4])), np.array([2, 2]))
            sizes = net("Concat", net("Slice", shape, np.array([0]), np.array([2])), space, axis=0)
            return net("Resize", x, "", "", sizes, mode="nearest", nearest_mode="floor", **TORCHS)
        if upsample == "depth to space":
            return net("DepthToSpace", net.conv(x, 2, 8, (1, 1)), blocksize=2)
        mode = "nearest" if upsample == "nearest" else "linear"
        return net("Resize", x, "", np.array([1, 1, 2, 2], FLOATS), mode=mode)

    x, channels = fold(net, "image", folding)
    skips, channels_out = [], channels
    for _ in range(levels):
        x = block(x, channels)
        skips.append(x)
        x, channels = net("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 2
    x = block(x, channels)
    for skip in reversed(skips):
        x = block(net("Concat", skip, up(x), axis=1), 4)
    return net.model(unfold(net, net.conv(x, 2, channels_out, (1, 1)), folding))


def fold(net, x, folding):
    """Fold 2x2 pixels into channels, in one of the ways that exporters write it."""
    if folding == "none":
        return x, 1
    if folding == "strided conv":
        return net.conv(x, 1, 4, (2, 2), strides=[2, 2], pads=[0] * 4), 4
    if folding == "SpaceToDepth":
        return net("SpaceToDepth", x, blocksize=2), 4
    if folding == "slices":
        end, axes, step = np.array([2**60, 2**60]), np.array([2, 3]), np.array([2, 2])
        corners = [np.array([y, x]) for y in (0, 1) for x in (0, 1)]
        return net("Concat", *(net("Slice", x, corner, end, axes, step) for corner in corners), axis=1), 4
    batch, rows, columns = sizes_of(net, x)
    rows, columns = (net("Div", size, np.array([2])) for size in (rows, columns))
    six = net("Concat", batch, np.array([1]), rows, np.array([2]), columns, np.array([2]), axis=0)
    x = net("Transpose", net("Reshape", x, six), perm=[0, 1, 3, 5, 2, 4])
    return net("Reshape", x, net("Concat", batch, np.array([4]), rows, columns, axis=0)), 4


def unfold(net, x, folding):
    if folding == "none":
        return x
    if folding != "reshape":
        return net("DepthToSpace", x, blocksize=2, mode="CRD")
    batch, rows, columns = sizes_of(net, x)
    six = net("Concat", batch, np.array([-1, 2, 2]), rows, columns, axis=0)
    x = net("Transpose", net("Reshape", x, six), perm=[0, 1, 4, 2, 5, 3])
    rows, columns = (net("Mul", size, np.array([2])) for size in (rows, columns))
    return net("Reshape", x, net("Concat", batch, np.array([1]), rows, columns, axis=0))


def sizes_of(net, x):
    shape = net("Shape", x)
    return [net("Gather", shape, np.array([dim])) for dim in (0, 2, 3)]
