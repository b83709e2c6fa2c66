"""What a comparison is to do, fixed before any training: who, on which sections, for how many steps."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from isbi_infer.errors import UsageError
from isbi_infer.files import replacing
from isbi_train.config import AugmentConfig, TrainConfig
from isbi_train.config.settings import recipe_layer, resolve
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.sections import blocks

from .networks import OURS, Network, networks, size
from .training import Split, cpu_per_step

PLAN = "plan.json"
FOLDS, LAST = 5, "last"
_PLANAR = "planar"


@dataclass(frozen=True, slots=True)
class Plan:
    """A comparison of one network with ours.

    InstanceNorm is faster on images laid out plane by plane than on channels last, so the network gets its own choice.

    Attributes
    ----------
    name : str
        Of the network, and of its folder.
    network : Network
        The network.
    augment, train : AugmentConfig, TrainConfig
        Those of our recipe, but for what is held out, and the loss where it is plain.
    record : dict
        What is written to ``plan.json``.
    """

    name: str
    network: Network
    augment: AugmentConfig
    train: TrainConfig
    record: dict[str, Any]

    def steps(self, our_steps: int) -> int:
        """Return the steps that take as much CPU time as ours, or as was asked for."""
        seconds = self.record["cpu_s_per_step"]
        minutes = self.record["minutes"]
        budget = our_steps * seconds[OURS] if minutes is None else 60 * minutes
        return max(1, round(budget / seconds[self.name]))


def held_out_blocks(sections: int, train: TrainConfig) -> dict[str, slice]:
    """Name what is held out in turn: the last sections, as our recipe does, and five blocks of neighbours."""
    folds = {f"fold-{fold}": block for fold, block in enumerate(blocks(sections, FOLDS))}
    return {LAST: train.held_out(sections), **folds}


def settings(loss: str) -> tuple[AugmentConfig, TrainConfig]:
    """Return our recipe's settings, on the CPU, with its loss ("weighted") or plain cross-entropy ("plain")."""
    recipe = resolve([(f"recipe {OURS}", recipe_layer(OURS))])
    train = replace(recipe.train, device="cpu")
    if loss == "plain":
        train = replace(train, membrane_weight=1.0, border_weight=0.0, label_smoothing=0.0)
    return recipe.augment, train


def make_plan(
    stack: LabelledStack,
    folder: Path,
    name: str,
    *,
    augment: AugmentConfig,
    train: TrainConfig,
    loss: str,
    minutes: float | None = None,
) -> Plan:
    """Measure what a step costs and write the plan, or go on with the one that is there.

    Parameters
    ----------
    stack : LabelledStack
        All labelled sections.
    folder : Path
        For ``plan.json``.
    name : str
        One of `benchmarks.studies.baselines.networks.networks`.
    augment, train : AugmentConfig, TrainConfig
        See `settings`.
    loss : str
        What `train` was made with.
    minutes : float, optional
        CPU time of one training; as much as ours takes if not given.

    Returns
    -------
    Plan

    Raises
    ------
    UsageError
        If the plan that is there is of something else.
    """
    known = networks()
    network = known[name]
    asked = {
        "network": name,
        "title": network.title,
        "loss": loss,
        "minutes": minutes,
        "augment": augment.to_plain(),
        "train": train.to_plain(),
        "data": stack.sha256(),
        "sections": len(stack),
        **size(network.build()),
    }
    path = folder / PLAN
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        differing = [key for key, value in asked.items() if key != "title" and record.get(key) != value]
        if differing:
            raise UsageError(
                f"{path}: is of another comparison ({', '.join(differing)}); choose another --out"
            )
        return Plan(name, network, augment, train, record | {"title": network.title})
    split = Split.of(stack, train.held_out(len(stack)), augment, train)
    found = cpu_per_step(
        split,
        {
            OURS: (known[OURS].build, False),
            name: (network.build, False),
            _PLANAR: (network.build, True),
        },
    )
    planar = name != OURS and found[_PLANAR] < found[name]
    record = asked | {
        "cpu_s_per_step": {OURS: found[OURS], name: min(found[_PLANAR], found[name])},
        "planar": planar,
        "threads": torch.get_num_threads(),
        "dtype": str(split.device.dtype),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return Plan(name, network, augment, train, record)
