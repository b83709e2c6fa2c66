"""What changes from step to step of a run, how it is kept, and how a stopped run goes on."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from isbi_infer.errors import ModelError, OutputError, UsageError
from isbi_infer.files import check_writable, replacing
from isbi_infer.terminal import one_line
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from isbi_train.networks.seen import SEEN
from isbi_train.training.device import Device
from isbi_train.training.heads import WithHeads

log = logging.getLogger(__name__)

MODEL, BEST, PROGRESS, HISTORY = "model.pth", "best.pth", "progress.pth", "history.json"
PREVIOUS, SETTINGS, LIST = "progress.previous.pth", "settings.toml", "stacks.toml"
HISTORY_TABLE = "history.csv"
_ABSENT = "none"
_SEED_REACHES_CROPS = 5  # the first version of checkpoints of which that is so
_KNOWS_AS_STORED = 8  # likewise: names stacks by their ids too, and as they are before they are resampled


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What a run may not change when it is resumed.

    Attributes
    ----------
    network, augment, train : NetworkConfig, AugmentConfig, TrainConfig
        As given.
    data : dict
        As `isbi_train.networks.checkpoint.Checkpoint` stores it.
    """

    network: NetworkConfig
    augment: AugmentConfig
    train: TrainConfig
    data: dict[str, Any]

    def parts(self) -> dict[str, Any]:
        """Return the fields by name, as a `Checkpoint` takes them."""
        return {"network": self.network, "augment": self.augment, "train": self.train, "data": self.data}

    def check_same(self, saved: Checkpoint) -> None:
        """Raise UsageError, listing the differences, unless a checkpoint is of this very run."""
        if saved.version < _SEED_REACHES_CROPS:
            raise UsageError(
                "cannot resume, the run was begun by a version that drew other crops; another folder starts a new one, "
                f"with --init {MODEL} from its weights"
            )
        if saved.version < _KNOWS_AS_STORED and saved.data["sha256"] != self.data["sha256"]:
            raise UsageError(
                "cannot resume, the run was begun by a version that did not look at ids and resampled another way, or "
                f"with other data; another folder starts a new one, with --init {MODEL} from its weights"
            )
        then = {
            **saved.network.to_plain(),
            **saved.augment.to_plain(),
            **saved.train.to_plain(),
            **saved.data,
        }
        now = {**self.network.to_plain(), **self.augment.to_plain(), **self.train.to_plain(), **self.data}
        differing = [
            f"{key}: {then.get(key, _ABSENT)!r} -> {now.get(key, _ABSENT)!r}"
            for key in {**now, **then}
            if key != SEEN  # it follows from init and teaching, and runs of before do not have it
            and then.get(key, _ABSENT) != now.get(key, _ABSENT)
        ]
        if differing:
            raise UsageError(
                "cannot resume, the run differs from the one that was stopped: " + "; ".join(differing)
            )


