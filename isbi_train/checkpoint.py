"""Checkpoints: weights with everything needed to use, export and continue them, as plain types.

They load with ``weights_only=True``, so that opening one never runs code, and are written beside and renamed,
so that a killed run leaves the previous one whole.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from isbi_infer.errors import ModelError, UsageError
from isbi_infer.files import replacing
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.network import UNet

FORMAT, VERSION = "isbi-unet", 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What one file holds.

    Attributes
    ----------
    network, augment, train : NetworkConfig, AugmentConfig, TrainConfig
        The settings of the run.
    state_dict : dict of str to Tensor
        The averaged weights: what is validated and exported.
    epoch : int
        Epochs completed.
    data : dict
        ``sha256`` of the training images and labels, ``sections``, ``pixel_size_nm``.
    scores : dict
        On the held-out sections: ``sections``, ``loss``, ``v_rand_thin``, ``v_info_thin``.
    progress : dict
        Trained weights, optimiser, scaler and history; empty where only the averaged weights are kept.
    """

    network: NetworkConfig
    augment: AugmentConfig
    train: TrainConfig
    state_dict: dict[str, torch.Tensor]
    epoch: int
    data: dict[str, Any]
    scores: dict[str, Any]
    progress: dict[str, Any] = field(default_factory=dict)

    def load_network(self) -> UNet:
        """Build the network with the averaged weights, in evaluation mode, on the CPU."""
        network = UNet(self.network)
        network.load_state_dict(self.state_dict)
        return network.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; an existing one is replaced only when the new one is whole.

    Parameters
    ----------
    path : Path
        Usually ``*.pth``.
    checkpoint : Checkpoint
        What to store.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    plain = {
        "format": FORMAT,
        "version": VERSION,
        "network": checkpoint.network.to_plain(),
        "augment": checkpoint.augment.to_plain(),
        "train": checkpoint.train.to_plain(),
        "state_dict": checkpoint.state_dict,
        "epoch": checkpoint.epoch,
        "data": checkpoint.data,
        "scores": checkpoint.scores,
        "progress": checkpoint.progress,
    }
    # torch turns a full disk into a RuntimeError when it writes a path; a file object keeps the OSError.
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(plain, file)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without running any code in it.

    Parameters
    ----------
    path : Path
        A file written by `save_checkpoint`.

    Returns
    -------
    Checkpoint
        With tensors on the CPU.

    Raises
    ------
    ModelError
        If the file is missing, damaged, no checkpoint of this project, or its weights do not fit its network.
    """
    plain = _read_plain(path)
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise ModelError(f"{path}: not a checkpoint written by isbi-train (no {FORMAT!r} in it)")
    if plain.get("version") != VERSION:
        raise ModelError(
            f"{path}: checkpoint version {plain.get('version')!r}, this program reads {VERSION}; update isbi-infer"
        )
    try:
        _check_parts(plain)
        network = NetworkConfig.from_plain(plain["network"])
        return Checkpoint(
            network=network,
            augment=AugmentConfig.from_plain(plain["augment"]),
            train=TrainConfig.from_plain(plain["train"]),
            state_dict=_fitting_weights(plain["state_dict"], network),
            **{key: plain[key] for key in ("epoch", "data", "scores", "progress")},
        )
    except (TypeError, AttributeError, UsageError, ModelError) as error:
        raise ModelError(f"{path}: damaged checkpoint: {error}") from error


def _read_plain(path: Path) -> object:
    """Unpickle plain types and tensors from an intact archive."""
    try:
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise ModelError(f"{path}: is a Git LFS pointer, not the checkpoint; run: git lfs pull")
        # torch does not compare the archive's checksums, so a flipped bit would pass for a weight.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ModelError(f"{path}: damaged checkpoint ({damaged} has another checksum); copy it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such checkpoint") from None
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: holds more than tensors and plain settings, which could run code, and is not opened"
        ) from error
    except Exception as error:
        # Damaged files make zipfile and torch raise nearly anything.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(f"{path}: not a readable checkpoint ({reason}); copy or train it again") from error


_LFS_POINTER = b"version https://git-lfs"
_PARTS = {
    "network": dict,
    "augment": dict,
    "train": dict,
    "state_dict": dict,
    "epoch": int,
    "data": dict,
    "scores": dict,
    "progress": dict,
}


def _check_parts(plain: dict[str, Any]) -> None:
    missing = sorted(set(_PARTS) - set(plain))
    if missing:
        raise ModelError(f"{', '.join(missing)} missing")
    for name, kind in _PARTS.items():
        if not isinstance(plain[name], kind):
            raise ModelError(f"{name} is a {type(plain[name]).__name__}, expected {kind.__name__}")
    missing = sorted({"sha256", "sections", "pixel_size_nm"} - set(plain["data"]))
    if missing:
        raise ModelError(f"data lacks {', '.join(missing)}")


def _fitting_weights(found: dict[str, Any], config: NetworkConfig) -> dict[str, torch.Tensor]:
    """Compare weights with the network they are for, and give them under its names.

    What `torch.nn.DataParallel` puts before every name is taken off.
    """
    if found and all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): weight for name, weight in found.items()}
    with torch.device("meta"):
        expected = UNet(config).state_dict()
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unexpected:
        raise ModelError(f"its weights are not of its network: missing {missing}, unexpected {unexpected}")
    for name, like in expected.items():
        if not isinstance(found[name], torch.Tensor) or found[name].shape != like.shape:
            shape = tuple(getattr(found[name], "shape", ()))
            raise ModelError(
                f"its weights are not of its network: {name} is {shape}, expected {tuple(like.shape)}"
            )
    return found


def file_sha256(path: Path) -> str:
    """Hash a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
