"""What the attempts are made of: a small stack, a model that is good but for its author's intent, and a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

import tifffile

from isbi_infer.sample import synthetic_stack

sys.path.append(str(Path(__file__).parents[1] / "tests" / "faults"))
from tiny_files import CONTRACT, graph_around, tiny_checkpoint, tiny_onnx, weight_named

__all__ = [
    "CONTRACT",
    "graph_around",
    "on_a_stack",
    "tiny_checkpoint",
    "tiny_onnx",
    "weight_named",
    "write_stack",
]


def write_stack(folder: Path, name: str = "stack.tif", **options: object) -> Path:
    """Write two small sections."""
    tifffile.imwrite(folder / name, synthetic_stack(2, 64, 80)[0], photometric="minisblack", **options)
    return folder / name


def on_a_stack(folder: Path, model: Path) -> list[str]:
    """Return arguments that segment a small stack with a model."""
    return [str(write_stack(folder)), "--model", str(model), "--provider", "cpu"]
