"""Every exported file behind one call: sections as stored and their statistics in, the file's own result out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from isbi_export.variants import Variant
from isbi_infer.backends.base import Backend
from isbi_infer.backends.cores import reduced_float32
from isbi_infer.model.devices import open_backend, rows
from isbi_infer.pixels.normalise import Statistics, normalise

if TYPE_CHECKING:
    from torch import nn

Pixels = npt.NDArray[Any]
SectionsStatistics = tuple[Statistics, ...]
"""Of a section and of the neighbours that the network sees, C in all."""
Runner = Callable[[Pixels, Sequence[SectionsStatistics]], Pixels]
"""From grey values (N, C, Y, X) and their statistics, C for each N, to float32 probabilities or bytes (N, 1, Y, X)."""


def normalising(compute: Callable[[npt.NDArray[np.float32]], Pixels]) -> Runner:
    """Run what takes normalised grey values."""

    def run(image_NCYX: Pixels, statistics: Sequence[SectionsStatistics]) -> Pixels:
        normalised_NCYX = np.empty(image_NCYX.shape, np.float32)
        for image_CYX, found, out_CYX in zip(image_NCYX, statistics, normalised_NCYX, strict=True):
            for image_YX, of_section, out_YX in zip(image_CYX, found, out_CYX, strict=True):
                normalise(image_YX, of_section, out_YX)
        return compute(normalised_NCYX)

    return run


def as_stored(backend: Backend) -> Runner:
    """Run what takes grey values as stored and normalises them itself."""

    def run(image_NCYX: Pixels, statistics: Sequence[SectionsStatistics]) -> Pixels:
        constants = np.array(
            [[(section.mean, section.inverse_std) for section in found] for found in statistics], np.float32
        )
        mean_NC11, inverse_std_NC11 = np.moveaxis(constants, 2, 0)[..., None, None].copy()
        return backend.run(np.ascontiguousarray(image_NCYX), mean_NC11, inverse_std_NC11)

    return run


@contextmanager
def real_float32() -> Iterator[None]:
    """Keep torch from computing float32 in less, as the environment may ask of oneDNN.

    torch has no switch that goes before these variables, but computes without oneDNN where it is told to.
    """
    import torch

    if not reduced_float32():
        yield
        return
    about_gpus = warnings.catch_warnings(action="ignore", category=UserWarning)  # of Intel
    with about_gpus, torch.backends.mkldnn.flags(enabled=False):
        yield


def module_runner(module: nn.Module) -> Runner:
    """Run a module of torch from normalised grey values to probabilities, on the CPU."""
    import torch

    def compute(batch_NCYX: npt.NDArray[np.float32]) -> Pixels:
        with torch.inference_mode():
            result: Pixels = module(torch.from_numpy(batch_NCYX)).numpy()
        return result

    return normalising(compute)


def file_runner(path: Path, variant: Variant) -> Runner:
    """Run an exported file on the CPU: through the sessions that ship, or for a program through torch.

    Parameters
    ----------
    path : Path
        The file, under any name.
    variant : Variant
        What it is.

    Raises
    ------
    ModelError
        If it cannot be loaded.
    """
    if variant.file_format == "program":
        from isbi_export.formats.program import read_program

        return module_runner(read_program(path)[0])
    device = next(rows("torchscript" if variant.file_format == "torchscript" else "onnx", "cpu"))
    return backend_runner(open_backend(path.read_bytes(), device), variant)


def backend_runner(backend: Backend, variant: Variant) -> Runner:
    """Run a session of the kind of input that a variant has."""
    return as_stored(backend) if variant.io == "uint8" else normalising(backend.run)
