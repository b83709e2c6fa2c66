"""The layers of a network, read off the network itself by running it once without values."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .layerwise import Layer

_ATEN = torch.ops.aten
_CONVOLUTION = _ATEN.convolution.default
_POOLING = {_ATEN.max_pool2d_with_indices.default, _ATEN.max_pool2d.default}
_RELU = {_ATEN.relu.default, _ATEN.relu_.default}
_JOIN = _ATEN.cat.default


def layers_of(network: nn.Module, shape: tuple[int, int]) -> list[Layer]:
    """Read the layers off a network.

    Parameters
    ----------
    network : torch.nn.Module
        From (1, 1, Y, X) to the same shape, without BatchNorm, as `isbi_export.formats.deployable.Deployable` is. It
        goes to torch's "meta" device and is of no use afterwards.
    shape : (int, int)
        (Y, X) of the image, in pixels.

    Returns
    -------
    list of Layer
        In the order of their computation.
    """
    recorder = _Recorder()
    with torch.no_grad(), recorder:  # inference mode would show composite operations
        network.to("meta")(torch.empty(1, 1, *shape, device="meta"))
    return recorder.layers


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Layer] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is _CONVOLUTION:
            self.layers.append(_convolution(*args[:3], result, transposed=args[6]))
        elif func in _POOLING:
            pooled = result[0] if isinstance(result, tuple) else result
            self.layers.append(Layer(0, args[0].numel() + pooled.numel(), 0))
        elif func in _RELU or func is _JOIN:
            self.layers.append(Layer(0, 0, 2 * result.numel()))
        return result


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor, *, transposed: bool) -> Layer:
    # Each value of the input (transposed) or of the output meets one kernel's worth of weights.
    met = x if transposed else y
    flop = 2 * met.shape[0] * prod(met.shape[2:]) * weight.numel()
    return Layer(flop, x.numel() + y.numel(), 0 if bias is None else 2 * y.numel())