@dataclass(slots=True)
class TrainingState:
    """What changes from step to step.

    Attributes
    ----------
    device : Device
        Where the network runs, and in which precision.
    model, average : UNet and AveragedModel
        The trained weights, and their average, which is what is validated and exported.
    network : Module
        What is called in training: `model`, or a wrapper around it.
    heads : ModuleDict
        Those that training drops, by name, see `isbi_train.training.heads`.
    optimiser, scaler : AdamW and GradScaler
        Both with their state.
    history : list of dict
        One entry per validation.
    losses : list of Tensor
        Losses of the steps since the last validation.
    """

    device: Device
    model: nn.Module
    network: nn.Module
    average: AveragedModel
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    heads: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    history: list[dict[str, Any]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    @classmethod
    def start(cls, model: nn.Module, train: TrainConfig, device: Device) -> TrainingState:
        """Return the state before the first step.

        Parameters
        ----------
        model : Module
            On its device, with its first weights. Only a `UNet` can have heads besides its own.
        train : TrainConfig
            Settings of averaging and optimiser.
        device : Device
            Where the network runs, and in which precision.

        Returns
        -------
        TrainingState
        """
        taught = WithHeads.around(model, train)
        network = model if taught is None else taught.to(device.torch_device)
        return cls(
            device=device,
            model=model,
            network=network,
            average=AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(train.average), use_buffers=True),
            optimiser=torch.optim.AdamW(
                network.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay
            ),
            scaler=torch.amp.GradScaler(device.torch_device.type, enabled=device.dtype == torch.float16),
            heads=nn.ModuleDict() if taught is None else taught.heads,
        )

    def set_averaging_decay(self, decay: float) -> None:
        """Set how much of the average every later step keeps."""
        self.average.multi_avg_fn = get_ema_multi_avg_fn(decay)

    def set_learning_rate(self, rate: float) -> None:
        """Set the rate of the next step."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def _stateful(self) -> dict[str, Any]:
        return {
            "model": self.model,
            **self.heads,
            "average": self.average,
            "optimiser": self.optimiser,
            "scaler": self.scaler,
        }

    @property
    def epoch(self) -> int:
        """The epoch of the last validation; 0 before."""
        return int(self.history[-1]["epoch"]) if self.history else 0

    def steps_taken(self, steps_per_epoch: int) -> int:
        """Return how many steps were taken."""
        return self.epoch * steps_per_epoch + len(self.losses)

    def finished(self, epochs: int, patience: int) -> bool:
        """Return whether all epochs are done, or no validation of the last `patience` was the best."""
        if not self.history:
            return False
        scores = [_merit(entry) for entry in self.history]
        stalled = len(scores) - 1 - scores.index(max(scores))
        return self.epoch >= epochs or 0 < patience <= stalled

    def check_finite(self) -> None:
        """Raise ModelError, saying at which step, where a loss since the last validation is no number."""
        if not self.losses:
            return
        finite = torch.stack(self.losses).isfinite().cpu()
        if finite.all():
            return
        epoch = self.epoch
        step = int(finite.logical_not().nonzero()[0]) + 1
        kept = f"{MODEL} and {PROGRESS} are as after epoch {epoch}" if epoch else "nothing was saved yet"
        raise ModelError(
            f"the loss is no longer a number at step {step} after epoch {epoch}; {kept}; "
            "train anew with a lower learning rate, or with --precision fp32"
        )

    def resume(self, out: Path, settings: RunSettings) -> bool:
        """Take over from what another process saved, or where that is damaged from what it saved before.

        Parameters
        ----------
        out : Path
            Its folder.
        settings : RunSettings
            Of this run.

        Returns
        -------
        bool
            False where it saved nothing.

        Raises
        ------
        ModelError
            If all that it saved is damaged.
        UsageError
            If it had other settings or data.
        """
        newest, previous = out / PROGRESS, out / PREVIOUS
        if not newest.exists() and not previous.exists():
            return False
        try:
            self.restore(newest, settings)
        except ModelError as damage:
            if not previous.exists():
                raise
            self.restore(previous, settings)
            log.warning("%s; going on from %s, saved after epoch %d", damage, previous, self.epoch)
        return True

    def restore(self, path: Path, settings: RunSettings) -> None:
        """Take over from one file.

        Parameters
        ----------
        path : Path
            A ``progress.pth``.
        settings : RunSettings
            Of this run.

        Raises
        ------
        ModelError
            If the file is damaged or holds weights only.
        UsageError
            If it is of a run with other settings or data.
        """
        saved = load_checkpoint(path)
        settings.check_same(saved)
        missing = sorted({*self._stateful(), "history"} - set(saved.progress))
        if missing:
            raise ModelError(f"{path}: nothing to continue from (no {', '.join(missing)} in it)")
        try:
            for name, part in self._stateful().items():
                part.load_state_dict(saved.progress[name])
            self.history = saved.progress["history"]
            before = saved.progress.get("device", self.device.kind)
            self.losses = list(
                saved.progress.get("losses", torch.empty(0)).to(next(self.model.parameters()).device)
            )
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise ModelError(f"{path}: its progress is damaged ({one_line(error)}); start again") from error
        if before != self.device.kind:
            log.warning(
                "this run was trained on %s until now and goes on on %s, which round differently",
                before,
                self.device.kind,
            )

    def save_model(self, out: Path, settings: RunSettings) -> None:
        """Write the averaged weights that were just validated, also as the best where they are, and the history."""
        entry = self.history[-1]
        validated = self._checkpoint(settings, entry["epoch"], _scores(entry, settings))
        save_checkpoint(out / MODEL, validated)
        if best_validation(self.history) is entry:
            save_checkpoint(out / BEST, validated)
        with replacing(out / HISTORY) as temporary:
            temporary.write_text(json.dumps(self.history, indent=1))
        write_table(out / HISTORY_TABLE, self.history)

    def save_progress(self, out: Path, settings: RunSettings, epoch: int) -> None:
        """Write what `resume` reads; after `save_model`, so that what a kill prevents is done again.

        What was there before becomes the previous one.
        """
        progress = {name: part.state_dict() for name, part in self._stateful().items()}
        progress["history"] = self.history
        progress["device"] = self.device.kind
        progress["losses"] = torch.stack(self.losses) if self.losses else torch.empty(0)
        scores = {} if self.losses else _scores(self.history[-1], settings)
        if (out / PROGRESS).exists():
            with replacing(out / PREVIOUS) as temporary:
                _second_name(out / PROGRESS, temporary)
        save_checkpoint(out / PROGRESS, self._checkpoint(settings, epoch, scores, progress))

    def _checkpoint(
        self,
        settings: RunSettings,
        epoch: int,
        scores: dict[str, Any],
        progress: dict[str, Any] | None = None,
    ) -> Checkpoint:
        weights = self.average.module.state_dict()
        return Checkpoint(
            state_dict={k: v.detach().cpu().contiguous().clone() for k, v in weights.items()},
            epoch=epoch,
            scores=scores,
            progress=progress or {},
            **settings.parts(),
        )


def make_run_folder(out: Path) -> None:
    """Make the folder of a run and see that it can be written to, before any work.

    Raises
    ------
    OutputError
        If it cannot.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{out}: no such folder can be made ({error.strerror}); choose another one"
        ) from error
    for name in (MODEL, BEST, PROGRESS, PREVIOUS, HISTORY, HISTORY_TABLE, SETTINGS, LIST):
        check_writable(out / name)


