"""The device that training computes on, and the precision that it computes in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from isbi_infer.errors import DependencyError
from isbi_train.config import TrainConfig

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_VARIABLES = {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}


@dataclass(frozen=True, slots=True)
class Device:
    """A device and a precision.

    Attributes
    ----------
    torch_device : torch.device
        The device, as torch names it.
    dtype : torch.dtype
        Precision that the network runs in there; its weights are float32.
    """

    torch_device: torch.device
    dtype: torch.dtype

    def __str__(self) -> str:
        """Return device and precision, as users call them."""
        return f"{self.torch_device} in {self.precision}"

    @property
    def precision(self) -> str:
        """The precision, as ``--precision`` calls it."""
        return next(name for name, dtype in _DTYPES.items() if dtype == self.dtype)

    @property
    def kind(self) -> str:
        """What rounds alike: the kind of device, and the precision."""
        return f"{self.torch_device.type} in {self.precision}"

    def autocast(self) -> torch.autocast:
        """Return the context in which the network runs."""
        return torch.autocast(self.torch_device.type, self.dtype, enabled=self.dtype != torch.float32)


def choose_device(config: TrainConfig, local_rank: int = 0) -> Device:
    """Resolve "auto" to what this machine has.

    Parameters
    ----------
    config : TrainConfig
        Gives ``device`` and ``precision``.
    local_rank : int
        Number of the CUDA device, where there are several processes on one machine.

    Returns
    -------
    Device

    Raises
    ------
    DependencyError
        If CUDA is asked for and absent, or has too few devices.
    """
    cuda = torch.cuda.is_available()
    if config.device == "cuda" and not cuda:
        raise DependencyError("CUDA was asked for, but torch finds no CUDA device; use --device cpu")
    if not cuda or config.device == "cpu":
        device = torch.device("cpu")
    elif local_rank < torch.cuda.device_count():
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    else:
        raise DependencyError(
            f"process {local_rank} has no CUDA device of its own, torch finds {torch.cuda.device_count()}; "
            "start fewer processes with torchrun --nproc-per-node"
        )
    if config.precision != "auto":
        return Device(device, _DTYPES[config.precision])
    if device.type == "cuda":
        return Device(device, torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16)
    features: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    native = features.get("avx512_bf16") or features.get("amx_bf16")
    return Device(device, torch.bfloat16 if native else torch.float32)


def use_threads(threads: int | None, processes: int) -> None:
    """Set how many processor threads this process trains with.

    Parameters
    ----------
    threads : int or None
        Number of threads. None leaves torch's choice, except where several processes train together: they share the
        cores already, so each takes one thread unless ``OMP_NUM_THREADS`` or ``MKL_NUM_THREADS`` is set.
    processes : int
        Number of processes that train together.
    """
    if threads is None and processes > 1 and not _VARIABLES & set(os.environ):
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)
