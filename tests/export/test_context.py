"""How far a network looks: by the figures that are known, and by what perturbed pixels change."""

import pytest
import torch
from isbi_export.context import context_px, halo_px

from isbi_train.config import NetworkConfig


@pytest.mark.parametrize(
    ("depth", "unshuffle", "context", "halo", "stride"),
    [(4, 1, 94, 96, 16), (3, 2, 92, 96, 16), (3, 1, 46, 48, 8), (2, 2, 44, 48, 8)],
)
def test_context_halo_and_stride_are_the_known_ones(depth, unshuffle, context, halo, stride):
    config = NetworkConfig(base=2, depth=depth, unshuffle=unshuffle)
    assert (context_px(config), halo_px(config), config.stride) == (context, halo, stride)


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_the_context_of_any_depth_is_6_times_2_to_the_depth_less_2(levels):
    assert context_px(NetworkConfig(base=1, depth=levels, unshuffle=1)) == 6 * 2**levels - 2


@pytest.mark.parametrize(("depth", "unshuffle"), [(1, 1), (2, 1), (2, 2), (3, 2)])
def test_width_and_dropout_do_not_change_the_context(depth, unshuffle):
    narrow = NetworkConfig(base=1, depth=depth, unshuffle=unshuffle, dropout=0.0)
    wide = NetworkConfig(base=24, depth=depth, unshuffle=unshuffle, dropout=0.5)
    assert context_px(narrow) == context_px(wide)
    assert halo_px(wide) % wide.stride == 0
    assert context_px(wide) <= halo_px(wide) < context_px(wide) + wide.stride


CONFIGS = [
    NetworkConfig(base=2, depth=2, unshuffle=1),
    NetworkConfig(base=2, depth=2, unshuffle=2),
    NetworkConfig(base=1, depth=3, unshuffle=1),
]
_names = [f"depth {config.depth}, unshuffle {config.unshuffle}" for config in CONFIGS]


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
    stride, context = config.stride, context_px(config)
    first = halo_px(config) + stride
    last = first + 2 * stride
    side = last + halo_px(config) + stride
    network = seasoned(config, seed)
    image_NCYX = torch.randn(1, 1, side, side)
    kept = slice(first, last)
    assert not kept_changes(network, image_NCYX, kept, slice(0, first - context))
    assert not kept_changes(network, image_NCYX, kept, slice(last + context, side))


@pytest.mark.parametrize("config", CONFIGS, ids=_names)
def test_pixels_one_nearer_do_change_what_a_tile_keeps_for_some_weights(config, seasoned):
    stride, context = config.stride, context_px(config)
    first = halo_px(config) + stride
    last = first + 2 * stride
    side = last + halo_px(config) + stride
    network = seasoned(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(0.0 if name.endswith("bias") else 1.0 / parameter[0].numel())
        for name, buffer in network.named_buffers():
            buffer.fill_(1.0 if name.endswith("var") else 0.0)
    network = network.double()
    image_NCYX = torch.rand(1, 1, side, side, dtype=torch.float64)
    kept = slice(first, last)
    before = kept_changes(network, image_NCYX, kept, slice(first - context, first - context + 1))
    after = kept_changes(network, image_NCYX, kept, slice(last + context - 1, last + context))
    assert before
    assert after
