"""What ``isbi-train fit`` keeps of a run for people: its page, and TensorBoard's files where they are asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isbi_infer.errors import OutputError
from isbi_infer.terminal import require_packages

if TYPE_CHECKING:
    from isbi_train.config import TrainConfig
    from isbi_train.data.stacks import TrainingData
    from isbi_train.plots.training_page import Example

FOLDER = "tensorboard"

_SCORES = {"training_loss": "loss/training", "loss": "loss/held out"} | {
    "v_rand_thin": "scores/V_rand",
    "v_info_thin": "scores/V_info",
}
_SHOWN = 4  # example sections, of all stacks together
_SECONDS = 10.0  # between pages of a run that goes on


class Records:
    """Keeps the page of a run up to date.

    Parameters
    ----------
    run : Path
        Its folder.
    tensorboard : bool
        Whether TensorBoard's files are wanted, too.

    Attributes
    ----------
    run : Path
        As given.

    Raises
    ------
    DependencyError
        If they are, and the extra ``tensorboard`` is not installed.
    """

    def __init__(self, run: Path, *, tensorboard: bool = False) -> None:
        if tensorboard:
            require_packages("tensorboard", "tensorboard")
        self.run, self._tensorboard = run, tensorboard
        self._written = -_SECONDS
        self._folds: dict[int, Records] = {}

    def of_fold(self, fold: int) -> Records:
        """Return the records of one fold of a cross-validation, in its own folder."""
        from isbi_train.training.folds import fold_folder

        if fold not in self._folds:
            self._folds[fold] = Records(fold_folder(self.run, fold), tensorboard=self._tensorboard)
        return self._folds[fold]

    def add(self, entry: dict[str, Any]) -> None:
        """Take a validation, whose history is saved already."""
        from isbi_train.plots.training_page import write_training_page

        if self._tensorboard:
            self._add_scalars(entry)
        if time.monotonic() - self._written > _SECONDS:
            write_training_page(self.run)
            self._written = time.monotonic()

    def finish(self, data: TrainingData, train: TrainConfig) -> Path:
        """Write the page with example sections by the best weights; return where it is."""
        from isbi_train.networks.checkpoint import load_checkpoint
        from isbi_train.plots.training_page import write_training_page
        from isbi_train.training.state import BEST

        checkpoint = load_checkpoint(self.run / BEST)
        examples = _examples(checkpoint.load_network(), checkpoint.network.stride, data, train)
        threshold = float(checkpoint.scores.get("threshold", 0.5))
        return write_training_page(self.run, examples=examples, threshold=threshold)

    def _add_scalars(self, entry: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        try:
            with SummaryWriter(str(self.run / FOLDER)) as writer:
                for stack, scores in {"": entry, **entry.get("stacks", {})}.items():
                    for key, name in _SCORES.items():
                        if key in scores:
                            tag = f"{name}/{stack}" if stack else name
                            writer.add_scalar(tag, scores[key], entry["epoch"])
        except OSError as error:
            raise OutputError(f"{self.run / FOLDER}: cannot be written ({error.strerror})") from error


def _examples(network: Any, stride: int, data: TrainingData, train: TrainConfig) -> Sequence[Example]:
    """Predict the middle section of the held-out ones of each stack, or a few of a single stack."""
    from isbi_train.networks.whole import predict_whole
    from isbi_train.plots.training_page import Example

    found = []
    each = max(1, _SHOWN // len(data.stacks))
    for stack in data.stacks[:_SHOWN]:
        part = stack.held_out
        count = min(each, len(part))
        for z in (2 * np.arange(count) + 1) * len(part) // (2 * count):
            section = part[slice(z, z + 1)]
            logits_ZYX = predict_whole(
                network, part.image_ZYX, stride=stride, border=train.border, only=[int(z)], runs=part.runs
            )
            where = f"held-out section {z}"
            found.append(
                Example(
                    name=f"{stack.name}, {where}" if stack.name else where,
                    image_YX=section.image_ZYX[0],
                    probability_YX=(1 / (1 + np.exp(-logits_ZYX[0].astype(np.float64)))).astype(np.float32),
                    cell_YX=section.cell_ZYX[0],
                )
            )
    return found
