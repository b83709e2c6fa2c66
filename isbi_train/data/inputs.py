"""The labelled stack, or the list of stacks, that a run's settings name."""

from __future__ import annotations

from pathlib import Path

from isbi_infer.errors import UsageError
from isbi_train.config.inputs import Inputs
from isbi_train.config.settings import Settings
from isbi_train.config.stacks import StackEntry, read_list
from isbi_train.data.labelled import LabelledStack, load_labelled
from isbi_train.data.stacks import TrainingData, read_stacks


def read_labelled(inputs: Inputs) -> LabelledStack:
    """Read the labelled stack of a run, at the pixel size to train at.

    Parameters
    ----------
    inputs : Inputs
        Names its files and its pixel sizes.

    Returns
    -------
    LabelledStack

    Raises
    ------
    UsageError
        If there is no ``data``.
    ImageError, DependencyError
        See `isbi_train.data.labelled.load_labelled`.
    """
    if not inputs.data:
        raise UsageError(
            "no labelled stack is named; add --data FOLDER, or data under [inputs] in the settings"
        )
    return load_labelled(
        Path(inputs.data),
        labels=Path(inputs.labels) if inputs.labels else None,
        labels_are=inputs.labels_are,
        ignore=inputs.ignore,
        pixel_size_nm=inputs.pixel_size_nm,
        resample_nm=inputs.resample_nm,
    )


def read_list_of(settings: Settings) -> TrainingData:
    """Read the stacks of a run's list, at the pixel size to train at.

    Parameters
    ----------
    settings : Settings
        Names the list, the stacks to be left out, and the pixel size.

    Returns
    -------
    TrainingData

    Raises
    ------
    UsageError
        If a single stack is named, too, or the list is invalid.
    IsbiError
        Naming a stack that cannot be trained on, see `isbi_train.data.stacks.read_stacks`.
    """
    inputs = settings.inputs
    return read_stacks(entries_of(inputs), settings.train, inputs.resample_nm, inputs.stacks)


def entries_of(inputs: Inputs) -> tuple[StackEntry, ...]:
    """Return the stacks of a run's list but those that are left out; UsageError as `read_list_of`."""
    named = [name for name in ("data", "labels") if getattr(inputs, name)]
    if named:
        raise UsageError(f"{inputs.stacks}: lists all stacks, so leave out --{named[0]}")
    if inputs.pixel_size_nm is not None:
        raise UsageError(f"{inputs.stacks}: has the pixel size of each stack, so leave out --pixel-size")
    return read_list(Path(inputs.stacks), inputs.leave_out)
