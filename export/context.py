"""How far a network looks: its halo, computed from the network and never typed in.

The network is run on impulses with every weight made positive and every bias zero. No two contributions can then
cancel, ReLU and max pooling let all of them pass, and the pixels where the output differs from zero are exactly those
that can depend on the impulse.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import torch

from isbi_train.config import NetworkConfig
from isbi_train.network import UNet


def context_px(config: NetworkConfig) -> int:
    """Measure how many pixels of context a tile needs beyond the pixels it keeps.

    What a tile keeps begins and ends on the stride grid, so the distance is taken from there: the farthest input pixel
    beyond a grid line that any output pixel on this side of it depends on.

    Parameters
    ----------
    config : NetworkConfig
        The architecture; what depends on what is the same for every width and every set of weights.

    Returns
    -------
    int
        In pixels, the worst of the four sides.
    """
    stride = config.stride
    reach = 8 * stride
    positive = _positive_network(config)
    # One impulse per position within the stride period, along each axis in turn.
    offsets = torch.arange(stride)
    impulses_NCYX = torch.zeros(stride, 1, stride, 2 * reach + stride, dtype=torch.float64)
    impulses_NCYX[offsets, 0, :, reach + offsets] = 1
    with torch.inference_mode():
        along_x = positive(impulses_NCYX)[:, 0].amax(1) > 0
        along_y = positive(impulses_NCYX.transpose(2, 3).contiguous())[:, 0].amax(2) > 0
    touched = along_x | along_y
    assert not touched[:, [0, -1]].any(), "the network looks further than the probe reaches"
    impulse = (reach + offsets)[:, None]
    output = torch.arange(touched.shape[1])
    line_before = output // stride * stride
    before, after = line_before - impulse, impulse - (line_before + stride) + 1
    return int(torch.maximum(before, after)[touched].clamp_min(0).max())


def halo_px(config: NetworkConfig) -> int:
    """Give the context rounded up to the stride, so that tile origins stay on the stride grid."""
    return ceil(context_px(config) / config.stride) * config.stride


def _positive_network(config: NetworkConfig) -> UNet:
    network = UNet(replace(config, base=1)).double().eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(0.0 if name.endswith("bias") else 1.0 / parameter[0].numel())
    return network
