"""PyTorch at its best: BatchNorm folded, channels last, no gradients, the whole section at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from isbi_infer.backends.cores import available_cores
from isbi_models import default_model

from .task import AT_ONCE, Peer, Task, need

CHECKPOINT = default_model().path.with_suffix(".pth")


def released_network(task: Task) -> Any:
    """Load the released weights on the device, or skip by name."""
    need("torch", "isbi_export.formats.deployable")
    import torch

    from isbi_export.formats.deployable import Deployable
    from isbi_train.networks.checkpoint import load_checkpoint

    if not CHECKPOINT.exists():
        pytest.skip(f"{CHECKPOINT.name} is not here; it comes with the source tree only")
    require_torch_on(task.device, task.quick)
    model = Deployable(load_checkpoint(CHECKPOINT).load_network())
    return model.to(task.device, memory_format=torch.channels_last)


def require_torch_on(device: str, quick: bool) -> None:
    """Let torch use all cores, but one in a smoke run; skip, by name, a torch without the device."""
    need("torch")
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} finds no CUDA device")
    torch.set_num_threads(1 if quick else available_cores())


def without_gradients(work: Callable[[], Any]) -> Callable[[], Any]:
    """Return what runs `work` and brings its tensor (1, 1, Y, X) back as an array (Y, X)."""
    import torch

    def run():
        with torch.inference_mode():
            return work().float().cpu().numpy()[0, 0]

    return run


def compiled(model: Any, quick: bool) -> Any:
    """Compile for one shape, or skip by name where there is no compiler; a smoke run only traces."""
    import torch

    torch._dynamo.reset()
    return torch.compile(model, dynamic=False, backend="eager" if quick else "inductor")


def first_call(work: Callable[[], Any]) -> float:
    """Run for the first time, which compiles; return the seconds, or skip by name where there is no compiler."""
    import torch

    started = time.perf_counter()
    try:
        work()
    except torch._dynamo.exc.BackendCompilerFailed as error:
        pytest.skip(f"torch.compile does not work here: {str(error).strip().splitlines()[0][:160]}")
    return time.perf_counter() - started


def torch_eager(task: Task) -> Peer:
    model = released_network(task)
    return Peer(without_gradients(lambda: model(task.tensor())), AT_ONCE, "fp32", 1.0)


def torch_bf16(task: Task) -> Peer:
    """Let torch choose what it computes in bfloat16."""
    model = released_network(task)
    import torch

    def work():
        with torch.autocast(task.device, torch.bfloat16):
            return model(task.tensor())

    return Peer(without_gradients(work), AT_ONCE, "bf16", 1.0)


def torch_compile(task: Task) -> Peer:
    model = compiled(released_network(task), task.quick)
    run = without_gradients(lambda: model(task.tensor()))
    seconds = first_call(run)
    return Peer(run, f"{AT_ONCE}; compiled before, in {seconds:.0f} s", "fp32", 1.0)


def torchscript(task: Task) -> Peer:
    """Trace and freeze, as `isbi-export` writes it."""
    model = released_network(task)
    import torch

    example_NCYX = torch.zeros(1, 1, 64, 96, device=task.device)
    with torch.inference_mode():
        traced = torch.jit.freeze(torch.jit.trace(model, example_NCYX))
    return Peer(without_gradients(lambda: traced(task.tensor())), AT_ONCE, "fp32", 1.0)
