"""The labelled stack that a run's settings name."""

from __future__ import annotations

from pathlib import Path

from isbi_infer.errors import UsageError
from isbi_train.config.inputs import Inputs
from isbi_train.data.labelled import LabelledStack, load_labelled


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
