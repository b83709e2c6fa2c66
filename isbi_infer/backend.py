"""What computes batches: the interface of a model on one proved provider, and how its failures are told apart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ModelError, ResourceError

Pixels = npt.NDArray[Any]


class Backend(ABC):
    """A model on one proved provider.

    Attributes
    ----------
    provider : str
        Proved to be active.
    lanes : int
        How many threads may call `run` at once with gain.
    metadata : Mapping of str to str
        The model's, with its contract.
    inputs, outputs : list of str
        Names of its tensors.
    """

    provider: str
    lanes: int
    metadata: Mapping[str, str]
    inputs: list[str]
    outputs: list[str]

    def run(
        self, batch_NCYX: Pixels, *statistics_N111: npt.NDArray[np.float32], out: Pixels | None = None
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
            return self._compute(batch_NCYX, statistics_N111, out)
        except ModelError:
            raise
        except Exception as error:
            # The runtimes' exceptions share no base but Exception.
            reason = " ".join(str(error).split())
            if isinstance(error, MemoryError) or self._is_lack_of_memory(reason):
                raise ResourceError(
                    f"not enough memory on {self.provider} for a batch of shape {batch_NCYX.shape}; "
                    "use a smaller --batch or --tile"
                ) from error
            raise ModelError(
                f"the model failed on a batch of shape {batch_NCYX.shape} ({self._shortened(reason)[:300]})"
            ) from error

    @abstractmethod
    def _compute(
        self, batch_NCYX: Pixels, statistics_N111: tuple[npt.NDArray[np.float32], ...], out: Pixels | None
    ) -> Pixels: ...

    @abstractmethod
    def _is_lack_of_memory(self, reason: str) -> bool: ...

    def _shortened(self, reason: str) -> str:
        return reason

    @abstractmethod
    def alone(self) -> Self:
        """Give what uses all cores in one call of `run`; for work that is a single batch."""

    @abstractmethod
    def stop(self) -> None:
        """Make running calls of `run` return early, with an exception, where the runtime can; later calls go on."""
