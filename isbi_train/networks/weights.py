"""Weights from wherever they come: this project's checkpoints, bare state dictionaries, safetensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from isbi_infer.errors import ModelError, UsageError
from isbi_train.config import ARCHITECTURES, NetworkConfig
from isbi_train.networks.archive import read_pickled, read_safetensors
from isbi_train.networks.checkpoint import Weights, checkpoint_of, is_checkpoint, listed
from isbi_train.networks.recognise import Tensors, recognise_by_name, recognise_by_order

# What trainers keep weights under, and what wrappers put before their names.
_NESTED = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def load_weights(path: Path, arch: str | None = None) -> Weights:
    """Read a network's weights without running any code in their file.

    Parameters
    ----------
    path : Path
        A checkpoint of this project; a state dictionary written by ``torch.save``, bare or under the names that
        trainers use, with or without the prefixes of `torch.nn.DataParallel` and ``torch.compile``; or a
        ``.safetensors`` file of one. The weights bear our names, or stand in the order and have the shapes of the
        classic U-Net.
    arch : {"unet", "valid-unet"}, optional
        The architecture, for bare weights without folded pixels: both then have the same shapes.

    Returns
    -------
    Weights
        A `isbi_train.networks.checkpoint.Checkpoint` where the file is one. Of bare weights `train`, `augment`, `data`
        and `epoch` are None, `scores` is empty, and `notes` says what was assumed.

    Raises
    ------
    ModelError
        If the file is missing, damaged, holds NaN, or no network of ours.
    UsageError
        If `arch` is needed or is another one.
    DependencyError
        If safetensors is needed and not installed.
    """
    if arch is not None and arch not in ARCHITECTURES:
        raise UsageError(f"arch {arch!r} is not one of {', '.join(ARCHITECTURES)}")
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
    found = _tensors(path, plain)
    _require_finite(path, found)
    try:
        recognised = recognise_by_name(found)
        network, state_dict = recognised or _by_order(found, ordered=ordered)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    network = replace(network, arch=_arch(path, network, arch))
    return Weights(
        network=network, state_dict=state_dict, notes=_notes(path, network, named=bool(recognised))
    )


def _tensors(path: Path, plain: Any) -> Tensors:
    """Give the tensors of a state dictionary under their bare names, in float32."""
    while isinstance(plain, dict):
        nested = next((plain[key] for key in _NESTED if isinstance(plain.get(key), dict)), None)
        if nested is None:
            break
        plain = nested
    if not isinstance(plain, dict) or not any(isinstance(value, torch.Tensor) for value in plain.values()):
        held = f"keys {listed(map(str, plain))}" if isinstance(plain, dict) else f"a {type(plain).__name__}"
        raise ModelError(f"{path}: holds no weights but {held}; expected a checkpoint or a state dictionary")
    found = _without_prefixes({str(name): value for name, value in plain.items()})
    strange = [name for name, value in found.items() if not _is_plain(name, value)]
    if strange:
        raise ModelError(f"{path}: no tensors of floating-point numbers are {listed(strange)}")
    return {
        name: value.detach().float() if value.is_floating_point() else value for name, value in found.items()
    }


def _without_prefixes(found: dict[str, Any]) -> dict[str, Any]:
    # What torch.optim.swa_utils.AveragedModel counts beside the weights.
    if any(name.startswith("module.") for name in found):
        found = {name: value for name, value in found.items() if name != "n_averaged"}
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in found)), ""):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def _is_plain(name: str, value: Any) -> bool:
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return False
    return value.is_floating_point() or name.endswith("num_batches_tracked")


def _require_finite(path: Path, found: Tensors) -> None:
    broken = [name for name, weight in found.items() if not weight.isfinite().all()]
    if broken:
        raise ModelError(
            f"{path}: NaN or infinite numbers in {len(broken)} weights ({broken[0]} first), so the training diverged; "
            "train again with a lower --learning-rate"
        )


def _by_order(found: Tensors, *, ordered: bool) -> tuple[NetworkConfig, Tensors]:
    try:
        return recognise_by_order(found)
    except ModelError as error:
        if ordered:
            raise
        raise ModelError(
            f"{error}; a .safetensors file does not keep the order of its weights, torch.save does"
        ) from error


def _arch(path: Path, network: NetworkConfig, arch: str | None) -> str:
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


def _notes(path: Path, network: NetworkConfig, *, named: bool) -> tuple[str, ...]:
    bare = (
        f"{path}: bare weights, read as arch {network.arch}, base {network.base}, depth {network.depth}"
        f"{', separable convolutions' if network.separable else ''}: their "
        "training data, pixel size, border and scores are not known; each section is normalised by its own statistics"
    )
    if named:
        return (bare,)
    norm = "BatchNorm, " if network.batch_norm else ""
    return (
        bare,
        f"{path}: its names are not ours, so its weights were taken by order and shape: twice a convolution, {norm}"
        "ReLU on every level, skips before upsampled channels, logits of cell interior; score it before you use it",
    )
