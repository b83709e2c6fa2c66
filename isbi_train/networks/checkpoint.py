"""Checkpoints: weights with everything needed to use, export and continue them, as plain types.

They load with ``weights_only=True``, so that opening one never runs code, and are written beside and renamed,
so that a killed run leaves the previous one whole. `isbi_train.networks.weights` reads what others wrote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from isbi_infer.errors import ModelError, UsageError
from isbi_infer.files import replacing
from isbi_infer.model.contract import ZSCORE, Normalisation
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.networks.archive import read_pickled
from isbi_train.networks.network import UNet
from isbi_train.networks.parts import check_parts, check_settings
from isbi_train.networks.seen import SeenStack, once, read_seen, stacks_of_data

FORMAT, VERSION = "isbi-unet", 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A network with its weights, and what is known about where they come from; of bare weights nothing is.

    Attributes
    ----------
    network : NetworkConfig
        The architecture.
    state_dict : dict of str to Tensor
        What is validated and exported: of a run the averaged weights.
    augment, train : AugmentConfig, TrainConfig or None
        The settings of the run.
    epoch : int or None
        Epochs completed.
    data : dict or None
        ``sha256`` of the training images and labels, ``sections``, ``pixel_size_nm``, ``normalisation``; ``init``,
        ``teaching``, ``origins`` and ``seen`` where there are any (see `isbi_train.networks.origins` and
        `isbi_train.networks.seen`); of a run on several stacks ``stacks``, see `isbi_train.data.stacks.TrainingStack`.
    scores : dict
        On the held-out sections: ``sections``, ``loss``, ``v_rand_thin``, ``v_info_thin``; empty where not known.
    notes : tuple of str
        What a user must know about how the weights were read.
    """

    network: NetworkConfig
    state_dict: dict[str, torch.Tensor]
    augment: AugmentConfig | None = None
    train: TrainConfig | None = None
    epoch: int | None = None
    data: dict[str, Any] | None = None
    scores: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def border(self) -> int:
        """Mirrored pixels around a section when it is segmented; 0 where not known."""
        return self.train.border if self.train else 0

    @property
    def normalisation(self) -> Normalisation:
        """How sections were normalised in training; "section-zscore" where not known, and before there was another."""
        found: Normalisation = (self.data or {}).get("normalisation", ZSCORE)
        return found

    @property
    def stacks(self) -> tuple[SeenStack, ...]:
        """Of which stacks which sections were trained on; empty where not known."""
        if not self.data or not self.train:
            return ()
        return stacks_of_data(self.data, self.train)

    @property
    def seen(self) -> tuple[SeenStack, ...]:
        """Likewise, with what the weights that it began with and its teachers had seen, in turn."""
        return once((*self.stacks, *read_seen(self.data or {})))

    def load_network(self) -> UNet:
        """Build the network with the weights, in evaluation mode, on the CPU."""
        network = UNet(self.network)
        network.load_state_dict(self.state_dict)
        return network.eval()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Weights):
    """What one file of this project holds: `Weights` of which everything is known.

    Attributes
    ----------
    progress : dict
        Trained weights, optimiser, scaler and history; empty where only the averaged weights are kept.
    version : int
        Of the file that it was read from.
    """

    augment: AugmentConfig
    train: TrainConfig
    epoch: int
    data: dict[str, Any]
    scores: dict[str, Any]
    progress: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION


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
        try:
            torch.save(plain, file)
        except RuntimeError as error:
            # What torch does to end the archive may fail in turn.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


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
    plain = read_pickled(path)
    if not is_checkpoint(plain):
        raise ModelError(f"{path}: not a checkpoint written by isbi-train (no {FORMAT!r} in it)")
    return checkpoint_of(plain, path)


def is_checkpoint(plain: object) -> bool:
    """Return whether what a file held claims to be a checkpoint of this project."""
    return isinstance(plain, dict) and isinstance(found := plain.get("format"), str) and found == FORMAT


def checkpoint_of(plain: Any, path: Path) -> Checkpoint:
    """Make a checkpoint of what its file held, or raise ModelError naming the file."""
    version = plain.get("version")
    if type(version) is not int or version not in range(1, VERSION + 1):
        raise ModelError(
            f"{path}: checkpoint version {version!r}, this program reads 1 to {VERSION}; update isbi-infer"
        )
    try:
        check_parts(plain)
        if version == 1:
            plain = {**plain, **_from_version_1(plain)}
        for before, settings in _BEFORE_VERSION.items():
            if version < before:
                plain = {**plain, **{part: {**meant, **plain[part]} for part, meant in settings.items()}}
        check_settings(plain)
        network = NetworkConfig.from_plain(plain["network"])
        checkpoint = Checkpoint(
            network=network,
            augment=AugmentConfig.from_plain(plain["augment"]),
            train=TrainConfig.from_plain(plain["train"]),
            state_dict=fitting_weights(plain["state_dict"], network),
            version=version,
            **{key: plain[key] for key in ("epoch", "data", "scores", "progress")},
        )
        _ = checkpoint.stacks  # which reads a list that may be damaged
    except (TypeError, AttributeError, UsageError, ModelError) as error:
        raise ModelError(f"{path}: damaged checkpoint: {error}") from error
    return checkpoint


