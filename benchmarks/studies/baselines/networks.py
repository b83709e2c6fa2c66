"""The networks, as their authors ship them, and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from isbi_train.config import NetworkConfig
from isbi_train.config.settings import recipe_layer, resolve
from isbi_train.networks.network import UNet

SIDE = 512  # of the section that operations are counted for
OURS = "released"


@dataclass(frozen=True, slots=True)
class Network:
    """One network.

    Attributes
    ----------
    title : str
        For tables.
    build : callable
        Returns it with random weights: (N, 1, Y, X) to logits of the same shape.
    stride : int
        What Y and X must be multiples of.
    """

    title: str
    build: Callable[[], nn.Module]
    stride: int


def _basicunet() -> nn.Module:
    from monai.networks.nets import BasicUNet

    return BasicUNet(spatial_dims=2, in_channels=1, out_channels=1, features=(32, 32, 64, 128, 256, 32))


def _unet() -> nn.Module:
    from monai.networks.nets import UNet as MonaiUNet

    widths = (32, 64, 128, 256)
    return MonaiUNet(
        spatial_dims=2, in_channels=1, out_channels=1, channels=widths, strides=(2, 2, 2), num_res_units=2
    )


def _dynunet() -> nn.Module:
    """Build what nnU-Net plans for 256x256 crops in two dimensions (seven stages), without deep supervision."""
    from monai.networks.nets import DynUNet

    return DynUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        kernel_size=[3] * 7,
        strides=[1] + [2] * 6,
        upsample_kernel_size=[2] * 6,
        filters=[32, 64, 128, 256, 512, 512, 512],
    )


def recipe_network(recipe: str) -> NetworkConfig:
    """Return the network of one of our recipes."""
    return resolve([(f"recipe {recipe}", recipe_layer(recipe))]).network


def _of_recipe(recipe: str, title: str) -> Network:
    config = recipe_network(recipe)
    return Network(title, lambda: UNet(config), config.stride)


def networks() -> dict[str, Network]:
    """Return the networks by name: the baselines, and ours as the control of what surrounds them."""
    return {
        "basicunet": Network("MONAI BasicUNet, 32-32-64-128-256", _basicunet, 16),
        "unet": Network("MONAI UNet, 32-64-128-256, residual", _unet, 8),
        "dynunet": Network("MONAI DynUNet, nnU-Net's plan", _dynunet, 64),
        "unet-64": _of_recipe("unet-64", "classic U-Net, 64-1024, as long as ours"),
        OURS: _of_recipe(OURS, "recipe `released`, without its checkpoints"),
    }


def size(network: nn.Module, side: int = SIDE) -> dict[str, Any]:
    """Count parameters, and operations for one section.

    Parameters
    ----------
    network : Module
        From (N, 1, Y, X).
    side : int
        Of the section, in pixels.

    Returns
    -------
    dict
        ``parameters``, and ``gflop``: convolutions only, a multiplication and an addition counting as two.
    """
    counter = FlopCounterMode(display=False)
    training = network.training
    with torch.inference_mode(), counter:
        network.eval()(torch.zeros(1, 1, side, side))
    network.train(training)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {"parameters": parameters, "gflop": counter.get_total_flops() / 1e9}
