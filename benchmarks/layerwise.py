"""How fast a network could be, layer by layer: each layer either computes or moves its tensors, whichever takes longer.

*Perfectly fused* means that a convolution reads its input and writes its output once, with bias, ReLU and joining
included; pooling is a pass of its own. *With separate passes*, every bias, every ReLU and every joining of two tensors
reads and writes its result once more. Convolutions and transposed convolutions count as operations, a multiplication
and an addition each; weights are not moved, since a batch shares them; folding pixels into channels, and the sigmoid,
are taken to be part of their neighbours. The limits of the roofline: Williams, Waterman and Patterson 2009, "Roofline",
CACM 52(4).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .limits import Limits, limit_of

_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer costs for one image.

    Attributes
    ----------
    flop : int
        Floating-point operations.
    values : int
        Values read and written where all is fused.
    more_values : int
        Values read and written by passes of their own where it is not.
    """

    flop: int
    values: int
    more_values: int


@dataclass(frozen=True, slots=True)
class Peaks:
    """What a device can do at most."""

    flop_s: float
    bytes_s: float
    bytes_per_value: int


def seconds(layers: Iterable[Layer], peaks: Peaks, *, fused: bool) -> float:
    """Return the least time for one image.

    Parameters
    ----------
    layers : iterable of Layer
        From `network_layers.layers_of`.
    peaks : Peaks
        Of the device.
    fused : bool
        Perfectly fused, or with separate passes.
    """
    speed = peaks.bytes_s / peaks.bytes_per_value  # values per second
    return sum(
        max(layer.flop / peaks.flop_s, layer.values / speed) + (0 if fused else layer.more_values / speed)
        for layer in layers
    )


def layerwise_limits(
    layers: Sequence[Layer], limits: Limits | None, precision: str, cores: int = 1, on: str = "cpu"
) -> dict[str, float]:
    """Return the least seconds for one image on a machine.

    Parameters
    ----------
    layers : sequence of Layer
        From `network_layers.layers_of`.
    limits : dict or None
        From `limits.best_limits`.
    precision : str
        Of the arithmetic and of the tensors.
    cores : int
        That compute; of no meaning on CUDA.
    on : {"cpu", "cuda"}
        Where it is computed.

    Returns
    -------
    dict
        ``fused_s`` and ``separate_s``; empty where the machine's limits are not known.
    """
    product = limit_of(limits, precision, cores, on)
    bandwidth = limit_of(limits, precision, cores, on, "copy_gb_s")
    if not product or not bandwidth:
        return {}
    peaks = Peaks(1e9 * product, 1e9 * bandwidth, _BYTES[precision])
    return {
        "fused_s": seconds(layers, peaks, fused=True),
        "separate_s": seconds(layers, peaks, fused=False),
    }
