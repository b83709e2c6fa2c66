"""Corrected labels into files, and the programs that train on them, each in its own process.

::

    layers -> FOLDER/image.tif, FOLDER/labels.tif -> isbi-train fit --init -> FOLDER/run -> isbi-export -> model.onnx
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ImageError, UsageError
from isbi_infer.files import make_folder, replacing
from isbi_infer.napari.jobs import Job
from isbi_infer.napari.layers import LayerSource
from isbi_infer.terminal import require_packages
from isbi_infer.volumes import StackInfo, write_stack
from isbi_infer.volumes.pixel_size import PixelSize

IMAGE, LABELS, RUN = "image.tif", "labels.tif", "run"

_PROGRAM = [sys.executable, "-c"]  # what the commands of the same name start
_TRAIN = "from isbi_train.__main__ import main; main()"
_EXPORT = "from isbi_export.__main__ import main; main()"
# As docs/your-own-data.md recommends; the rate is a quarter of that from random weights.
STEPS, _RATE = 1200, "5e-4"
_EPOCHS = 20  # that the steps are shared out to, with a validation after every second one
_MEMBRANE_NM = 30  # drawn between cells with ids, which lie close together
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """What is asked for.

    Attributes
    ----------
    image, labels : Layer
        A greyscale image, and its corrected labels: ids of cells, or 1 for cell.
    sections : str
        Which sections are corrected: "all", or numbers and ranges such as "0-4, 8".
    folder : Path
        Where labels, images and the run go.
    init : str
        Name of a released model, or a checkpoint.
    pixel_size : PixelSize or None
        Of the image.
    steps : int
        Of the training.
    """

    image: Any
    labels: Any
    sections: str
    folder: Path
    init: str
    pixel_size: PixelSize | None
    steps: int


def sections_named(text: str, total: int) -> list[int]:
    """Read a list of sections.

    Parameters
    ----------
    text : str
        "all", or numbers from 0 and ranges, such as "0-4, 8".
    total : int
        How many there are.

    Raises
    ------
    UsageError
        If it is none, or names a section that is not there.
    """
    if text.strip().lower() in ("", "all"):
        return list(range(total))
    chosen: set[int] = set()
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < total:
            raise UsageError(
                f"sections {text!r}: {part.strip()!r} is no section from 0 to {total - 1}, nor a range of them; "
                "expected such as 0-4, 8, or all"
            )
        chosen.update(range(first, last + 1))
    return sorted(chosen)


def save(wanted: FineTuning) -> tuple[Path, Path, str]:
    """Write image and corrected labels as TIFF; sections that were not corrected become 0 throughout.

    Parameters
    ----------
    wanted : FineTuning
        What is asked for.

    Returns
    -------
    (Path, Path, str)
        Image and labels, and what the labels are: "ids" or "cells".

    Raises
    ------
    ImageError
        If image and labels do not belong together, or the labels hold no cell.
    OutputError
        If they cannot be written; what was there stays.
    """
    source = LayerSource(wanted.image, wanted.pixel_size)
    labels_ZYX = _labels(wanted.labels)
    if labels_ZYX.shape != source.info.shape:
        raise ImageError(
            f"layer {wanted.labels.name!r} is {labels_ZYX.shape}, layer {source.name!r} is {source.info.shape}; "
            "expected the labels of this very image"
        )
    stack_ZYX = labels_ZYX if labels_ZYX.ndim == 3 else labels_ZYX[None]
    chosen = sections_named(wanted.sections, len(stack_ZYX))
    kept_ZYX = np.zeros(stack_ZYX.shape, np.uint16 if labels_ZYX.max(initial=0) < 2**16 else np.uint32)
    kept_ZYX[chosen] = stack_ZYX[chosen]
    if not kept_ZYX.any():
        raise ImageError(f"layer {wanted.labels.name!r} holds no cell in the sections that are named")
    are = "ids" if len(np.unique(kept_ZYX)) > 2 else "cells"
    make_folder(wanted.folder)
    like = StackInfo(shape=source.info.shape, pixel_size=wanted.pixel_size)
    image, labels = wanted.folder / IMAGE, wanted.folder / LABELS
    with replacing(labels) as temporary:
        write_stack(temporary, kept_ZYX, like=like, dtype=kept_ZYX.dtype)
    with replacing(image) as temporary:
        sections = (source.read(z) for z in range(source.info.sections))
        write_stack(temporary, sections, like=like, dtype=source.dtype)
    return image, labels, are


def fine_tune(wanted: FineTuning, job: Job) -> None:
    """Save the labels, train on them, and export what was trained; report the model file.

    Parameters
    ----------
    wanted : FineTuning
        What is asked for.
    job : Job
        Is told of progress. Cancelling stops the training after the step in hand: its checkpoint stays, and the labels
        do anyway.

    Raises
    ------
    IsbiError
        With the last line of the program that failed.
    """
    require_packages("train", "torch", "numba", "tomli_w")
    require_packages("export", "onnx", "onnxscript")
    image, labels, are = save(wanted)
    job.report("note", f"saved {labels}; training")
    run = unused(wanted.folder)
    fit = ["fit", "--init", wanted.init, "--data", str(image), "--labels", str(labels), "--labels-are", are]
    fit += ["--steps", str(wanted.steps), "--epochs", str(min(wanted.steps, _EPOCHS))]
    fit += ["--learning-rate", _RATE, "--out", str(run)]
    fit += ["--set", f"train.membrane_width_nm={_MEMBRANE_NM}"] if are == "ids" else []
    follow([*_PROGRAM, _TRAIN, *fit], job)
    job.report("note", "exporting")
    follow([*_PROGRAM, _EXPORT, str(run / "model.pth")], job)
    job.report("result", value=run / "model.onnx")


def unused(folder: Path) -> Path:
    """Return a folder for a run that is not there yet: run, run-2, run-3 and so on."""
    number, path = 1, folder / RUN
    while path.exists():
        number += 1
        path = folder / f"{RUN}-{number}"
    return path


def _labels(layer: Any) -> npt.NDArray[Any]:
    if type(layer).__name__ != "Labels":
        raise ImageError(f"layer {layer.name!r} is no layer of labels")
    return np.asarray(layer.data[0] if getattr(layer, "multiscale", False) else layer.data)


def follow(command: Sequence[str], job: Job) -> None:
    """Run a program to its end, each line of it a note; stop it where the user cancels.

    Parameters
    ----------
    command : sequence of str
        The program and its arguments.
    job : Job
        Is told of its lines.

    Raises
    ------
    UsageError
        With its last line, if it fails.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
    )
    assert process.stdout is not None
    last = ""
    try:
        with job.calling_when_cancelled(process.terminate):
            for line in process.stdout:
                if line.strip():
                    last = line.strip()
                    job.report("note", last)
            code = process.wait()
        job.check()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
    if code:
        raise UsageError(last or f"a program ended with {code}")
