"""A small network with weights of its own, for the tests of loading."""

import torch

from isbi_train.config import NetworkConfig
from isbi_train.networks.network import UNet

CONFIG = NetworkConfig(base=2, depth=2, unshuffle=2, dropout=0.0)


def fresh(config, seed=0):
    """A network whose every weight and statistic is some other number."""
    torch.manual_seed(seed)
    network = UNet(config).eval()
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if name.endswith("var") else torch.randn_like(value))
    return network


def same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in other)
    return True
