"""What computes batches: a model on one proved device, and how its failures are told apart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import IsbiError, ModelError, ResourceError

CONTRACT_KEY = "isbi_infer.contract"  # under which a model file carries what it says about itself

Pixels = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """One precision in which a device computes.

    Attributes
    ----------
    name : {"fp32", "bf16", "fp16", "int8"}
        What ``--precision`` takes.
    file : {"float32", "float16", "int8"}
        The precision of the model file that it is computed from.
    memory : float
        Bytes that the runtime takes per byte of live float32 activations, measured.
    """

    name: str
    file: str
    memory: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A row of the table of devices; see `isbi_infer.model.devices`.

    Attributes
    ----------
    name : str
        What ``--provider`` takes.
    formats : tuple of {"onnx", "torchscript"}
        Model files that it runs.
    backend : str
        ``module:class`` of its `Backend`, imported when it is used and not before.
    kind : {"cpu", "gpu"}
        Where it computes.
    runtime_name : str
        What its runtime calls it.
    wheels : tuple of str
        Distributions that provide its runtime, any one of them.
    clashes : tuple of str
        Distributions of which only one may be installed, since they overwrite each other.
    remedy : str
        The command that installs what it lacks.
    proof : str
        How it is proved to be active, in one line.
    arithmetic : tuple of Arithmetic
        Precisions, the fastest first.
    tile_pixels : int
        Largest area of a tile that gains anything.
    batch_pixels : int or None
        Pixels of a batch that fill it; None where more than one tile at once gains nothing.
    fixed_batch : bool
        Whether the last batch is filled up, since each new shape costs much.
    options : mapping of str to str
        Handed to the runtime.
    memory_space : str or None
        Where inputs and outputs stay between runs, as the runtime calls it; None is the processor's memory.
    in_auto : bool
        Whether "auto" tries it.
    """

    name: str
    formats: tuple[Literal["onnx", "torchscript"], ...]
    backend: str
    kind: Literal["cpu", "gpu"]
    runtime_name: str
    wheels: tuple[str, ...]
    clashes: tuple[str, ...]
    remedy: str
    proof: str
    arithmetic: tuple[Arithmetic, ...]
    tile_pixels: int
    batch_pixels: int | None = None
    fixed_batch: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    memory_space: str | None = None
    in_auto: bool = True


class Stop:
    """Asks the running calls of one iteration to return early; made by `Backend.new_stop`."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        """Ask now; for good."""
        self.is_set = True


class Backend(ABC):
    """A model on one proved device.

    A class is constructed as ``Class(content, device, arithmetic, threads=None)`` from the whole model file, a row of
    the table, one of the row's precisions and the threads of one call (None: what makes `workers` calls at once
    fastest). Construction proves that device and precision are those asked for, or raises.

    Attributes
    ----------
    device : Device
        Proved to be active.
    arithmetic : Arithmetic
        As proved.
    workers : int
        How many threads may call `run` at once with gain.
    inputs, outputs : list of str
        Names of the model's tensors; empty where its format has none.
    version : str
        Name and version of the runtime.
    """

    device: Device
    arithmetic: Arithmetic
    workers: int
    inputs: list[str]
    outputs: list[str]
    version: str

    def run(
        self,
        batch_NCYX: Pixels,
        *statistics_N111: npt.NDArray[np.float32],
        out: Pixels | None = None,
        stop: Stop | None = None,
    ) -> Pixels:
        """Run one batch; safe to call from several threads.

        Parameters
        ----------
        batch_NCYX : ndarray of float32 or uint8, shape (N, 1, Y, X)
            Normalised grey values, or grey values as stored where the contract says uint8.
        *statistics_N111 : ndarray of float32, shape (N, 1, 1, 1)
            Where the model normalises: mean and inverse standard deviation of the section of each tile.
        out : ndarray of float32 or uint8, shape (N, 1, Y, X), optional
            Where the result may go, contiguous; a new array when not given.
        stop : Stop, optional
            From `new_stop`; once it is set, the call returns early with an exception where the runtime can.

        Returns
        -------
        ndarray of float32 or uint8, shape (N, 1, Y, X)
            Probabilities of cell interior, as the contract says. `out`, or memory of its own.

        Raises
        ------
        ResourceError
            If the device's memory does not suffice.
        ModelError
            If the model refuses the batch.
        """
        try:
            return self._compute(batch_NCYX, statistics_N111, out, stop)
        except IsbiError:
            raise
        except Exception as error:
            # The runtimes' exceptions share no base but Exception.
            reason = " ".join(str(error).split())
            if isinstance(error, MemoryError) or self._is_lack_of_memory(reason):
                raise ResourceError(
                    f"not enough memory on {self.device.name} for a batch of shape {batch_NCYX.shape}; "
                    "use a smaller --batch or --tile"
                ) from error
            raise ModelError(
                f"the model failed on a batch of shape {batch_NCYX.shape} ({self._shortened(reason)[:300]})"
            ) from error

    @abstractmethod
    def _compute(
        self,
        batch_NCYX: Pixels,
        statistics_N111: tuple[npt.NDArray[np.float32], ...],
        out: Pixels | None,
        stop: Stop | None,
    ) -> Pixels: ...

    @abstractmethod
    def _is_lack_of_memory(self, reason: str) -> bool: ...

    def _shortened(self, reason: str) -> str:
        return reason

    @abstractmethod
    def on_all_cores(self) -> Self:
        """Return what uses all cores in one call of `run`; for work that is a single batch."""

    def new_stop(self) -> Stop:
        """Return what ends the calls of `run` that it is handed to, and no others."""
        return Stop()
