"""Weights from wherever they come: this project's checkpoints, bare state dictionaries, safetensors."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from isbi_infer.errors import ModelError, UsageError
from isbi_train.config import ARCHITECTURES, NetworkConfig
from isbi_train.networks.archive import read_pickled, read_safetensors
from isbi_train.networks.checkpoint import Weights, checkpoint_of, is_checkpoint, is_weight, listed
from isbi_train.networks.recognise import (
    ORDERS,
    Tensors,
    recognise_by_name,
    recognise_by_order,
    recognise_published,
)

# What trainers keep weights under, what averaged ones are called, and what wrappers put before the names.
_NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
_AVERAGED = re.compile(r"(?i)(^|_)ema(_|$)|averag|(^|_)swa(_|$)")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def load_weights(path: Path, arch: str | None = None) -> Weights:
    """Read a network's weights without running any code in their file.

    Parameters
    ----------
    path : Path
        A checkpoint of this project; a state dictionary written by ``torch.save``, bare or under the names that
        trainers use, with or without the prefixes of `torch.nn.DataParallel` and ``torch.compile``; or a
        ``.safetensors`` file of one. The weights bear our names or those of a well-known U-Net
        (`isbi_train.networks.recognise.recognise_published`), or the user states how they are computed with.
    arch : str, optional
        "unet" or "valid-unet", for bare weights without folded pixels: both then have the same shapes. Of weights with
        unknown names, in the order of definition, one of `isbi_train.networks.recognise.ORDERS`, such as
        "unet-skip-first": which of the two it is, and whether skips come before or after upsampled channels.

    Returns
    -------
    Weights
        A `isbi_train.networks.checkpoint.Checkpoint` where the file is one. Of bare weights `train`, `augment`, `data`
        and `epoch` are None, `scores` is empty, and `notes` tells what was assumed and what was left aside.

    Raises
    ------
    ModelError
        If the file is missing, damaged, holds NaN, or no network of ours; or if its names are unknown and `arch` does
        not state how it is computed.
    UsageError
        If `arch` is needed or is another one.
    DependencyError
        If safetensors is needed and not installed.
    """
    if arch is not None and arch not in (*ARCHITECTURES, *ORDERS):
        raise UsageError(
            f"arch {arch!r} is not one of {', '.join(ARCHITECTURES)}, nor, for names from elsewhere, of "
            f"{', '.join(ORDERS)}"
        )
    ordered = path.suffix.lower() != ".safetensors"
    plain: Any = read_pickled(path, old=True) if ordered else read_safetensors(path)
    if is_checkpoint(plain):
        weights: Weights = checkpoint_of(plain, path)
        if arch not in (None, weights.network.arch):
            raise UsageError(
                f"{path}: is a checkpoint of arch {weights.network.arch}, not {arch}; leave --arch out"
            )
        _require_finite(path, weights.state_dict)
        return weights
    plain, aside, only = _innermost(plain)
    try:
        found, others = _network_in(path, plain)
        recognised = _recognised(path, found, arch, ordered=ordered)
    except ModelError as error:
        raise error if str(error).startswith(str(path)) else ModelError(f"{path}: {error}") from error
    taken = (f"{path}: took the averaged weights under {only}, since it holds no others",) if only else ()
    return replace(recognised, notes=(*recognised.notes, *taken, *_left_aside(path, others, aside)))


def _innermost(plain: Any) -> tuple[Any, tuple[str, ...], str]:
    """Return a trainer's state dictionary, the keys of other weights, and the key of averages that stand alone."""
    aside: list[str] = []
    only = ""
    while isinstance(plain, dict):
        key = next((key for key in _NESTED if isinstance(plain.get(key), dict)), None)
        if key is None and not any(isinstance(value, torch.Tensor) for value in plain.values()):
            averaged = [
                key
                for key in map(str, plain)
                if _AVERAGED.search(key) and _holds_weights(key, plain.get(key))
            ]
            if len(averaged) == 1 and not only:
                (key,) = averaged
                only = key
        if key is None:
            break
        for other, value in plain.items():
            if other != key:
                aside += [str(other)] if _holds_weights(other, value) else _averaged_in(other, value)
        plain = plain[key]
    return plain, tuple(aside), only


def _holds_weights(key: Any, value: Any) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    if _AVERAGED.search(str(key)):
        return True
    return key != "optimizer" and sum(isinstance(part, torch.Tensor) for part in value.values()) > 1


def _averaged_in(key: Any, value: Any, depth: int = 0) -> list[str]:
    """Return where averaged weights lie deeper in a part of the file, such as in what a callback keeps."""
    if isinstance(value, dict) and depth < 4:
        if _AVERAGED.search(str(key)) and value:
            return [str(key)]
        found = [_averaged_in(inner, part, depth + 1) for inner, part in value.items()]
        return [f"{key}: {place}" for places in found for place in places]
    held = isinstance(value, (list, tuple)) and any(isinstance(part, torch.Tensor) for part in value)
    return [str(key)] if held and _AVERAGED.search(str(key)) else []


