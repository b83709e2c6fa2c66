"""Data-parallel training: one process a device, started by torchrun, with the result of a single process.

Every process draws the same crops for the whole batch and computes its slice of them. Three things would still
differ from a single process, and are made to agree: BatchNorm's statistics are those of the whole batch, dropout's
masks are drawn for the whole batch, and gradients are averaged (by `torch.nn.parallel.DistributedDataParallel`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from isbi_infer.errors import IsbiError, UsageError


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """The processes that train one network together.

    Attributes
    ----------
    rank, size : int
        Number of this process, and how many there are.
    local_rank : int
        Number of this process on its machine, which is also that of its CUDA device.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process validates, saves and reports."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """Return which crops of a batch this process computes.

        Raises
        ------
        UsageError
            If the batch cannot be shared out evenly.
        """
        if batch % self.size:
            raise UsageError(
                f"a batch of {batch} crops cannot be shared out to {self.size} processes; "
                f"try --batch {-(-batch // self.size) * self.size}"
            )
        crops = batch // self.size
        return slice(self.rank * crops, (self.rank + 1) * crops)

    def mean(self, value: Tensor) -> Tensor:
        """Average a tensor over the processes."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.size

    def any(self, flag: bool) -> bool:
        """Return whether any process has raised a flag; all must ask."""
        if self.size == 1:
            return flag
        raised = torch.tensor(int(flag))  # on the CPU, so that no CUDA work is waited for
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return bool(raised)

    def run_on_main(self, action: Callable[[], None]) -> None:
        """Let the main process do something; where that fails, all fail, instead of waiting for it.

        Raises
        ------
        IsbiError
            What it raised, in the main process.
        """
        failure = None
        if self.is_main:
            try:
                action()
            except IsbiError as error:
                failure = error
        if self.any(failure is not None):
            raise failure or IsbiError(f"process {self.rank} gives up, since process 0 does")

    def distribute(self, model: nn.Module, batch: int) -> nn.Module:
        """Let a network compute this process's share of a batch as if it saw all of it.

        Parameters
        ----------
        model : Module
            Changed in place; names, weights and evaluation stay as they are.
        batch : int
            Crops a step, in all processes together.

        Returns
        -------
        Module
            What to call when training; the network itself where there is one process.
        """
        if self.size == 1:
            return model
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    setattr(parent, name, SyncedBatchNorm2d.like(child))
                elif isinstance(child, nn.Dropout2d):
                    setattr(parent, name, SharedDropout2d(child.p, batch, self.share(batch)))
        device = next(model.parameters()).device
        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


SINGLE_PROCESS = ProcessGroup()
_PATIENCE = timedelta(seconds=5)  # for processes that fail alone


@contextmanager
def torchrun_processes() -> Iterator[ProcessGroup]:
    """Join the processes that torchrun has started, gloo between CPUs and nccl between CUDA devices.

    Yields
    ------
    ProcessGroup
        `SINGLE_PROCESS` where torchrun has started nothing.
    """
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(os.environ) or os.environ["WORLD_SIZE"] == "1":
        yield SINGLE_PROCESS
        return
    cuda = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        # gloo ends a process whose peer is gone before it has closed its own side.
        with suppress(RuntimeError, ValueError):
            dist.monitored_barrier(timeout=_PATIENCE)
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """The sum over all processes; each one's gradient reaches every other one's input."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes; `torch.nn.SyncBatchNorm` does this on CUDA only."""

    @classmethod
    def like(cls, other: nn.BatchNorm2d) -> SyncedBatchNorm2d:
        """Take over another one's parameters and statistics."""
        made = cls(other.num_features, eps=other.eps, momentum=other.momentum)
        made._parameters, made._buffers = other._parameters, other._buffers
        return made.train(other.training)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, in training with common statistics, for which the processes' batches are of one size."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        x_NCYX = input.float()
        count = x_NCYX.numel() // x_NCYX.shape[1] * dist.get_world_size()
        mean_C = _sum(x_NCYX.sum((0, 2, 3))) / count
        centred_NCYX = x_NCYX - mean_C[:, None, None]
        variance_C = _sum(centred_NCYX.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(variance_C * (count / (count - 1)), self.momentum)
        scale_C = self.weight * torch.rsqrt(variance_C + self.eps)
        out_NCYX = centred_NCYX * scale_C[:, None, None] + self.bias[:, None, None]
        return out_NCYX.to(input.dtype)


def _sum(value: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return total


class SharedDropout2d(nn.Module):
    """Dropout of channels whose masks are drawn for the whole batch, so that each process gets its share of them.

    Parameters
    ----------
    p : float
        Probability of dropping a channel.
    batch : int
        Crops of all processes.
    share : slice
        The crops of this process, see `ProcessGroup.share`.
    """

    def __init__(self, p: float, batch: int, share: slice) -> None:
        super().__init__()
        self.p, self.batch, self.share = p, batch, share

    def forward(self, input: Tensor) -> Tensor:
        """Drop channels in training."""
        if not self.training:
            return input
        ones = torch.ones(self.batch, input.shape[1], 1, 1, device=input.device, dtype=input.dtype)
        return input * F.dropout2d(ones, self.p)[self.share]
