"""``isbi-train``: labelled stacks into checkpoints, predictions into scores."""

from __future__ import annotations

import os
from typing import Annotated

from isbi_infer.terminal.commands import RUNTIMES, Group, listed, new_app, version_option
from isbi_train.commands import data, evaluate, fit

_PACKAGES = ("torch", "numba", "scipy", "scikit-image", *(name for name in RUNTIMES if name != "torch"))

app = new_app(
    add_completion=True,
    cls=Group,
    epilog=listed(
        "Examples",
        ("isbi-train fit --data s.tif --labels l.tif --out runs/mine", "Train on your own sections."),
        ("isbi-train evaluate stack.probability.tif labels.tif", "Score a result."),
        ("isbi-train fit --help", "What a command takes."),
    ),
)
for commands in (fit, evaluate, data):
    app.add_typer(commands.app)


@app.callback()
def train(_: Annotated[bool, version_option("isbi-train", *_PACKAGES)] = False) -> None:
    """Train and evaluate membrane segmentation."""


def main() -> None:
    """Run ``isbi-train``."""
    # OpenMP reads this when torch is loaded. Threads that spin where they wait for each other, at every layer, hold the
    # very core that the last of them needs, if another program runs on it.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    app()
