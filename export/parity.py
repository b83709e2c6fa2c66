"""The proof that an exported file computes what its checkpoint computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from isbi_infer.errors import ModelError
from isbi_infer.session import OnnxSession
from isbi_infer.torchscript import TorchScriptSession
from isbi_train.network import UNet

Run = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]

FLOAT32_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Parity:
    """How far one file is from its checkpoint.

    Attributes
    ----------
    file_format : str
        "onnx" or "torchscript".
    shapes : tuple of (int, int, int, int)
        The (N, 1, Y, X) inputs compared.
    largest : float
        Largest absolute difference of a probability.
    changed : int
        Pixels whose class at 0.5 differs.
    """

    file_format: str
    shapes: tuple[tuple[int, int, int, int], ...]
    largest: float
    changed: int

    def require(self, path: Path) -> None:
        """Raise ModelError unless every probability agrees within `FLOAT32_TOLERANCE`."""
        if not self.largest <= FLOAT32_TOLERANCE:
            raise ModelError(
                f"{path}: the {self.file_format} file differs from the checkpoint by {self.largest:.2e}, "
                f"allowed are {FLOAT32_TOLERANCE:.0e}; nothing was published"
            )


def probe_shapes(stride: int) -> tuple[tuple[int, int, int, int], ...]:
    """Give the shapes to compare on: the smallest, odd multiples of the stride, not square, batches of 1 and 3."""
    return (
        (1, 1, stride, stride),
        (1, 1, 3 * stride, 7 * stride),
        (3, 1, 5 * stride, 2 * stride),
        (1, 1, 11 * stride, 11 * stride),
    )


def compare(file_format: str, run: Run, network: UNet) -> Parity:
    """Run a file and the network of its checkpoint on the same inputs.

    Parameters
    ----------
    file_format : str
        Named in the result.
    run : callable
        From normalised grey values to probabilities, float32, shape (N, 1, Y, X).
    network : UNet
        As loaded from the checkpoint, with its BatchNorm, in evaluation mode.

    Returns
    -------
    Parity
    """
    generator = np.random.Generator(np.random.PCG64(2012))
    shapes = probe_shapes(network.config.stride)
    largest, changed = 0.0, 0
    for shape in shapes:
        image_NCYX = generator.standard_normal(shape, dtype=np.float32)
        with torch.inference_mode():
            expected = torch.sigmoid(network(torch.from_numpy(image_NCYX))).numpy()
        found = run(image_NCYX)
        if found.shape != expected.shape or found.dtype != np.float32:
            raise ModelError(
                f"the {file_format} file gives {found.shape} {found.dtype} for an input of {shape}"
            )
        # A NaN makes the maximum NaN, which no tolerance accepts.
        largest = float(np.maximum(largest, np.abs(found - expected).max()))
        changed += int(np.count_nonzero((found > 0.5) != (expected > 0.5)))
    return Parity(file_format, shapes, largest, changed)


def onnx_runner(path: Path) -> Run:
    """Run an ONNX file through the session that ships, on the CPU."""
    return OnnxSession(path.read_bytes(), "cpu").run


def torchscript_runner(path: Path) -> Run:
    """Run a TorchScript file through the session that ships, on the CPU."""
    return TorchScriptSession(path.read_bytes(), "cpu").run


def module_runner(module: nn.Module) -> Run:
    """Run a module of torch on arrays, on the CPU."""

    def run(image_NCYX: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            result: npt.NDArray[np.float32] = module(torch.from_numpy(image_NCYX)).numpy()
        return result

    return run
