"""``isbi-train``: labelled stacks into checkpoints."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from isbi_infer.console import exit_codes, require_packages

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True
)


@app.callback()
def train() -> None:
    """Train and evaluate membrane segmentation."""


@app.command()
def fit(
    data: Annotated[Path, typer.Option(help="Folder with train-volume.tif and train-labels.tif (255 = cell).")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and history.")],
    base: Annotated[int, typer.Option(help="Channels of the first level.")] = 32,
    depth: Annotated[int, typer.Option(help="Number of 2x2 poolings.")] = 3,
    unshuffle: Annotated[int, typer.Option(help="1, or 2 to fold 2x2 pixels into channels first.")] = 2,
    dropout: Annotated[float, typer.Option(help="Channels dropped at the deepest level.")] = 0.1,
    epochs: Annotated[int, typer.Option(help="An epoch draws as many pixels as the training sections have.")] = 360,
    crop: Annotated[int, typer.Option(help="Side of the training crops, in pixels.")] = 256,
    batch: Annotated[int, typer.Option(help="Crops a step.")] = 4,
    learning_rate: Annotated[float, typer.Option(help="Highest rate of AdamW.")] = 2e-3,
    hold_out: Annotated[int, typer.Option(help="Last sections kept for validation.")] = 5,
    border: Annotated[int, typer.Option(help="Mirrored pixels around a section when it is segmented.")] = 32,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Of the training arithmetic.")
    ] = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto",
    seed: Annotated[int, typer.Option(help="Fixes weights, crops, augmentation and dropout.")] = 2012,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT where it stopped.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something goes wrong.")] = False,
) -> None:
    """Train a U-Net on all but the last sections, validating and saving every 2 epochs."""
    with exit_codes("isbi-train", debug=debug):
        require_packages("train", "torch", "numba")
        from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
        from isbi_train.data import load_labelled
        from isbi_train.train import fit as run

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        network = NetworkConfig(base=base, depth=depth, unshuffle=unshuffle, dropout=dropout)
        settings = TrainConfig(
            epochs=epochs,
            crop=crop,
            batch=batch,
            learning_rate=learning_rate,
            hold_out=hold_out,
            border=border,
            precision=precision,
            device=device,
            seed=seed,
        )
        model = run(
            load_labelled(data),
            out,
            network=network,
            augment=AugmentConfig(),
            train=settings,
            resume=resume,
            report=_say,
        )
        typer.echo(f"{model}: next, isbi-export {model}")


def _say(entry: dict[str, Any]) -> None:
    typer.echo(
        f"epoch {entry['epoch']:4d}  training loss {entry['training_loss']:.4f}  held-out loss {entry['loss']:.4f}  "
        f"V_rand {entry['v_rand_thin']:.4f}  V_info {entry['v_info_thin']:.4f}  {entry['seconds']:.0f} s"
    )


def main() -> None:
    """Run ``isbi-train``."""
    app()
