"""Stride, context and locality read off a graph: by known figures, and by what tiles and whole images really give."""

import contextlib
import dataclasses
import io
import logging
import re
import warnings
from math import ceil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F

from isbi_export.graph.analysis.analyse import analyse
from isbi_export.graph.analysis.onnxfile import read_onnx
from isbi_infer import ModelError, Segmenter
from isbi_infer.model.contract import CONTRACT_KEY, contract_of
from isbi_infer.model.opening import open_model
from isbi_models import default_model
from isbi_train.config import NetworkConfig
from isbi_train.networks.network import UNet


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


FLOATS = np.float32
TORCHS = {"coordinate_transformation_mode": "asymmetric"}


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


@pytest.mark.parametrize("folding", ["none", "strided conv", "SpaceToDepth", "slices", "reshape"])
@pytest.mark.parametrize("upsample", ["transposed", "nearest", "linear", "sizes", "depth to space"])
@pytest.mark.parametrize("levels", [2, 3, 4])
def test_u_nets_have_the_known_context_halo_and_stride(levels, upsample, folding):
    found = analyse(u_net(levels, upsample, folding))
    factor = 1 if folding == "none" else 2
    context = factor * ((7 if upsample == "linear" else 6) * 2**levels - 2)
    assert found.exact, found.reasons
    assert found.stride == factor * 2**levels
    assert found.context == (context,) * 4
    assert found.halo == ceil(context / found.stride) * found.stride


# --- what PyTorch's exporters write -----------------------------------------------------------------------------------


def exported(module, *, dynamo=False, opset=17):
    """Export a module of one channel with dynamic batch, height and width."""
    example, file = torch.zeros(2, 1, 32, 48), io.BytesIO()
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if dynamo:
            batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
            shapes = ({0: batch, 2: 16 * height, 3: 16 * width},)
            program = torch.onnx.export(
                module.eval(), (example,), dynamo=True, opset_version=20, dynamic_shapes=shapes, verbose=False
            )
            model = program.model_proto.SerializeToString()
        else:
            axes = {"image": {0: "batch", 2: "height", 3: "width"}}
            torch.onnx.export(
                module.eval(),
                (example,),
                file,
                dynamo=False,
                opset_version=opset,
                input_names=["image"],
                dynamic_axes=axes,
            )
            model = file.getvalue()
    logger.setLevel(level)
    return model


@pytest.fixture(scope="session")
def dynamo_u_net():
    """Give the project's own kind of network as the new exporter writes it, with pixel_unshuffle as reshapes."""
    return exported(UNet(NetworkConfig(base=2, depth=3, unshuffle=2)), dynamo=True)


def test_the_new_exporter_s_reshapes_are_followed(dynamo_u_net):
    found = analyse(dynamo_u_net)
    assert (found.exact, found.stride, found.halo) == (True, 16, 96), found.reasons
    assert found.context == (92,) * 4


@pytest.mark.parametrize(
    ("depth", "unshuffle", "context", "stride"),
    [(4, 1, 94, 16), (3, 2, 92, 16), (2, 1, 22, 4), (1, 2, 16, 4)],
)
def test_the_project_s_networks_have_the_figures_of_the_design(depth, unshuffle, context, stride):
    found = analyse(exported(UNet(NetworkConfig(base=2, depth=depth, unshuffle=unshuffle))))
    assert (found.exact, found.stride) == (True, stride), found.reasons
    assert found.context == (context,) * 4


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("size", [True, False])
@pytest.mark.parametrize(("mode", "context"), [("nearest", 10), ("bilinear", 12)])
def test_interpolate_by_factor_and_to_a_size_are_understood(mode, context, size, opset):
    class Up(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(1, 1, 3, padding=1) for _ in range(3))

        def forward(self, x):
            y = self.convs[1](F.max_pool2d(self.convs[0](x), 2))
            target = {"size": x.shape[-2:]} if size else {"scale_factor": 2}
            return self.convs[2](F.interpolate(y, **target, mode=mode))

    found = analyse(exported(Up(), opset=opset))
    assert (found.exact, found.stride) == (True, 2), found.reasons
    assert found.context == analyse(manual_up(mode)).context


