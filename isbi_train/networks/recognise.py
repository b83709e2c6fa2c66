"""A network's settings read off its weights: by our names, or by the order and shapes of a U-Net's layers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise, product

import torch

from isbi_infer.errors import ModelError, UsageError
from isbi_train.config import NetworkConfig
from isbi_train.networks.checkpoint import fitting_weights, listed, shapes_of

Tensors = dict[str, torch.Tensor]
Layout = list[tuple[str, tuple[int, ...]]]

_UNSHUFFLE = {1: 1, 4: 2, 16: 4}  # by the channels that pixels are folded into
_COUNTER = "num_batches_tracked"  # which nothing is computed with, and old files lack


def recognise_by_name(found: Tensors) -> tuple[NetworkConfig, Tensors] | None:
    """Infer the settings of weights that bear the names of `isbi_train.networks.network.UNet`.

    Parameters
    ----------
    found : dict of str to Tensor
        Without prefixes.

    Returns
    -------
    (NetworkConfig, dict of str to Tensor) or None
        Dropout leaves no trace and is taken as 0; ``arch`` leaves none either, and "unet" stands for both. None where
        the names are others.

    Raises
    ------
    ModelError
        If weights are missing, are too many, or have other shapes than the rest asks for.
    """
    levels = [int(match[1]) for name in found if (match := re.match(r"encoder\.(\d+)\.\d+\.", name))]
    first, head = _kernel(found, "encoder.0.0.weight"), _kernel(found, "head.weight")
    pointwise = _kernel(found, "bottom.1.weight")
    bottom = pointwise or _kernel(found, "bottom.0.weight")
    if not levels or not (first or head):
        return None
    base, folded = first[:2] if first else head[1::-1]
    depth = max(levels) + 1
    deepest = bottom[0] if bottom else base * 2**depth
    batch_norm = any(name.endswith("running_mean") for name in found)
    config = _config(base, depth, folded, deepest, batch_norm=batch_norm, separable=bool(pointwise))
    counters = {name: torch.tensor(0) for name in shapes_of(config) if name.endswith(_COUNTER)}
    return config, fitting_weights({**counters, **found}, config)


def recognise_by_order(found: Tensors) -> tuple[NetworkConfig, Tensors]:
    """Infer the settings of weights with other names, which stand in the order in which a U-Net's layers are defined.

    That is encoder, bottom, decoder (each up-convolution before its block, or all of them first) and head. A BatchNorm
    follows its convolution directly. Biases before a BatchNorm are taken into its mean, which changes nothing.
    Separable convolutions are recognised by name only, for a ReLU between their halves leaves no trace.

    Parameters
    ----------
    found : dict of str to Tensor
        In the order of definition.

    Returns
    -------
    (NetworkConfig, dict of str to Tensor)
        As of `recognise_by_name`, under our names.

    Raises
    ------
    ModelError
        If kinds and shapes do not match in just one way.
    """
    theirs = [(name, weight) for name, weight in found.items() if not name.endswith(_COUNTER)]
    kernels = [weight.shape for _, weight in theirs if weight.ndim == 4]
    depth, rest = divmod(len(kernels) - 3, 5)
    depthwise = [
        after for before, after in pairwise(kernels) if after[1] == 1 < before[0] and after[2:] == (3, 3)
    ]
    if len(depthwise) > 1:
        raise ModelError(
            "its 3x3 convolutions of single channels (depthwise, or grouped) are read under the names that isbi-train "
            f"gives a separable U-Net only: {_names_differ(found, NetworkConfig(separable=True))}"
        )
    if rest or not 1 <= depth <= 6:
        raise ModelError(
            f"its {len(kernels)} convolutions are no U-Net's, which has 8, 13, 18, 23 ...: {_names_differ(found)}"
        )
    batch_norm = any(name.endswith("running_mean") for name in found)
    deepest = max(shape[0] for shape in kernels)
    config = _config(kernels[0][0], depth, kernels[-1][0], deepest, batch_norm=batch_norm)
    kinds = [(_kind(name), tuple(weight.shape)) for name, weight in theirs]
    matching: list[dict[str, str]] = []
    for upsamplings_first, biased in product((False, True), (False, True) if batch_norm else (False,)):
        layout = list(_layout(config, upsamplings_first=upsamplings_first, biased=biased))
        if [(_kind(name), shape) for name, shape in layout] == kinds:
            names = {ours: name for (ours, _), (name, _) in zip(layout, theirs, strict=True)}
            matching += [names] if names not in matching else []
    if len(matching) != 1:
        raise ModelError(
            f"its weights are no U-Net's of base {config.base} and depth {depth}, "
            f"neither by name nor by order and shape: {_names_differ(found, config)}"
        )
    return config, _renamed(found, matching[0], config)


def _config(
    base: int, depth: int, folded: int, deepest: int, *, batch_norm: bool, separable: bool = False
) -> NetworkConfig:
    if folded not in _UNSHUFFLE:
        raise ModelError(
            f"its last convolution gives {folded} maps, expected 1 logit (or 4 or 16 of them, folded)"
        )
    try:
        return NetworkConfig(
            base=base,
            depth=depth,
            unshuffle=_UNSHUFFLE[folded],
            dropout=0.0,
            arch="unet",
            widest=max(1024, deepest) if deepest == base * 2**depth else deepest,
            batch_norm=batch_norm,
            separable=separable,
        )
    except UsageError as error:
        raise ModelError(f"its weights are of no network that there is here: {error}") from error


def _kernel(found: Tensors, name: str) -> tuple[int, ...]:
    weight = found.get(name)
    return tuple(weight.shape) if weight is not None and weight.ndim == 4 else ()


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _layout(
    config: NetworkConfig, *, upsamplings_first: bool, biased: bool
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Give our names and shapes in an order that others define them in, with biases that we do not have."""
    ours = shapes_of(config)
    ups, blocks = ([f"{kind}.{i}." for i in range(config.depth)] for kind in ("upsample", "decoder"))
    decoder = (
        [*ups, *blocks]
        if upsamplings_first
        else [part for pair in zip(ups, blocks, strict=True) for part in pair]
    )
    for part in (*(f"encoder.{i}." for i in range(config.depth)), "bottom.", *decoder, "head."):
        for name, shape in ours.items():
            if name.startswith(part) and not name.endswith(_COUNTER):
                yield name, shape
                if biased and len(shape) == 4 and name.removesuffix("weight") + "bias" not in ours:
                    yield name.removesuffix("weight") + "bias", shape[:1]


