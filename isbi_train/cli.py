"""``isbi-train``: labelled stacks into checkpoints, predictions into scores."""

from __future__ import annotations

import os

import typer

from isbi_train.commands import data, evaluate, fit

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True
)
for commands in (evaluate, fit, data):
    app.add_typer(commands.app)


@app.callback()
def train() -> None:
    """Train and evaluate membrane segmentation."""


def main() -> None:
    """Run ``isbi-train``."""
    # OpenMP reads this when torch is loaded. Threads that spin where they wait for each other, at every layer, hold the
    # very core that the last of them needs, if another program runs on it.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    app()