def manual_up(mode):
    net = Net()
    x = net.conv(net("MaxPool", net.conv("image"), kernel_shape=[2, 2], strides=[2, 2]))
    linear = {"mode": "linear" if mode == "bilinear" else "nearest"}
    return net.model(net.conv(net("Resize", x, "", np.array([1, 1, 2, 2], FLOATS), **linear)))


class Between(nn.Module):
    """Some layers between two convolutions."""

    def __init__(self, *layers, channels=4):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), *layers, nn.Conv2d(channels, 1, 1))

    def forward(self, x):
        return self.layers(x)


class SqueezeAndExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(4, 4)

    def forward(self, x):
        weights = torch.sigmoid(self.dense(F.adaptive_avg_pool2d(x, 1).flatten(1)))
        return x * weights[:, :, None, None]


class Tokens(nn.Module):
    """Self-attention over all pixels."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.InstanceNorm2d(4), "InstanceNormalization .* normalises over the whole image"),
        (nn.GroupNorm(2, 4), "flattens the image"),
        (SqueezeAndExcite(), "GlobalAveragePool .* looks at the whole image"),
        (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), "align_corners"),
        (Tokens(), "flattens the image"),
        (Lambda(lambda x: x - x.mean((2, 3), keepdim=True)), "ReduceMean .* looks at the whole image"),
        (Lambda(lambda x: x / x.amax(3, keepdim=True)), "ReduceMax .* looks at the whole X axis"),
        (Lambda(lambda x: x - x.mean(0, keepdim=True)), "ReduceMean .* looks at the whole batch"),
        (Lambda(lambda x: torch.softmax(x, 3)), "Softmax .* normalises over the whole X axis"),
        (Lambda(lambda x: x.flip(3)), "mirrors the image"),
        (Lambda(lambda x: x.transpose(2, 3)), "shape"),
        (Lambda(lambda x: x + torch.cumsum(x, 2)), "CumSum"),
        (Lambda(lambda x: F.interpolate(x, size=(64, 64))), "to a fixed size"),
        (Lambda(lambda x: x.roll(3, 2)), "side by side"),
        (
            nn.LayerNorm([4, 32, 48]),
            "fixed numbers that vary along the Y axis|normalises over the whole image",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_looks_at_the_whole_image_is_named(layer, said):
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.layer, self.after = nn.Conv2d(1, 4, 3, padding=1), layer, nn.Conv2d(4, 1, 1)

        def forward(self, x):
            return self.after(self.layer(self.before(x)))

    found = analyse(exported(Module()))
    assert not found.exact
    assert any(re.search(said, reason) for reason in found.reasons), found.reasons


@pytest.mark.parametrize(
    ("layers", "stride", "context"),
    [
        ([nn.Conv2d(4, 4, 3, padding=4, dilation=4)], 1, 5),
        ([nn.Conv2d(4, 4, 7, padding=3, groups=4), nn.GELU(), nn.Hardswish(), nn.PReLU(4)], 1, 4),
        ([nn.BatchNorm2d(4), nn.Dropout(), nn.SiLU(), nn.ELU(), nn.Softmax(1)], 1, 1),
        ([nn.Conv2d(4, 4, 4, stride=4), nn.ConvTranspose2d(4, 4, 4, stride=4)], 4, 1),
        ([nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.Upsample(scale_factor=2)], 2, 2),
        ([nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(2), nn.Upsample(scale_factor=2)], 2, 2),
        ([nn.PixelUnshuffle(2), nn.Conv2d(16, 16, 3, padding=1), nn.PixelShuffle(2)], 2, 3),
        ([nn.ReflectionPad2d(3), nn.Conv2d(4, 4, 7)], 4, 4),
        ([nn.ReplicationPad2d((3, 1, 2, 0)), nn.Conv2d(4, 4, (3, 5))], 1, 4),
        ([Lambda(lambda x: x + torch.where(x > 0, x, torch.exp(x)).clamp(-1, 1))], 1, 1),
        ([Lambda(lambda x: x.permute(0, 2, 3, 1)), nn.LayerNorm(4), nn.Linear(4, 4)], 1, 1),
        ([Lambda(lambda x: x - x.mean(1, keepdim=True))], 1, 1),
        ([Lambda(lambda x: torch.cat([x.chunk(2, 1)[1], x[:, :2]], 1))], 1, 1),
        ([Lambda(lambda x: F.interpolate(x, scale_factor=4, mode="bicubic")), nn.AvgPool2d(4)], 1, 3),
        ([Lambda(lambda x: x * torch.ones_like(x))], 1, 1),
    ],
)
def test_local_layers_are_followed_exactly(layers, stride, context):
    if isinstance(layers[-1], nn.Linear):
        layers = [*layers, Lambda(lambda x: x.permute(0, 3, 1, 2))]
    found = analyse(exported(Between(*layers)))
    assert found.exact, found.reasons
    assert found.stride == stride
    assert max(found.context) == context


@pytest.mark.parametrize(
    ("layers", "stride"),
    [
        ([nn.ReflectionPad2d(1), nn.Conv2d(4, 4, 3)], 2),
        ([nn.ReflectionPad2d((1, 2, 4, 0)), nn.Conv2d(4, 4, (5, 4))], 5),
        ([nn.AvgPool2d(2), nn.ReflectionPad2d(3), nn.Conv2d(4, 4, 7), nn.Upsample(scale_factor=2)], 8),
        ([nn.AvgPool2d(4), nn.ReflectionPad2d(1), nn.Conv2d(4, 4, 3), nn.Upsample(scale_factor=4)], 8),
        # after the first there are more elements than the image has
        ([nn.ReflectionPad2d(2), nn.ReflectionPad2d(4), nn.Conv2d(4, 4, 13)], 3),
    ],
)
def test_one_stride_is_enough_to_be_mirrored_and_one_period_less_is_not(layers, stride):
    model = exported(Between(*layers))
    found = analyse(model)
    assert found.exact, found.reasons
    assert (found.stride, found.halo % stride) == (stride, 0)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    period = next((layer.kernel_size for layer in layers if isinstance(layer, nn.AvgPool2d)), 1)

    def run(side):
        return session.run(None, {session.get_inputs()[0].name: np.ones((1, 1, side, side), FLOATS)})[0]

    assert run(stride).shape == (1, 1, stride, stride)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="Pad reflect"):
        run(stride - period)


# --- single operations, of every version ------------------------------------------------------------------------------


DOUBLE, TRIPLE, HALF = (np.array([1, 1, factor, factor], FLOATS) for factor in (2, 3, 0.5))
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


def test_the_released_model_keeps_its_contract():
    model = default_model().path.read_bytes()
    found, contract = analyse(model), contract_of(read_onnx(model).metadata)
    assert found.exact
    assert (found.stride, found.halo) == (contract.stride, contract.halo)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"halo": 80}, "halo 80, the graph needs 96"),
        ({"stride": 8}, "stride 8, the graph repeats every 16 pixels"),
        ({"stride": 24}, "stride 24, the graph repeats every 16 pixels"),
        ({"stride": 32, "halo": 96}, None),
        ({"halo": 112}, None),
        ({"exact": False, "not_exact_because": ("a test",)}, None),
    ],
)
def test_a_contract_that_promises_less_than_the_graph_needs_is_refused_at_load(tmp_path, changes, said):
    proto = onnx.load_from_string(default_model().path.read_bytes())
    contract = contract_of(read_onnx(proto.SerializeToString()).metadata)
    helper.set_model_props(proto, {CONTRACT_KEY: dataclasses.replace(contract, **changes).to_json()})
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    if said is None:
        assert open_model(path, "cpu").contract == dataclasses.replace(contract, **changes)
        return
    with pytest.raises(ModelError, match=said) as caught:
        Segmenter(path, provider="cpu")
    assert str(path) in str(caught.value)


def test_a_global_operation_under_an_exact_contract_is_refused_at_load(tmp_path):
    proto = onnx.load_from_string(default_model().path.read_bytes())
    for node in proto.graph.node:
        node.input[:] = ["normalised" if name == "image" else name for name in node.input]
    ones = [numpy_helper.from_array(np.ones(1, FLOATS), name) for name in ("scale", "bias")]
    proto.graph.initializer.extend(ones)
    norm = helper.make_node("InstanceNormalization", ["image", "scale", "bias"], ["normalised"], "norm")
    proto.graph.node.insert(0, norm)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(
        ModelError, match="says exact, the graph is not: InstanceNormalization 'norm' normalises"
    ):
        Segmenter(path, provider="cpu")


# --- what really happens: random chains of operations along one axis, in whole numbers, so never rounded --------------


@st.composite
def chains(draw):
    """Give a model of one image to one image, that looks along one axis only."""
    axis = draw(st.sampled_from([2, 3]))
    net = Net()

    def along(value, other=1):
        return [value, other] if axis == 2 else [other, value]

    def window(stride, largest):
        kernel = draw(st.integers(1, largest))
        dilation = draw(st.sampled_from([1, 1, 2]))
        total = max((kernel - 1) * dilation + 1 - stride, 0)
        before = draw(st.integers(0, total))
        pads = [*along(before, 0), *along(total - before, 0)]
        return {"pads": pads, "strides": along(stride), "dilations": along(dilation)}, along(kernel)

    def uneven(kernel):
        """Give different weights, or neighbours that read one element would be equal by chance."""
        return np.resize(np.array([1, 2], FLOATS), (1, 1, *kernel))

    def step(x, stride):
        kind = draw(st.sampled_from(["Conv", "MaxPool", "AveragePool", "Slice"] if stride > 1 else SAME_SIZE))
        if kind == "Conv":
            options, kernel = window(stride, 5)
            return net("Conv", x, uneven(kernel), **options)
        if kind == "MaxPool":
            options, kernel = window(stride, 4)
            if kernel[axis - 2] - 1 < max(options["pads"]) or options["dilations"] != [1, 1]:
                options |= {"pads": [0] * 4, "dilations": [1, 1]}
                kernel = along(stride)
            return net("MaxPool", x, kernel_shape=kernel, **options)
        if kind == "AveragePool":
            return net("AveragePool", x, kernel_shape=along(stride), strides=along(stride))
        if kind == "Slice":
            starts = np.array([draw(st.integers(0, stride - 1))])
            return net("Slice", x, starts, np.array([2**60]), np.array([axis]), np.array([stride]))
        if kind == "shift":
            before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
            mode = draw(st.sampled_from(["constant", "edge"]))
            padded = net("Pad", x, np.array([before, after]), "", np.array([axis]), mode=mode)
            start = draw(st.integers(0, before + after))
            end = np.array([start - before - after or 2**60])
            return net("Slice", padded, np.array([start]), end, np.array([axis]))
        return net("Relu", x)

    def up(x, factor):
        kind = draw(st.sampled_from(["ConvTranspose", "nearest", "linear"]))
        if kind == "ConvTranspose":
            kernel, more = draw(st.integers(factor, 5)), draw(st.integers(0, factor - 1))
            total = kernel - factor + more
            before = draw(st.integers(0, total))
            return net(
                "ConvTranspose",
                x,
                uneven(along(kernel)),
                strides=along(factor),
                pads=[*along(before, 0), *along(total - before, 0)],
                output_padding=along(more, 0),
            )
        mode = kind if factor != 3 else "nearest"
        x = net("Resize", x, "", np.array([1, 1, *along(factor)], FLOATS), mode=mode)
        return net("Conv", x, uneven(along(2)), pads=[*along(1, 0), 0, 0])

    x, factors, skips = "image", [], {}
    for _ in range(draw(st.integers(1, 5))):
        scale = tuple(factors)
        if skips.get(scale) and draw(st.booleans()):
            x = net("Add", x, draw(st.sampled_from(skips[scale])))
        skips.setdefault(scale, []).append(x)
        move = draw(st.sampled_from(["same", "same", "down", "up"]))
        if move == "down" and len(factors) < 2:
            factors.append(draw(st.sampled_from([2, 2, 3])))
            x = step(x, factors[-1])
        elif move == "up" and factors:
            x = up(x, factors.pop())
        else:
            x = step(x, 1)
    while factors:
        x = up(x, factors.pop())
    return axis, net.model(x)


SAME_SIZE = ["Conv", "Conv", "MaxPool", "shift", "Relu"]


def runner(model, axis):
    """Run the model on lines of numbers."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(line):
        batch_NCYX = line.astype(FLOATS)[None, None, :, None]
        batch_NCYX = batch_NCYX if axis == 2 else batch_NCYX.swapaxes(2, 3)
        return session.run(None, {"image": batch_NCYX})[0].reshape(-1)

    return run


