"""What computes batches: a model on one proved device, and how its failures are told apart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from isbi_infer.backends.device import Arithmetic, Device
from isbi_infer.backends.forks import leave_to_this_process
from isbi_infer.errors import IsbiError, ModelError, ResourceError

__all__ = ["CONTRACT_KEY", "Arithmetic", "Backend", "Device", "Pixels", "Stop"]

CONTRACT_KEY = "isbi_infer.contract"  # under which a model file carries its contract

Pixels = npt.NDArray[Any]


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
    file : str
        The model's, for messages; empty where it has none.
    """

    device: Device
    arithmetic: Arithmetic
    workers: int
    inputs: list[str]
    outputs: list[str]
    version: str
    file: str = ""

    def __new__(cls, *arguments: Any, **options: Any) -> Self:  # noqa: D102  # copies are made by it, too
        backend = super().__new__(cls)
        leave_to_this_process(backend)
        return backend

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Put the model's file before what is wrong with it."""
        try:
            yield
        except ModelError as error:
            raise (ModelError(f"{self.file}: {error}") if self.file else error) from error

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
