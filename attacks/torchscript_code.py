"""TorchScript, which is a program: what is not promised.

A TorchScript file is code in a language of its own. It may not call Python, but its operators reach files
(``from_file`` maps any path, and creates it), and its interpreter was not made to hold out against malice. So a
TorchScript file from a stranger is to be treated like a program from a stranger; its contract proves that it is
whole, not who made it. What is held: it is opened only where it is asked for by its own name (.pt), never in the
place of an ONNX file, and only when the contract in it fits, which is read before torch sees the file. ONNX files
hold no such operators: use them.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from attacks.attempt import Attempt
from attacks.files import on_a_stack


def _script(folder: Path) -> tuple[bytes, Path]:
    mark = folder / "written"

    class Writes(torch.nn.Module):
        def __init__(self, path: str) -> None:
            super().__init__()
            self.path = path

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            torch.from_file(self.path, shared=True, size=4).fill_(7.0)
            return image.sigmoid()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Writes(str(mark))), folder / "script")
    content = (folder / "script").read_bytes()
    (folder / "script").unlink()
    return content, mark


def _attempt(folder: Path, name: str, says: str) -> Attempt:
    content, mark = _script(folder)
    (folder / name).write_bytes(content)
    return Attempt(
        program="isbi-infer",
        arguments=on_a_stack(folder, folder / name),
        code=5,
        says=says,
        harm=lambda: "the script wrote a file" if mark.exists() else "",
    )


ATTEMPTS = {
    "named .onnx": lambda folder: _attempt(folder, "model.onnx", "may run any code"),
    "without a contract": lambda folder: _attempt(folder, "model.pt", "carries no contract"),
}