def check_no_run(out: Path) -> None:
    """See that a new run would not write over another.

    Raises
    ------
    UsageError
        If it would.
    """
    found = [name for name in (MODEL, BEST, PROGRESS) if (out / name).exists()]
    if found:
        raise UsageError(
            f"{out}: holds a run already ({', '.join(found)}); --resume continues it, another folder starts a new one"
        )


def check_nothing_lost(out: Path) -> None:
    """See that a run which has nothing to resume from would not begin anew over more than its first validation.

    A run that was stopped at its first one, before it could save its progress, does the same once more.

    Raises
    ------
    ModelError
        If it would.
    """
    if not (out / MODEL).exists():
        return
    try:
        done = len(json.loads((out / HISTORY).read_bytes()))
    except (OSError, ValueError, TypeError):
        done = 0
    if done != 1:
        raise ModelError(
            f"{out}: {PROGRESS} and {PREVIOUS} are gone: the run cannot be resumed; another folder starts a new one, "
            f"with --init {out / MODEL} from its weights"
        )


def write_table(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write a history as a table, a line for each validation and, of several stacks, one more for each stack.

    Parameters
    ----------
    path : Path
        A .csv; replaced only when the new one is whole.
    history : sequence of mapping
        As in ``history.json``.
    """
    columns = ("training_loss", "loss", "v_rand_thin", "v_info_thin", "worst", "seconds")
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(("epoch", "stack", *columns))
        for entry in history:
            for stack, scores in {"": entry, **entry.get("stacks", {})}.items():
                lines.writerow((entry["epoch"], stack, *(scores.get(key, "") for key in columns)))


def _second_name(path: Path, other: Path) -> None:
    try:
        os.link(path, other)
    except OSError:  # the file system has no hard links
        shutil.copyfile(path, other)


def best_validation(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the entry of a history that ``best.pth`` is of: of equally good ones the last."""
    return max(reversed(history), key=_merit)


def _merit(entry: Mapping[str, Any]) -> float:
    """Return what decides which validation is the best: V_rand, or of several stacks the score of the worst one."""
    score = float(entry.get("worst", entry["v_rand_thin"]))
    return -math.inf if math.isnan(score) else score


def _scores(entry: dict[str, Any], settings: RunSettings) -> dict[str, Any]:
    kept = ("loss", "v_rand_thin", "v_info_thin", "worst", "stacks")
    scores: dict[str, Any] = {key: entry[key] for key in kept if key in entry}
    if "stacks" in settings.data:
        sections = ", ".join(f"{stack['name']} {stack['held_out']}" for stack in settings.data["stacks"])
    else:
        held_out = settings.train.held_out(settings.data["sections"])
        sections = f"{held_out.start}:{held_out.stop}"
    return scores | {"sections": sections}
