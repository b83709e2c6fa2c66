"""The weights that a run starts from: which file, whose network, whose terms, and at which pixel size."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch.nn import functional as F

from isbi_infer.errors import ModelError, UsageError
from isbi_infer.model.opening import find_released
from isbi_infer.plan.scaling import scaling_between
from isbi_infer.terminal import nearest_file
from isbi_models import default_model
from isbi_train.config import NetworkConfig
from isbi_train.config.inputs import RELEASED, Inputs
from isbi_train.config.settings import Settings, resolve
from isbi_train.data.labelled import LabelledStack
from isbi_train.networks.checkpoint import Weights, file_sha256
from isbi_train.networks.network import UNet
from isbi_train.networks.origins import Origin, check_registered, origins_of
from isbi_train.networks.weights import load_weights
from isbi_train.networks.widen import can_widen, widen
from isbi_train.training.distil import sections_seen

log = logging.getLogger(__name__)

_FIRST = "encoder.0.0.weight"  # the first convolution's, (out, in, Y, X)


@dataclass(frozen=True, slots=True)
class Start:
    """Weights to start from.

    Attributes
    ----------
    name : str
        As the user wrote it.
    sha256 : str
        Of their file.
    weights : Weights
        What it holds.
    origins : tuple of Origin
        Under whose terms they come.
    """

    name: str
    sha256: str
    weights: Weights
    origins: tuple[Origin, ...]

    @classmethod
    def read(cls, name: str, arch: str | None = None) -> Start:
        """Read a released model's checkpoint by its name, or a file.

        Parameters
        ----------
        name : str
            "released", the name of a released model, or a path; a file of that name comes first.
        arch : str, optional
            Architecture of bare weights; see `isbi_train.networks.weights.load_weights`.

        Raises
        ------
        ModelError, UsageError
            If there is no such file, or it cannot be trusted.
        """
        is_default = name == RELEASED and not Path(name).is_file()
        model = default_model() if is_default else find_released(name)
        path = model.checkpoint.path if model else Path(name)
        if not path.is_file():
            raise ModelError(f"{path}: no such checkpoint{nearest_file(path)}")
        if model:
            check_registered(path, model)
        sha256 = file_sha256(path)
        weights = load_weights(path, arch)
        return cls(model.name if model else name, sha256, weights, origins_of(weights, sha256))

    @property
    def pixel_size_nm(self) -> float | None:
        """Side of a pixel in the data that they were trained on; None where not known."""
        return self.weights.data["pixel_size_nm"] if self.weights.data else None

    def load_into(self, model: UNet) -> None:
        """Give a network these weights; UsageError, listing the differences, if it is another.

        A network that sees more neighbours than theirs does not look at these at first, and one that has more channels
        computes what theirs does at first.
        """
        network, weights = self.weights.network, dict(self.weights.state_dict)
        more = model.config.neighbours - network.neighbours
        if more > 0:
            network = replace(network, neighbours=model.config.neighbours)
            weights[_FIRST] = F.pad(weights[_FIRST], (0, 0, 0, 0, *[more * network.unshuffle**2] * 2))
        theirs, ours = network.shapes, model.config.shapes
        if theirs != ours and not can_widen(network, model.config):
            differing = [
                f"{key}: {theirs[key]!r} -> {ours[key]!r}" for key in theirs if theirs[key] != ours[key]
            ]
            raise UsageError(
                f"{self.name}: is of another network ({'; '.join(differing)}); give its settings, or leave out what "
                "sets others"
            )
        model.load_state_dict(weights if theirs == ours else widen(weights, model.state_dict()))

    def say(
        self,
        network: NetworkConfig,
        pixel_size_nm: float | None,
        stacks: Mapping[str, tuple[LabelledStack, slice]],
    ) -> None:
        """Log terms, more channels, another pixel size, and held-out sections that were trained on before.

        Parameters
        ----------
        network : NetworkConfig
            What is trained.
        pixel_size_nm : float or None
            At which the run trains.
        stacks : mapping of str to (LabelledStack, slice)
            By what to call it: all sections of a stack as stored, and which of them are held out.
        """
        for origin in self.origins:
            log.info("starting from %s: its terms go along with the result", origin)
        if network.widths != self.weights.network.widths:
            log.warning(
                "%s has %s channels by level, this network %s: the new ones learn from nothing",
                self.name,
                *("-".join(map(str, config.widths)) for config in (self.weights.network, network)),
            )
        ours, theirs = pixel_size_nm, self.pixel_size_nm
        if ours and theirs and scaling_between(theirs, ours, ours):
            log.warning(
                "%s was trained at %g nm, these sections are of %g nm: it must learn another scale",
                self.name,
                theirs,
                ours,
            )
        for called, (stack, held_out) in stacks.items():
            for part in self.weights.seen:
                if sections_seen(part.data_sha256, part.sections, stack, held_out):
                    log.warning(
                        "%s has seen sections %s of %s in training, so the scores on sections %d:%d are of seen ones",
                        self.name,
                        part.sections,
                        called,
                        held_out.start,
                        held_out.stop,
                    )


def settings_from(
    layers: Iterable[tuple[str, Mapping[str, Mapping[str, Any]]]],
) -> tuple[Settings, Start | None]:
    """Resolve settings, where the network is that of the weights to start from unless they set another.

    Parameters
    ----------
    layers : iterable of (str, Layer)
        See `isbi_train.config.settings.resolve`.

    Returns
    -------
    (Settings, Start or None)
        None where a run starts from fresh weights.
    """
    known = list(layers)
    chosen = resolve(known)
    if not chosen.inputs.init:
        return chosen, None
    named = any("arch" in layer.get("network", {}) for _, layer in known)
    start = Start.read(chosen.inputs.init, chosen.network.arch if named else None)
    network = {key: value for key, value in start.weights.network.to_plain().items() if value is not None}
    return resolve([(f"--init {start.name}", {"network": network}), *known]), start


def at_its_pixel_size(inputs: Inputs, stack: LabelledStack, start: Start) -> tuple[Inputs, str]:
    """Decide at which pixel size a stack is trained on: at that of the weights to start from.

    Parameters
    ----------
    inputs : Inputs
        Where they name a size to train at, that one is taken.
    stack : LabelledStack
        As `isbi_train.data.inputs.read_labelled` read it.
    start : Start
        What the run starts from.

    Returns
    -------
    (Inputs, str)
        The inputs by which the stack is to be read, and a note; empty where both sizes are the same.
    """
    theirs, ours = start.pixel_size_nm, stack.pixel_size_nm
    if theirs is None or inputs.resample_nm is not None:
        return inputs, ""
    if ours is None:
        note = f"the stack does not say how large a pixel is: taken for the {theirs:g} nm of {start.name}"
        return replace(inputs, pixel_size_nm=theirs), f"{note}; give --pixel-size if it is another"
    if scaling_between(theirs, ours, ours) is None:
        return inputs, ""
    note = f"{start.name} was trained at {theirs:g} nm: sections of {ours:g} nm are resampled to it"
    return replace(inputs, resample_nm=theirs), f"{note}; --resample {ours:g} trains on them as they are"
