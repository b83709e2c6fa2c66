"""Cross-validation over blocks of neighbouring sections: each block is held out once."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from isbi_infer.errors import IsbiError, UsageError
from isbi_infer.files import replacing
from isbi_infer.terminal.progress import Display
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.config.inputs import Inputs
from isbi_train.config.stacks import StackEntry
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.sections import blocks
from isbi_train.data.stacks import TrainingData, TrainingStack, load_entry, read_stacks
from isbi_train.networks.checkpoint import Checkpoint, load_checkpoint
from isbi_train.training.distil import Teaching, digests_of
from isbi_train.training.distributed import SINGLE_PROCESS, ProcessGroup
from isbi_train.training.finish import is_finished
from isbi_train.training.start import Start
from isbi_train.training.state import BEST, LIST, MODEL
from isbi_train.training.train import fit
from isbi_train.training.validate import HeldOut

FOLDS = "folds.json"
SCORES = ("v_rand_thin", "v_info_thin", "loss")
_HELD_OUT = ("hold_out", "hold_out_start", "held_out")  # in which the folds differ
_NO_MATTER = ("device", "precision", "checkpoint_epochs", "terms", "citation")  # or may
_ABSENT = "none"


@dataclass(frozen=True)
class FoldsOfOne:
    """A labelled stack, of which each fold holds out one block.

    Attributes
    ----------
    stack : LabelledStack
        All its sections.
    train : TrainConfig
        Settings of every fold; what they hold out is replaced.
    count : int
        How many folds.
    """

    stack: LabelledStack
    train: TrainConfig
    count: int

    @cached_property
    def blocks(self) -> list[slice]:
        """What each fold holds out; UsageError if there are fewer sections than folds."""
        return blocks(len(self.stack), self.count)

    @cached_property
    def _sha256(self) -> dict[str, str]:
        return self.stack.sha256()

    def fold(self, number: int) -> tuple[LabelledStack, TrainConfig]:
        """Return what a fold trains on, and its settings."""
        return self.stack, fold_config(self.train, self.blocks[number])

    def others(self) -> tuple[TrainingStack, ...]:
        """Return the stacks that are not cut: none."""
        return ()

    def check(self, number: int, others: Sequence[TrainingStack], inputs: Inputs) -> dict[str, Any]:
        """Raise IsbiError if a fold cannot be trained with its block held out.

        Parameters
        ----------
        number : int
            Which fold.
        others : sequence of TrainingStack
            What `others` gives.
        inputs : Inputs
            Names teachers and unlabelled sections.

        Returns
        -------
        dict
            What its checkpoints will hold of its data and its teachers.
        """
        stack, train = self.fold(number)
        data = TrainingData.of_one(stack, train)
        HeldOut.of(data.stacks[0], train)
        teaching = Teaching.of(inputs, stack, train)
        return {**data.facts, "teaching": digests_of({"": teaching} if teaching else {})}

    def scores(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        """Return those scores of a fold that are of the sections it held out; None if it is of another stack."""
        same = "stacks" not in checkpoint.data and checkpoint.data.get("sha256") == self._sha256
        return dict(checkpoint.scores) if same else None


@dataclass(frozen=True)
class FoldsOfList:
    """A list of labelled stacks, of one of which each fold holds out one block; the others are as the list says.

    Attributes
    ----------
    entries : tuple of StackEntry
        The list.
    name : str
        The stack that is cut into blocks.
    train : TrainConfig
        Settings of every fold.
    count : int
        How many folds.
    resample_nm : float or None
        Side of a pixel to train at, in nanometres.
    origin : str
        The list's file, for messages.
    """

    entries: tuple[StackEntry, ...]
    name: str
    train: TrainConfig
    count: int
    resample_nm: float | None
    origin: str

    @property
    def blocks(self) -> list[slice]:
        """What each fold holds out; UsageError if there is no such stack, or it has fewer sections than folds."""
        return blocks(self._cut[0], self.count)

    @cached_property
    def _cut(self) -> tuple[int, dict[str, str]]:
        """How many sections are cut into blocks, and their digest."""
        names = [entry.name for entry in self.entries]
        if self.name not in names:
            raise UsageError(
                f"{self.origin}: holds no stack {self.name!r} to cut into folds; it has {', '.join(names)}"
            )
        try:
            stack, _ = load_entry(self.entries[names.index(self.name)], self.train)
        except IsbiError as error:
            raise type(error)(f"{self.origin}: stack {self.name!r}: {error}") from error
        return len(stack), stack.sha256()

    def fold(self, number: int) -> tuple[TrainingData, TrainConfig]:
        """Return what a fold trains on, and its settings; IsbiError as `isbi_train.data.stacks.read_stacks`."""
        cut = self._entry(number)
        entries = [cut if entry.name == self.name else entry for entry in self.entries]
        return read_stacks(entries, self.train, self.resample_nm, self.origin), self.train

    def others(self) -> tuple[TrainingStack, ...]:
        """Read the stacks that are not cut; IsbiError if one of them cannot be trained or scored on, or be taught."""
        entries = [entry for entry in self.entries if entry.name != self.name]
        if not entries:
            return ()
        data = read_stacks(entries, self.train, self.resample_nm, self.origin)
        for stack in data.stacks:
            HeldOut.of(stack, self.train)
        Teaching.of_list(data)
        return data.stacks

    def check(self, number: int, others: Sequence[TrainingStack], inputs: Inputs) -> dict[str, Any]:
        """Raise IsbiError if a fold cannot be trained with its block held out; see `FoldsOfOne.check`.

        Of the list only the stack that is cut is read.
        """
        (part,) = read_stacks([self._entry(number)], self.train, self.resample_nm, self.origin).stacks
        HeldOut.of(part, self.train)
        found = {stack.name: stack for stack in (*others, part)}
        data = TrainingData.of_list([found[entry.name] for entry in self.entries])
        return {**data.facts, "teaching": digests_of(Teaching.of_list(data))}

    def _entry(self, number: int) -> StackEntry:
        """Return the cut stack's entry, with the block of a fold held out."""
        block, (entry,) = self.blocks[number], [entry for entry in self.entries if entry.name == self.name]
        return replace(entry, hold_out=block.stop - block.start, hold_out_start=block.start)

    def scores(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        """Return those scores of a fold that are of the sections it held out; None if it is of another stack."""
        for stack in checkpoint.data.get("stacks", ()):
            if stack["name"] == self.name and stack["sha256"] == self._cut[1]:
                return {**checkpoint.scores["stacks"][self.name], "sections": stack["held_out"]}
        return None


def fold_config(train: TrainConfig, held_out: slice) -> TrainConfig:
    """Return the settings that hold out one block of sections."""
    return replace(train, hold_out=held_out.stop - held_out.start, hold_out_start=held_out.start)


def cross_validate(
    cut: FoldsOfOne | FoldsOfList,
    out: Path,
    *,
    only: int | None = None,
    network: NetworkConfig,
    augment: AugmentConfig,
    inputs: Inputs | None = None,
    report: Callable[[int, dict[str, Any]], None] | None = None,
    finished: Callable[[int, TrainingData, TrainConfig], None] | None = None,
    processes: ProcessGroup = SINGLE_PROCESS,
    display: Display | None = None,
) -> dict[str, Any]:
    """Train one model for each block of sections, on all others, and average their scores.

    Folds that were finished before are not trained again, and a stopped one goes on where it stopped.

    Parameters
    ----------
    cut : FoldsOfOne or FoldsOfList
        The stack that is cut into blocks, and what each fold trains on.
    out : Path
        Folder for ``fold-0``, ``fold-1`` ..., each as `isbi_train.training.train.fit` leaves it, and ``folds.json``;
        of a list each has its own, ``stacks.toml``.
    only : int, optional
        Train this one only.
    network, augment, inputs
        As for `isbi_train.training.train.fit`.
    report : callable, optional
        Called with the fold and what `isbi_train.training.train.fit` reports.
    finished : callable, optional
        Called in the main process with each fold that is trained, its data and its settings.
    processes : ProcessGroup
        The processes that train together.
    display : Display, optional
        As for `isbi_train.training.train.fit`.

    Returns
    -------
    dict
        What is in ``folds.json``, see `collect_scores`; empty in all processes but the main one.

    Raises
    ------
    UsageError
        If there are fewer sections than folds, or no such fold, or finished folds in the folder are of another
        cross-validation or have other settings.
    IsbiError
        Naming the fold, before the first one trains, if a block cannot be held out, see
        `isbi_train.training.validate.HeldOut.of`, or must not be, see `isbi_train.training.distil.Teaching`; and as
        `isbi_train.training.train.fit`.
    """
    folds = len(cut.blocks)
    chosen = range(folds) if only is None else [only]
    if only is not None and not 0 <= only < folds:
        raise UsageError(f"there is no fold {only} of {folds}; they are counted from 0 to {folds - 1}")
    check_of_this_cut(out, cut)
    facts = check_folds(cut, chosen, inputs or Inputs(), display or Display())
    settings = FoldSettings.of(cut, network, augment, facts, inputs)
    settings.check_finished(out)
    for fold in chosen:
        folder = fold_folder(out, fold)
        resume = folder.exists()
        data, train = cut.fold(fold)
        if isinstance(cut, FoldsOfList):  # by a list of its own the fold can be run again
            inputs = replace(inputs or Inputs(), stacks=str(folder.absolute() / LIST), leave_out=())
        fit(
            data,
            folder,
            network=network,
            augment=augment,
            train=train,
            inputs=inputs,
            resume=resume,
            report=partial(report, fold) if report else None,
            processes=processes,
            display=display,
        )
        if finished and processes.is_main:
            whole = TrainingData.of_one(data, train) if isinstance(data, LabelledStack) else data
            finished(fold, whole, train)
            del whole
        del data  # the next fold reads its own
    if not processes.is_main:
        return {}
    settings.check_finished(out)  # others may have trained folds meanwhile
    found = collect_scores(out, cut)
    with replacing(out / FOLDS) as temporary:
        temporary.write_text(json.dumps(found, indent=1))
    return found


def fold_folder(out: Path, fold: int) -> Path:
    """Name the folder of one fold."""
    return out / f"fold-{fold}"


def check_folds(
    cut: FoldsOfOne | FoldsOfList, numbers: Iterable[int], inputs: Inputs, display: Display
) -> dict[str, Any]:
    """Look at all folds before the first one trains.

    Parameters
    ----------
    cut, inputs, display
        See `cross_validate`.
    numbers : iterable of int
        Which folds.

    Returns
    -------
    dict
        What checkpoints will hold of the data and the teachers of the last of them.

    Raises
    ------
    IsbiError
        If a fold cannot be trained, naming it where its block is the reason.
    """
    display.stage("looking at what is trained on")
    others, facts = cut.others(), dict[str, Any]()
    for number in numbers:
        block = cut.blocks[number]
        display.stage(f"looking at what fold {number} holds out")
        try:
            facts = cut.check(number, others, inputs)
        except IsbiError as error:
            said = f"fold {number}, which holds out {block.start}:{block.stop}: {error}"
            raise type(error)(said) from error
    return facts


@dataclass(frozen=True)
class FoldSettings:
    """What all folds of a cross-validation have in common, so that their mean says something.

    Attributes
    ----------
    cut : FoldsOfOne or FoldsOfList
        What is cut into blocks.
    known : dict
        Settings, data and teachers, by what a message calls them.
    """

    cut: FoldsOfOne | FoldsOfList
    known: dict[str, Any]

    @classmethod
    def of(
        cls,
        cut: FoldsOfOne | FoldsOfList,
        network: NetworkConfig,
        augment: AugmentConfig,
        facts: Mapping[str, Any],
        inputs: Inputs | None,
    ) -> FoldSettings:
        """Return those of a run; IsbiError if there are no such weights to start from."""
        init = inputs.init if inputs else None
        begins_with = {"init": Start.read(init, network.arch).sha256} if init else {}
        return cls(cut, _settings_of(cut, network, augment, cut.train, {**facts, **begins_with}))

    def check_finished(self, out: Path) -> None:
        """Raise UsageError, listing the differences, if a finished fold in a folder has other ones."""
        for fold in range(len(self.cut.blocks)):
            path = fold_folder(out, fold) / MODEL
            checkpoint = load_checkpoint(path) if path.exists() else None
            if checkpoint is None or not is_finished(checkpoint):
                continue
            then = _settings_of(
                self.cut, checkpoint.network, checkpoint.augment, checkpoint.train, checkpoint.data
            )
            differing = [
                f"{key}: {then.get(key, _ABSENT)!r} -> {self.known.get(key, _ABSENT)!r}"
                for key in {**self.known, **then}
                if then.get(key, _ABSENT) != self.known.get(key, _ABSENT)
            ]
            if differing:
                raise UsageError(
                    f"{path.parent}: was trained with other settings ({'; '.join(differing)}), so that no mean over "
                    "the folds would say anything; give --out another folder, or the settings of that fold"
                )


def _settings_of(
    cut: FoldsOfOne | FoldsOfList,
    network: NetworkConfig,
    augment: AugmentConfig,
    train: TrainConfig,
    data: Mapping[str, Any],
) -> dict[str, Any]:
    """Name all that the folds of a cross-validation have in common: all but what each holds out."""
    parts = {"network": network, "augment": augment, "train": train}
    found = {
        f"{part}.{key}": value
        for part, config in parts.items()
        for key, value in config.to_plain().items()
        if key not in (*_HELD_OUT, *_NO_MATTER)
    }
    for key in ("pixel_size_nm", "normalisation", "init"):
        found[key] = data.get(key, _ABSENT)
    found |= {f"teaching {what}": sha256 for what, sha256 in data.get("teaching", {}).items()}
    for stack in data.get("stacks", ()):
        cut_here = isinstance(cut, FoldsOfList) and stack["name"] == cut.name
        for key, value in stack.items():
            if key not in ("name", *_NO_MATTER) and not (cut_here and key in _HELD_OUT):
                found[f"stack {stack['name']!r} {key}"] = value
    return found


def check_of_this_cut(out: Path, cut: FoldsOfOne | FoldsOfList) -> None:
    """Raise UsageError if a finished fold in a folder is of another stack, or held out another block than now."""
    for fold, block in enumerate(cut.blocks):
        path = fold_folder(out, fold) / MODEL
        if not path.exists():
            continue
        found = cut.scores(load_checkpoint(path))
        if found is None or found["sections"] != f"{block.start}:{block.stop}":
            held_out = found["sections"] if found else "sections of another stack"
            raise UsageError(
                f"{path.parent}: held out {held_out}, not {block.start}:{block.stop}, so it is of another "
                "cross-validation; give --out another folder"
            )


def collect_scores(out: Path, cut: FoldsOfOne | FoldsOfList) -> dict[str, Any]:
    """Collect and average the scores of the folds that are finished.

    Parameters
    ----------
    out, cut
        See `cross_validate`.

    Returns
    -------
    dict
        ``folds``; ``unfinished``, the numbers of those that were begun and stopped; ``per_fold``, each with ``fold``,
        ``epoch``, its ``sections``, the scores of its last weights on them, and those of its best validation as
        ``best``; ``mean`` and ``spread`` (the sample standard deviation, None for one fold) of the last weights'
        scores. Best validations are chosen by the very scores they show, so they are not averaged.
    """
    per_fold, unfinished = [], []
    for fold in range(len(cut.blocks)):
        folder = fold_folder(out, fold)
        if not (folder / MODEL).exists():
            if folder.exists():
                unfinished.append(fold)
            continue
        last = load_checkpoint(folder / MODEL)
        if not is_finished(last):
            unfinished.append(fold)
            continue
        best = load_checkpoint(folder / BEST)
        per_fold.append(
            {
                "fold": fold,
                "epoch": last.epoch,
                **(cut.scores(last) or {}),
                "best": {"epoch": best.epoch, **(cut.scores(best) or {})},
            }
        )
    return {
        "folds": len(cut.blocks),
        "unfinished": unfinished,
        "per_fold": per_fold,
        **averaged(per_fold),
    }


def averaged(per_fold: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Average scores over folds.

    Parameters
    ----------
    per_fold : sequence of mapping
        Each with `SCORES`; more is not looked at.

    Returns
    -------
    dict
        ``mean`` and ``spread`` (the sample standard deviation, None for one fold) of every score; no mean of no fold.
    """
    values = {score: [entry[score] for entry in per_fold] for score in SCORES}
    return {
        "mean": {score: statistics.fmean(found) for score, found in values.items() if found},
        "spread": {
            score: statistics.stdev(found) if len(found) > 1 else None for score, found in values.items()
        },
    }
