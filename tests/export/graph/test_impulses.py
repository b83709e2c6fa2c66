"""How far a network looks: what its graph says, against impulses sent through it and against perturbed pixels.

The network is run on impulses with every weight made positive and every bias zero. No two contributions can then
cancel, ReLU and max pooling let all of them pass, and the pixels where the output differs from zero are exactly those
that can depend on the impulse. Nothing here shares a line with `isbi_export.graph.analysis.analyse`.
"""

import contextlib
import io
import logging
import warnings
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isbi_export.formats.deployable import Deployable
from isbi_export.graph.analysis.analyse import analyse
from isbi_train.config import NetworkConfig
from isbi_train.networks.checkpoint import load_checkpoint
from isbi_train.networks.network import UNet


def positive(network):
    """Make every weight positive and every bias zero."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(0.0 if name.endswith("bias") else 1.0 / parameter[0].numel())
        for name, buffer in network.named_buffers():
            buffer.fill_(1.0 if name.endswith("var") else 0.0)
    return network.double().eval()


@cache
def context_by_impulses(config):
    """Measure how far kept pixels look beyond the stride grid: (top, bottom, left, right)."""
    network, stride = positive(UNet(replace(config, base=1))), config.stride
    reach = 8 * stride
    offsets = torch.arange(stride)
    # One impulse per position within the stride period, along each axis in turn.
    impulses_NCYX = torch.zeros(stride, 1, stride, 2 * reach + stride, dtype=torch.float64)
    impulses_NCYX[offsets, 0, :, reach + offsets] = 1
    impulse = (reach + offsets)[:, None]
    line_before = torch.arange(2 * reach + stride) // stride * stride
    sides = []
    for along_x in (False, True):
        x_NCYX = impulses_NCYX if along_x else impulses_NCYX.transpose(2, 3).contiguous()
        with torch.inference_mode():
            touched = network(x_NCYX)[:, 0].amax(1 if along_x else 2) > 0
        assert not touched[:, [0, -1]].any(), "the network looks further than the probe reaches"
        before, after = line_before - impulse, impulse - (line_before + stride) + 1
        sides += [int(side[touched].clamp_min(0).max()) for side in (before, after)]
    return tuple(sides)


@cache
def analysis_of(config, *, deployed):
    """Analyse the graph that torch's older exporter, which is quick, writes for a network."""
    network = UNet(config).eval()
    side, file = 4 * config.stride, io.BytesIO()
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Deployable(network) if deployed else network,
            (torch.zeros(2, 1, side, side),),
            file,
            dynamo=False,
            input_names=["image"],
            dynamic_axes={"image": {0: "batch", 2: "height", 3: "width"}},
        )
    logger.setLevel(level)
    return analyse(file.getvalue())


@st.composite
def configs(draw):
    arch, base = draw(st.sampled_from(["unet", "unet", "valid-unet"])), draw(st.integers(1, 3))
    unshuffle = draw(st.sampled_from([1, 2, 4])) if arch == "unet" else 1
    # The stride of a valid-unet has four periods; an impulse is sent from each of its pixels.
    depth = draw(st.integers(1, {1: 4, 2: 4, 4: 3}[unshuffle] if arch == "unet" else 3))
    widest, batch_norm = draw(st.integers(base, 12)), draw(st.booleans())
    return NetworkConfig(
        base=base,
        depth=depth,
        unshuffle=unshuffle,
        arch=arch,
        widest=widest,
        batch_norm=batch_norm,
        separable=arch == "unet" and draw(st.booleans()),
    )


@settings(max_examples=settings().max_examples // 4)
@given(config=configs(), deployed=st.booleans())
def test_the_graph_says_what_impulses_show(config, deployed):
    found = analysis_of(config, deployed=deployed)
    assert found.exact, found.reasons
    assert found.stride == config.stride
    assert found.context == context_by_impulses(replace(config, base=1))
    assert 0 <= found.halo - max(found.context) < found.stride
    assert found.halo % found.stride == 0


def test_the_published_file_says_what_impulses_show(published, trained):
    found = analyse((published / "model.onnx").read_bytes())
    config = load_checkpoint(trained).network
    assert (found.exact, found.stride) == (True, config.stride)
    assert found.context == context_by_impulses(replace(config, base=1))


@pytest.mark.parametrize(
    ("depth", "unshuffle", "context"),
    [(4, 1, 94), (3, 2, 92), (3, 1, 46), (2, 2, 44), (2, 1, 22), (2, 4, 88)],
)
def test_impulses_show_the_known_figures(depth, unshuffle, context):
    assert context_by_impulses(NetworkConfig(base=1, depth=depth, unshuffle=unshuffle)) == (context,) * 4


@pytest.mark.parametrize(("depth", "unshuffle"), [(1, 2), (2, 1), (3, 2)])
def test_a_separable_network_looks_as_far_as_a_plain_one(depth, unshuffle):
    plain = NetworkConfig(base=1, depth=depth, unshuffle=unshuffle)
    assert context_by_impulses(replace(plain, separable=True)) == context_by_impulses(plain)


CONFIGS = [
    NetworkConfig(base=2, depth=2, unshuffle=1),
    NetworkConfig(base=2, depth=2, unshuffle=2),
    NetworkConfig(base=1, depth=3, unshuffle=1),
    NetworkConfig(base=1, depth=1, unshuffle=4),
    NetworkConfig(base=2, depth=2, unshuffle=2, separable=True),
    NetworkConfig.of("valid-unet", base=2, depth=2),
]
_names = [
    f"{config.arch}, depth {config.depth}, unshuffle {config.unshuffle}{', separable' if config.separable else ''}"
    for config in CONFIGS
]


def kept_columns(config):
    """Give the context, what a tile keeps, and the side of a square section around it."""
    found = analysis_of(config, deployed=True)
    first = found.halo + found.stride
    last = first + 2 * found.stride
    return max(found.context), slice(first, last), last + found.halo + found.stride


def kept_changes(network, image_NCYX, kept, outside):
    """Say whether new pixels in some columns, or rows, change what a tile keeps in others."""
    changed = False
    for axis in (2, 3):
        other_NCYX = image_NCYX.clone()
        other_NCYX.movedim(axis, 0)[outside] += 3 * torch.rand_like(image_NCYX).movedim(axis, 0)[outside]
        with torch.inference_mode():
            before, after = (network(x_NCYX).movedim(axis, 0)[kept] for x_NCYX in (image_NCYX, other_NCYX))
        changed |= not torch.equal(before, after)
    return changed


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("config", CONFIGS, ids=_names)
def test_pixels_beyond_the_context_never_change_what_a_tile_keeps(config, seasoned, seed):
    context, kept, side = kept_columns(config)
    network = seasoned(config, seed)
    image_NCYX = torch.randn(1, 1, side, side)
    assert not kept_changes(network, image_NCYX, kept, slice(0, kept.start - context))
    assert not kept_changes(network, image_NCYX, kept, slice(kept.stop + context, side))


@pytest.mark.parametrize("config", CONFIGS, ids=_names)
def test_pixels_one_nearer_do_change_what_a_tile_keeps_for_some_weights(config, seasoned):
    context, kept, side = kept_columns(config)
    network = positive(seasoned(config))
    image_NCYX = torch.rand(1, 1, side, side, dtype=torch.float64)
    before, after = kept.start - context, kept.stop + context - 1
    assert kept_changes(network, image_NCYX, kept, slice(before, before + 1))
    assert kept_changes(network, image_NCYX, kept, slice(after, after + 1))
