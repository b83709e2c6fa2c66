"""A network's settings read off its weights: by our names, by those of well-known U-Nets, or by a stated order.

Weights show sizes, not what is computed: whether skips come before or after upsampled channels leaves no trace, for
both have as many channels. So other names are read as what their repository computes, or as what the user states.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise, product

import torch

from isbi_infer.errors import ModelError, UsageError
from isbi_train.config import NetworkConfig
from isbi_train.networks.checkpoint import fitting_weights, listed, shapes_of

Tensors = dict[str, torch.Tensor]
Layout = list[tuple[str, tuple[int, ...]]]

_UNSHUFFLE = {1: 1, 4: 2, 16: 4}  # by the channels that pixels are folded into
_COUNTER = "num_batches_tracked"  # which nothing is computed with, and old files lack

# What a user may state of weights with other names: our architecture, and whether skips come first.
ORDERS = {
    "unet-skip-first": ("unet", True),
    "unet-up-first": ("unet", False),
    "valid-unet-skip-first": ("valid-unet", True),
    "valid-unet-up-first": ("valid-unet", False),
}


def recognise_by_name(found: Tensors) -> tuple[NetworkConfig, Tensors] | None:
    """Return the settings of weights that bear the names of `isbi_train.networks.network.UNet`.

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
    base = first[0] if first else head[1]
    several = bool(first and head) and first[1] % head[0] == 0  # sections are seen, each folded by itself
    folded = head[0] if several or not first else first[1]
    channels = first[1] // folded if first else 1
    depth = max(levels) + 1
    deepest = bottom[0] if bottom else base * 2**depth
    batch_norm = any(name.endswith("running_mean") for name in found)
    config = _config(
        base, depth, folded, deepest, batch_norm=batch_norm, separable=bool(pointwise), channels=channels
    )
    counters = {name: torch.tensor(0) for name in shapes_of(config) if name.endswith(_COUNTER)}
    return config, fitting_weights({**counters, **found}, config)


@dataclass(frozen=True, slots=True)
class Published:
    """A U-Net that others published under one set of names, with one way to compute.

    Attributes
    ----------
    name : str
        Of the repository.
    skips_first : bool
        Whether skips come before upsampled channels.
    renamed : callable
        From a name and the number of poolings to our name, or None where the name is not of this network.
    """

    name: str
    skips_first: bool
    renamed: Callable[[str, int], str | None]


def _milesial(name: str, depth: int) -> str | None:
    if match := re.fullmatch(r"inc\.double_conv\.(\d+\.\w+)", name):
        return f"encoder.0.{match[1]}"
    if match := re.fullmatch(r"down(\d+)\.maxpool_conv\.1\.double_conv\.(\d+\.\w+)", name):
        level = int(match[1])
        return f"bottom.{match[2]}" if level == depth else f"encoder.{level}.{match[2]}"
    if match := re.fullmatch(r"up(\d+)\.up\.(\w+)", name):
        return f"upsample.{int(match[1]) - 1}.{match[2]}"
    if match := re.fullmatch(r"up(\d+)\.conv\.double_conv\.(\d+\.\w+)", name):
        return f"decoder.{int(match[1]) - 1}.{match[2]}"
    match = re.fullmatch(r"outc\.conv\.(\w+)", name)
    return f"head.{match[1]}" if match else None


def _mateuszbuda(name: str, depth: int) -> str | None:
    places = {"conv1": 0, "norm1": 1, "conv2": 3, "norm2": 4}
    if match := re.fullmatch(r"(encoder|decoder)(\d+)\.(?:enc|dec)\2(conv\d|norm\d)\.(\w+)", name):
        level = int(match[2])
        block = level - 1 if match[1] == "encoder" else depth - level
        return f"{match[1]}.{block}.{places.get(match[3])}.{match[4]}"
    if match := re.fullmatch(r"bottleneck\.bottleneck(conv\d|norm\d)\.(\w+)", name):
        return f"bottom.{places.get(match[1])}.{match[2]}"
    if match := re.fullmatch(r"upconv(\d+)\.(\w+)", name):
        return f"upsample.{depth - int(match[1])}.{match[2]}"
    match = re.fullmatch(r"conv\.(\w+)", name)
    return f"head.{match[1]}" if match else None


_PUBLISHED = (
    Published("milesial/Pytorch-UNet", True, _milesial),
    Published("mateuszbuda/brain-segmentation-pytorch", False, _mateuszbuda),
)