def _network_in(path: Path, plain: Any) -> tuple[Tensors, tuple[str, ...]]:
    """Return a network's tensors under their bare names, in float32, and the names that are not the network's."""
    if not isinstance(plain, dict) or not any(isinstance(value, torch.Tensor) for value in plain.values()):
        held = f"keys {listed(map(str, plain))}" if isinstance(plain, dict) else f"a {type(plain).__name__}"
        raise ModelError(
            f"{path}: holds no weights but {held}; expected a checkpoint or a state dictionary; "
            "save the weights alone, with torch.save(model.state_dict(), ...)"
        )
    whole = _without_prefixes({str(name): value for name, value in plain.items()})
    # Lightning puts the name of the attribute before the network's names, whatever it is.
    heads = (f"{name.partition('.')[0]}." for name in whole if "." in name)
    prefixes = [p for p in dict.fromkeys((*_PREFIXES, *heads)) if not _AVERAGED.search(p.rstrip("."))]
    parts = {
        prefix: _without_prefixes(
            {n.removeprefix(prefix): v for n, v in whole.items() if n.startswith(prefix)}
        )
        for prefix in prefixes
        if any(name.startswith(prefix) for name in whole)
    }
    known = [prefix for prefix, part in parts.items() if _has_known_names(part)]
    if len(known) > 1:
        raise ModelError(
            f"{path}: holds a network under each of the prefixes {', '.join(known)}; save the weights of one alone"
        )
    if not known:
        return _as_float32(path, whole), ()
    (prefix,) = known
    return _as_float32(path, parts[prefix]), tuple(name for name in whole if not name.startswith(prefix))


def _has_known_names(part: dict[str, Any]) -> bool:
    """Return whether these are the weights of a network whose names are known, whole or not."""
    tensors = {name: value for name, value in part.items() if isinstance(value, torch.Tensor)}
    try:
        return recognise_by_name(tensors) is not None or recognise_published(tensors) is not None
    except ModelError:
        return True


def _as_float32(path: Path, found: dict[str, Any]) -> Tensors:
    strange = [name for name, value in found.items() if not is_weight(name, value)]
    if strange:
        raise ModelError(f"{path}: no tensors of floating-point numbers are {listed(strange)}")
    tensors = {
        name: value.detach().float() if value.is_floating_point() else value for name, value in found.items()
    }
    _require_finite(path, tensors)
    return tensors


def _without_prefixes(found: dict[str, Any]) -> dict[str, Any]:
    # What torch.optim.swa_utils.AveragedModel counts beside the weights.
    if any(name.startswith("module.") for name in found):
        found = {name: value for name, value in found.items() if name != "n_averaged"}
    while prefix := next((p for p in _PREFIXES if found and all(name.startswith(p) for name in found)), ""):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def _recognised(path: Path, found: Tensors, arch: str | None, *, ordered: bool) -> Weights:
    if recognised := recognise_by_name(found):
        network, state_dict = recognised
        network = replace(network, arch=_arch(path, network, arch))
        return Weights(network=network, state_dict=state_dict, notes=(_bare(path, network),))
    if published := recognise_published(found):
        network, state_dict, origin = published
        if arch not in (None, network.arch):
            raise UsageError(f"{path}: its names are those of {origin.name}, so arch unet; leave --arch out")
        note = f"its names are those of {origin.name}, so it is computed as there"
    else:
        if not ordered:
            raise ModelError(
                f"its names are of no network known here ({listed(found, 4)}), and a .safetensors file does not keep "
                "the order of its weights; torch.save does"
            )
        stated, skips_first = ORDERS.get(arch or "", (None, None))
        network, state_dict = recognise_by_order(found, skips_first)
        network = replace(network, arch=stated or network.arch)
        note = f"its names are of no network known here, so its weights were taken by order and shape as {arch} states"
    norm = "BatchNorm, " if network.batch_norm else ""
    order = f"twice a convolution, {norm}ReLU on every level, 2x2 maximum pooling, logits of cell interior"
    return Weights(
        network=network,
        state_dict=state_dict,
        notes=(_bare(path, network), f"{path}: {note}: {order}; score it before you use it"),
    )


def _require_finite(path: Path, found: Tensors) -> None:
    broken = [name for name, weight in found.items() if not weight.float().isfinite().all()]
    if broken:
        raise ModelError(
            f"{path}: NaN or infinite numbers in {len(broken)} weights ({broken[0]} first), so the training diverged; "
            "train again with a lower --learning-rate"
        )


def _arch(path: Path, network: NetworkConfig, arch: str | None) -> str:
    if arch in ORDERS:
        raise UsageError(
            f"{path}: its names are those of isbi-train, so their order is known; use one of unet, valid-unet"
        )
    if network.unshuffle > 1 or network.separable:
        if arch not in (None, "unet"):
            has = "pixels are folded" if network.unshuffle > 1 else "convolutions are separable"
            raise UsageError(f"{path}: its {has}, which arch {arch} has not; leave --arch out")
        return "unet"
    if arch is None:
        raise UsageError(
            f"{path}: its weights fit {' and '.join(ARCHITECTURES)} alike, which have the same shapes; say with --arch "
            "which it is (valid-unet: unpadded convolutions on the way down, image mirrored first)"
        )
    return arch


def _bare(path: Path, network: NetworkConfig) -> str:
    separable = ", separable convolutions" if network.separable else ""
    return (
        f"{path}: bare weights, read as arch {network.arch}, base {network.base}, depth {network.depth}{separable}: "
        "their training data, pixel size, border and scores are not known; each section is normalised by its own "
        "statistics"
    )


def _left_aside(path: Path, others: tuple[str, ...], aside: tuple[str, ...]) -> tuple[str, ...]:
    notes = []
    averaged = {head: 0 for name in others if _AVERAGED.search(head := name.partition(".")[0])}
    others = tuple(name for name in others if name.partition(".")[0] not in averaged)
    if others:
        notes.append(f"{path}: left aside what does not belong to the network: {listed(others)}")
    aside = (*aside, *(f"{head}." for head in averaged))
    if aside:
        notes.append(
            f"{path}: it also holds other weights under {listed(aside)}, maybe averaged ones, which were not taken; to "
            "use those, save them alone"
        )
    return tuple(notes)
