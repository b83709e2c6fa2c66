"""What PyTorch's exporters write is understood, and what looks at the whole image is named."""

import contextlib
import io
import logging
import re
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from graph_builder import FLOATS, Net
from torch import nn
from torch.nn import functional as F

from isbi_export.graph.analysis.analyse import analyse
from isbi_train.config import NetworkConfig
from isbi_train.networks.network import UNet


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
