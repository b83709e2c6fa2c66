"""A checkpoint that runs a command when it is unpickled.

``torch.save`` writes a pickle, and a pickle may name any function to be called while it is read: `os.system` is the
classic. Everything here is read with ``weights_only=True``, which builds tensors and plain types and calls nothing
else. The payload may lie where a whole checkpoint is expected, among the weights, and under the name of another kind
of file.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import torch

from attacks.attempt import Attempt
from attacks.files import on_a_stack, tiny_checkpoint

_REFUSED = "could run code"


class _Payload:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._mark}",)


def _attempt(folder: Path, file: Path, program: str = "isbi-export", says: str = _REFUSED) -> Attempt:
    mark = folder / "ran"
    return Attempt(
        program=program,
        arguments=[str(file)] if program == "isbi-export" else on_a_stack(folder, file),
        code=5,
        says=says,
        harm=lambda: "the payload ran" if mark.exists() else "",
    )


def _whole(folder: Path) -> Attempt:
    torch.save(_Payload(folder / "ran"), folder / "model.pth")
    return _attempt(folder, folder / "model.pth")


def _among_weights(folder: Path) -> Attempt:
    weights = tiny_checkpoint().state_dict
    torch.save({**weights, "head.bias": _Payload(folder / "ran")}, folder / "model.pth")
    return _attempt(folder, folder / "model.pth")


def _old_format(folder: Path) -> Attempt:
    payload = _Payload(folder / "ran")
    torch.save({"w": payload}, folder / "model.pth", _use_new_zipfile_serialization=False)
    return _attempt(folder, folder / "model.pth")


def _as_onnx(folder: Path) -> Attempt:
    (folder / "model.onnx").write_bytes(pickle.dumps(_Payload(folder / "ran")))
    return _attempt(folder, folder / "model.onnx", "isbi-infer", "a pickle")


def _as_torchscript(folder: Path) -> Attempt:
    torch.save(_Payload(folder / "ran"), folder / "model.pt")
    return _attempt(folder, folder / "model.pt", "isbi-infer", "no TorchScript")


ATTEMPTS = {
    "a checkpoint that is one": _whole,
    "among the weights": _among_weights,
    "in the format of torch before 1.6": _old_format,
    "named .onnx": _as_onnx,
    "named .pt": _as_torchscript,
}
