"""``isbi-train fit``: settings out of a recipe, a TOML file and flags, and a run of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from isbi_infer.errors import UsageError
from isbi_infer.terminal import exit_codes, printable, require_packages
from isbi_train.commands.flags import GroupedHelp, with_setting_flags
from isbi_train.config.settings import Layer, parse_assignment, read_layer, recipe_layer

app = typer.Typer()


@app.command(cls=GroupedHelp)
@with_setting_flags
def fit(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, history and settings.")],
    recipe: Annotated[
        str | None,
        typer.Option(help="Shipped settings: em, em-open, released, released-gpu, unet-64, original."),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="TOML file of settings; OUT/settings.toml of a run repeats it.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting, such as augment.noise=0.2."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in OUT where it stopped, with its settings.")
    ] = False,
    folds: Annotated[
        int | None, typer.Option(help="Cross-validate over so many blocks of neighbouring sections.")
    ] = None,
    fold: Annotated[int | None, typer.Option(help="With --folds: train this one only, from 0.")] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Processor threads. [default: all cores; 1 a process where several train]"),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback when something goes wrong.")
    ] = False,
    *,
    flags: Layer,
) -> None:
    """Train a U-Net on all but a few sections, validating and saving every 2 epochs.

    Settings come from the defaults, --recipe, --settings and flags, in this order. On several devices:
    torchrun --nproc-per-node 2 -m isbi_train fit ...
    """
    with exit_codes("isbi-train", debug=debug):
        require_packages("train", "torch", "numba", "tomli_w")
        from isbi_train.data.inputs import read_labelled, read_list_of
        from isbi_train.data.labelled import LabelledStack
        from isbi_train.training.device import use_threads
        from isbi_train.training.distributed import torchrun_processes
        from isbi_train.training.start import at_its_pixel_size, settings_from

        if fold is not None and folds is None:
            raise UsageError("--fold is one of --folds N; give N too")
        if resume and folds is not None:
            raise UsageError("--folds always goes on where it stopped; leave --resume out")
        saved = out / "settings.toml"
        if resume and recipe is None and settings is None and saved.exists():
            settings = saved
        chosen, start = settings_from([*_layers(recipe, settings, assignments or []), ("flags", flags)])
        inputs, note = chosen.inputs, ""
        if folds is not None and inputs.stacks:
            raise UsageError("--folds cuts one stack into blocks; give it with --data, without --stacks")
        stack = read_list_of(chosen) if inputs.stacks else read_labelled(inputs)
        if start and isinstance(stack, LabelledStack):
            inputs, note = at_its_pixel_size(inputs, stack, start)
            stack = read_labelled(inputs) if inputs != chosen.inputs else stack
        with torchrun_processes() as processes:
            logging.basicConfig(
                level=logging.INFO if processes.is_main else logging.ERROR, format="%(message)s"
            )
            use_threads(threads, processes.size)
            parts: dict[str, Any] = {
                "network": chosen.network,
                "augment": chosen.augment,
                "train": chosen.train,
                "inputs": inputs,
                "processes": processes,
            }
            if note and processes.is_main:
                typer.echo(f"isbi-train: note: {printable(note)}", err=True)
            if isinstance(stack, LabelledStack) and folds is not None:
                from isbi_train.training.folds import cross_validate

                found = cross_validate(stack, out, folds=folds, only=fold, report=_say_fold, **parts)
                if processes.is_main:
                    _say_folds(out, found)
            else:
                from isbi_train.training.train import fit as run

                model = run(stack, out, resume=resume, report=_say, **parts)
                if processes.is_main:
                    typer.echo(f"{model}: next, isbi-export {model}")


def _layers(recipe: str | None, settings: Path | None, assignments: list[str]) -> Iterator[tuple[str, Layer]]:
    """Yield the settings of recipe, file and assignments, each with where they come from."""
    if recipe is not None:
        yield f"recipe {recipe}", recipe_layer(recipe)
    if settings is not None:
        yield str(settings), read_layer(settings)
    for assignment in assignments:
        yield f"--set {assignment}", parse_assignment(assignment)


def _say(entry: dict[str, Any]) -> None:
    typer.echo(
        f"epoch {entry['epoch']:4d}  training loss {entry['training_loss']:.4f}  held-out loss {entry['loss']:.4f}  "
        f"V_rand {entry['v_rand_thin']:.4f}  V_info {entry['v_info_thin']:.4f}  {entry['seconds']:.0f} s"
    )
    for name, scores in entry.get("stacks", {}).items():
        typer.echo(
            f"  {name}: held-out loss {scores['loss']:.4f}  V_rand {scores['v_rand_thin']:.4f}  "
            f"V_info {scores['v_info_thin']:.4f}"
        )


def _say_fold(fold: int, entry: dict[str, Any]) -> None:
    typer.echo(f"fold {fold}  ", nl=False)
    _say(entry)


def _say_folds(out: Path, found: dict[str, Any]) -> None:
    for entry in found["per_fold"]:
        typer.echo(
            f"fold {entry['fold']}  sections {entry['sections']}  epoch {entry['epoch']}  "
            f"V_rand {entry['v_rand_thin']:.4f}  V_info {entry['v_info_thin']:.4f}"
        )
    count = f"{len(found['per_fold'])} of {found['folds']} folds"
    for name, score in (("V_rand", "v_rand_thin"), ("V_info", "v_info_thin")):
        spread = found["spread"][score]
        around = "" if spread is None else f" +- {spread:.4f}"
        typer.echo(f"{name} {found['mean'][score]:.4f}{around} over {count}")
    typer.echo(f"{out / 'folds.json'}")