@settings(max_examples=150)
@given(chain=chains(), data=st.data())
def test_tiles_with_the_halo_give_the_whole_line_and_with_a_stride_less_they_do_not(chain, data):
    axis, model = chain
    found = analyse(model)
    assert found.exact, found.reasons
    run, stride = runner(model, axis), found.stride
    before, after = found.context[:2] if axis == 2 else found.context[2:]
    near = 3 * stride * ceil((before + after + 8) / stride)
    length, cut = 3 * near, near  # far from both ends of the line

    def kept(line, halo, *, from_start):
        """Give what a tile keeps that begins or ends at the cut, and what the whole line gives there."""
        whole = run(line)
        if from_start:
            return run(line[cut:])[halo:-near], whole[cut + halo : -near]
        return run(line[: length - cut])[near : length - cut - halo], whole[near : length - cut - halo]

    seed = data.draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed).integers(0, 8, length)
    for from_start, context in ((True, before), (False, after)):
        halo = ceil(context / stride) * stride
        tile, whole = kept(random, halo, from_start=from_start)
        assert (tile == whole).all()
        if not halo:
            continue
        # What lies beyond the cut is all there is, or the larger the farther.
        beyond = np.arange(length) < cut if from_start else np.arange(length) >= length - cut
        slope = np.arange(length)[::-1] if from_start else np.arange(length)
        tighter = [kept(line, halo - stride, from_start=from_start) for line in (beyond, slope)]
        assert any((tile != whole).any() for tile, whole in tighter)


@settings(max_examples=60)
@given(chain=chains())
def test_no_pixel_beyond_the_context_counts(chain):
    axis, model = chain
    found = analyse(model)
    run, stride = runner(model, axis), found.stride
    before, after = found.context[:2] if axis == 2 else found.context[2:]
    line = stride * ceil((before + after + 8) / stride) * 2
    place = np.arange(2 * line)
    assert not run(place < line - before)[line:].any()
    assert not run(place >= line + after)[:line].any()


@settings(max_examples=60)
@given(chain=chains(), data=st.data())
def test_shifting_by_the_stride_shifts_the_result(chain, data):
    axis, model = chain
    found = analyse(model)
    run, stride = runner(model, axis), found.stride
    margin = stride * ceil((sum(found.context) + 8) / stride)
    line = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 1000, 4 * margin)
    shifted = run(np.roll(line, stride))
    assert (shifted[margin + stride : -margin] == run(line)[margin : -margin - stride]).all()
