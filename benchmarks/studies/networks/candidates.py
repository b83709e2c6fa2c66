"""The networks that are compared, and the training of those that are not trained yet."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isbi_infer.errors import ModelError, UsageError
from isbi_train.config.inputs import Inputs
from isbi_train.config.settings import Settings, read_layer, recipe_layer, resolve
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.stacks import TrainingData
from isbi_train.networks.checkpoint import Checkpoint, load_checkpoint
from isbi_train.training.finish import finish
from isbi_train.training.state import HISTORY, MODEL, RunSettings
from isbi_train.training.train import fit
from isbi_train.training.validate import HeldOut

NETWORKS = Path(__file__).with_name("networks.toml")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One network of the study: its name, which is that of its folder, and all settings of its training."""

    name: str
    settings: Settings


@dataclass(frozen=True, slots=True)
class Study:
    """What is compared: the recipe's name, and the candidates."""

    recipe: str
    candidates: tuple[Candidate, ...]


def read_study(path: Path, data: Path, only: Sequence[str] = ()) -> Study:
    """Read which networks are compared.

    Parameters
    ----------
    path : Path
        TOML: ``recipe``; tables under ``networks``, each laid over the recipe's; ``settings``, with whose sections
        (``[settings.train]`` ...) the recipe is changed for all of them.
    data : Path
        Of the training, kept in every run's settings.
    only : sequence of str
        Names of those wanted; all when empty.

    Returns
    -------
    Study

    Raises
    ------
    UsageError
        If the file is none of this kind, or a name is not in it.
    """
    found: dict[str, Any] = dict(read_layer(path))
    networks, recipe = found.pop("networks", {}), found.pop("recipe", "released")
    changes = found.pop("settings", {})
    if found or not networks:
        raise UsageError(
            f"{path}: found {', '.join(found) or 'no networks'}; expected recipe, settings and networks"
        )
    unknown = sorted(set(only) - set(networks))
    if unknown:
        raise UsageError(f"{path}: no network {', '.join(unknown)}; choose from {', '.join(networks)}")
    candidates = []
    for name in only or networks:
        layers = [(f"recipe {recipe}", recipe_layer(recipe)), (f"{path} [settings]", changes)]
        settings = resolve([*layers, (f"{path} [networks.{name}]", {"network": networks[name]})])
        candidates.append(Candidate(name, replace(settings, inputs=Inputs(data=str(data.absolute())))))
    return Study(recipe, tuple(candidates))


def finished_run(candidate: Candidate, stack: LabelledStack, folder: Path) -> Checkpoint | None:
    """Return what a finished training of this very candidate left in a folder.

    Returns
    -------
    Checkpoint or None
        None where it is not there or not finished.

    Raises
    ------
    UsageError
        If the folder holds a run with other settings or data.
    ModelError
        If its checkpoint is damaged.
    """
    model = folder / MODEL
    if not model.exists():
        return None
    checkpoint, settings = load_checkpoint(model), candidate.settings
    train = settings.train.counted(len(stack))
    data = TrainingData.of_one(stack, train).facts
    wanted = RunSettings(settings.network, settings.augment, train, data)
    try:
        wanted.check_same(checkpoint)
    except UsageError as error:
        raise UsageError(f"{model}: is of another run than the study's; move it away ({error})") from error
    return checkpoint if checkpoint.epoch >= settings.train.epochs else None


def train(
    candidate: Candidate,
    stack: LabelledStack,
    folder: Path,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> bool:
    """Train a candidate unless that is done; a stopped training goes on where it stopped.

    Returns
    -------
    bool
        Whether anything was trained.

    Raises
    ------
    UsageError, ModelError
        See `finished_run` and `isbi_train.training.train.fit`.
    """
    settings = candidate.settings
    if finished_run(candidate, stack, folder):
        data = TrainingData.of_one(stack, settings.train)
        held_out = [HeldOut.of(part, settings.train) for part in data.stacks]
        finish(
            folder / MODEL, settings.train, data, held_out
        )  # nothing, unless the training was killed just before it
        return False
    fit(
        stack,
        folder,
        network=settings.network,
        augment=settings.augment,
        train=settings.train,
        inputs=settings.inputs,
        resume=folder.exists(),
        report=report,
    )
    return True


def training_seconds(folder: Path) -> float:
    """Add up the wall time of a training, which starts at 0 again wherever it was stopped and went on."""
    path = folder / HISTORY
    try:
        seconds = [float(entry["seconds"]) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{path}: no readable history of a training ({error}); copy it beside {MODEL}"
        ) from error
    ends = [before for before, after in zip(seconds, [*seconds[1:], 0.0], strict=True) if after < before]
    return sum(ends)