def recognise_published(found: Tensors) -> tuple[NetworkConfig, Tensors, Published] | None:
    """Return the settings of weights that bear the names of a well-known U-Net which computes what ours does.

    Parameters
    ----------
    found : dict of str to Tensor
        Without prefixes.

    Returns
    -------
    (NetworkConfig, dict of str to Tensor, Published) or None
        As of `recognise_by_name`, under our names, and whose names they were. None where some names are others.

    Raises
    ------
    ModelError
        If the names are those of such a network, and the weights are not ones that we can compute with.
    """
    depth = max(
        (int(match[1]) for name in found if (match := re.match(r"(?:down|encoder)(\d+)\.", name))), default=0
    )
    for published in _PUBLISHED:
        names = {name: published.renamed(name, depth) for name in found}
        if not depth or None in names.values():
            continue
        renamed = {str(names[name]): weight for name, weight in found.items()}
        first = renamed.get("encoder.0.0.weight")
        try:
            if first is not None and first.ndim == 4 and first.shape[1] != 1:
                raise ModelError(f"it takes images of {first.shape[1]} channels; expected 1, grey values")
            recognised = recognise_by_name(_without_biases(renamed))
        except ModelError as error:
            raise ModelError(f"its names are those of {published.name}, but {error}") from error
        if recognised is not None:
            config, weights = recognised
            return config, weights if published.skips_first else _skips_first(weights), published
    return None


def _without_biases(found: Tensors) -> Tensors:
    """Take the biases of convolutions before a BatchNorm into its mean, which changes nothing."""
    weights = dict(found)
    for name, mean in found.items():
        if name.endswith(".running_mean"):
            block, _, place = name.removesuffix(".running_mean").rpartition(".")
            bias = weights.pop(f"{block}.{int(place) - 1}.bias", None)
            if bias is not None and bias.shape == mean.shape:
                weights[name] = mean - bias
    return weights


def _skips_first(weights: Tensors) -> Tensors:
    """Exchange the halves of the channels that decoder blocks read: upsampled channels first become skips first."""
    readers = [name for name in weights if re.fullmatch(r"decoder\.\d+\.0\.weight", name)]
    turned = {name: torch.cat(weights[name].chunk(2, dim=1)[::-1], dim=1) for name in readers}
    return {**weights, **turned}


def recognise_by_order(found: Tensors, skips_first: bool | None) -> tuple[NetworkConfig, Tensors]:
    """Return the settings of weights with other names, which stand in the order in which a U-Net's layers are defined.

    That is encoder, bottom, decoder (each up-convolution before its block, or all of them first) and head. A BatchNorm
    follows its convolution directly. Biases before a BatchNorm are taken into its mean, which changes nothing.
    Separable convolutions are recognised by name only, for a ReLU between their halves leaves no trace.

    Parameters
    ----------
    found : dict of str to Tensor
        In the order of definition.
    skips_first : bool or None
        Whether skips come before upsampled channels, as the user states; None where nothing is stated.

    Returns
    -------
    (NetworkConfig, dict of str to Tensor)
        As of `recognise_by_name`, under our names.

    Raises
    ------
    ModelError
        If kinds and shapes do not match in just one way, or nothing is stated; what was found is listed.
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
    if skips_first is None:
        norm = "BatchNorm and ReLU" if batch_norm else "then ReLU"
        raise ModelError(
            f"its names are of no network known here ({listed(found, 4)}). By order and shape it may be a U-Net of "
            f"base {config.base} and depth {config.depth}, but weights do not show whether skips come before or after "
            f"upsampled channels, nor how it pools. If it has twice a 3x3 convolution, {norm} on every level and 2x2 "
            "maximum pooling, state the rest with isbi-export --arch unet-skip-first or unet-up-first (valid-unet-... "
            "where convolutions on the way down are unpadded); otherwise export it to ONNX and use isbi-export "
            "--contract"
        )
    weights = _renamed(found, matching[0], config)
    return config, weights if skips_first else _skips_first(weights)


def _config(
    base: int,
    depth: int,
    folded: int,
    deepest: int,
    *,
    batch_norm: bool,
    separable: bool = False,
    channels: int = 1,
) -> NetworkConfig:
    if folded not in _UNSHUFFLE:
        raise ModelError(
            f"its last convolution returns {folded} maps, expected 1 logit (or 4 or 16 of them, folded)"
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
            neighbours=channels // 2,
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
    """Return our names and shapes in an order that others define them in, with biases that we do not have."""
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
