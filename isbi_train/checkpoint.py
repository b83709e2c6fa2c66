"""Checkpoints: weights with everything needed to use, export and continue them, as plain types.

They load with ``weights_only=True``, so that opening one never runs code, and are written beside and renamed,
so that a killed run leaves the previous one whole.
"""

from __future__ import annotations

import hashlib
import pickle
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
        If the file is missing, damaged, or no checkpoint of this project.
    """
    try:
        plain = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such checkpoint") from None
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: not a readable checkpoint ({reason})") from error
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise ModelError(f"{path}: not a checkpoint written by isbi-train (no {FORMAT!r} in it)")
    if plain.get("version") != VERSION:
        raise ModelError(
            f"{path}: checkpoint version {plain.get('version')!r}, this program reads {VERSION}; update isbi-infer"
        )
    try:
        return Checkpoint(
            network=NetworkConfig.from_plain(plain["network"]),
            augment=AugmentConfig.from_plain(plain["augment"]),
            train=TrainConfig.from_plain(plain["train"]),
            **{key: plain[key] for key in ("state_dict", "epoch", "data", "scores", "progress")},
        )
    except (KeyError, TypeError, UsageError) as error:
        raise ModelError(f"{path}: damaged checkpoint: {error}") from error


def file_sha256(path: Path) -> str:
    """Hash a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