# What a run of version 1 did where it had no setting yet. Written out, for defaults may change.
_VERSION_1: dict[str, dict[str, Any]] = {
    "network": {"arch": "unet", "widest": 1024, "batch_norm": True},
    "augment": {
        "fold_probability": 0.0,
        "fold_width_px": 6.0,
        "fold_shift_px": 24.0,
        "fold_darkness": 3.0,
        "dirt_probability": 0.0,
        "dirt_radius_px": 16.0,
        "dirt_darkness": 4.0,
        "defocus_probability": 0.0,
        "defocus_px": 3.0,
    },
    "train": {
        "hold_out_start": None,
        "clip_norm": 1.0,
        "patience": 0,
        "calibrate": False,
        "membrane_weight": 1.0,
        "border_weight": 0.0,
        "border_sigma_px": 5.0,
        "label_smoothing": 0.0,
        "label_smoothing_px": 2.0,
        "soft_weight": 0.5,
    },
}


# Likewise before each later version.
_BEFORE_VERSION: dict[int, dict[str, dict[str, Any]]] = {
    3: {"network": {"separable": False}},
    4: {
        "augment": {
            "scale_spread": 0.0,
            "shading": 0.0,
            "grain_px": 0.0,
            "seam_probability": 0.0,
            "seam_shift_px": 4.0,
            "seam_brightness": 0.5,
            "knife_probability": 0.0,
            "knife_width_px": 1.5,
            "knife_contrast": 2.0,
            "streak_probability": 0.0,
            "streak_contrast": 0.6,
            "blocks_probability": 0.0,
            "blocks_strength": 1.0,
            "canvas_probability": 0.0,
        },
        "train": {"steps": 0, "membrane_width_nm": 0.0, "ignore_band_nm": 0.0, "validated_sections": 0},
    },
    5: {
        "network": {"neighbours": 0},
        "augment": {"gap_probability": 0.2},
        "train": {"affinity_weight": 0.0},
    },
    6: {"augment": {"shot": 0.0}, "train": {"average_share": 0.0, "deep_weight": 0.0, "cldice_weight": 0.0}},
    7: {"augment": {"slip_probability": 0.0, "slip_px": 8.0}},
    8: {"augment": {"tone": 0.0, "sharpness": 0.0}},
}


def _from_version_1(plain: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of a file of version 1 with those that came later."""
    settings = {part: {**meant, **plain[part]} for part, meant in _VERSION_1.items()}
    base, depth = plain["network"].get("base"), plain["network"].get("depth")
    if base in range(513) and depth in range(7):
        # Widths had no limit: some networks were wider than today's default allows.
        settings["network"]["widest"] = max(1024, base * 2**depth)
    return settings


def fitting_weights(found: dict[str, Any], config: NetworkConfig) -> dict[str, torch.Tensor]:
    """Compare weights with the network they are for, and give them under its names.

    What `torch.nn.DataParallel` puts before every name is taken off.

    Parameters
    ----------
    found : dict of str to Tensor
        As a file held them.
    config : NetworkConfig
        What they must fit.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    ModelError
        Listing missing and unexpected names, or naming a weight of another shape.
    """
    if found and all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): weight for name, weight in found.items()}
    expected = shapes_of(config)
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unexpected:
        raise ModelError(
            f"its weights are not of its network: missing {listed(missing)}, unexpected {listed(unexpected)}"
        )
    for name, shape in expected.items():
        weight = found[name]
        if isinstance(weight, torch.Tensor) and not is_weight(name, weight):
            raise ModelError(
                f"its weights are not of its network: {name} is of another kind ({weight.dtype}, {weight.layout}), "
                "expected a dense tensor of floating-point numbers"
            )
        if not isinstance(weight, torch.Tensor) or tuple(weight.shape) != shape:
            other = tuple(getattr(weight, "shape", ()))
            raise ModelError(f"its weights are not of its network: {name} is {other}, expected {shape}")
    return found


def is_weight(name: str, value: object) -> bool:
    """Return whether something is a tensor that a network computes with: all its numbers are there, and real.

    Sparse, nested, quantised and expanded tensors are not, nor are those on no device. Of integers a BatchNorm's
    counter alone is one.
    """
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return False
    if value.is_nested or value.is_quantized or value.is_meta or value.is_complex():
        return False
    # A few bytes may stand for any shape, which the first sum over it would make real.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return False
    return value.is_floating_point() or name.endswith("num_batches_tracked")


def shapes_of(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's weights by name, in their order of definition."""
    with torch.device("meta"):
        return {name: tuple(weight.shape) for name, weight in UNet(config).state_dict().items()}


def listed(names: Iterable[str], most: int = 12) -> str:
    """Write names as a list that stays on one line."""
    shown = list(names)
    more = f", and {len(shown) - most} more]" if len(shown) > most else "]"
    return str(shown[:most])[:-1] + more


def file_sha256(path: Path) -> str:
    """Hash a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