def _renamed(found: Tensors, names: dict[str, str], config: NetworkConfig) -> Tensors:
    weights: Tensors = {}
    for ours, shape in shapes_of(config).items():
        weights[ours] = found[names[ours]] if ours in names else torch.zeros(shape, dtype=torch.int64)
        if ours.endswith("running_mean"):
            block, place = ours.removesuffix(".running_mean").rsplit(".", 1)
            convolution = f"{block}.{int(place) - 1}"
            _require_next(names[f"{convolution}.weight"], names[ours])
            if f"{convolution}.bias" in names:
                weights[ours] = weights[ours] - found[names[f"{convolution}.bias"]]
    return weights


def _require_next(convolution: str, norm: str) -> None:
    """Refuse a BatchNorm that the numbers of a ``Sequential`` show to stand behind the activation."""
    (before, first), (after, second) = (_numbered(name) for name in (convolution, norm))
    if before == after and first >= 0 and second != first + 1:
        raise ModelError(
            f"its BatchNorm {norm.rpartition('.')[0]!r} stands {second - first} places behind its convolution, so "
            "behind the ReLU; here it stands before, and the weights would compute something else"
        )


def _numbered(name: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.*\.|)(\d+)\.\w+", name)
    return (match[1], int(match[2])) if match else (name, -1)


def _names_differ(found: Tensors, config: NetworkConfig | None = None) -> str:
    expected = shapes_of(config or NetworkConfig())
    missing, unexpected = sorted(set(expected) - set(found)), [name for name in found if name not in expected]
    return f"missing {listed(missing)}, unexpected {listed(unexpected)}"
