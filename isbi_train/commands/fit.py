"""``isbi-train fit``: settings out of a recipe, a TOML file and flags, and a run of them."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from isbi_infer.errors import UsageError
from isbi_infer.headroom import check_headroom_of_torch
from isbi_infer.surroundings import surroundings_of_torch
from isbi_infer.terminal import exit_codes, printable, printed_log, require_packages
from isbi_infer.terminal.commands import GENERAL, Command, Debug, listed, new_app
from isbi_infer.terminal.progress import duration, show_progress
from isbi_train.commands.flags import with_setting_flags
from isbi_train.config.settings import Layer, parse_assignment, read_layer, recipe_layer

app = new_app()


@app.command(
    cls=Command,
    short_help="Train a U-Net on labelled sections.",
    epilog=listed(
        "Examples",
        ("isbi-train fit --data s.tif --labels l.tif --out runs/mine", "From fresh weights."),
        (
            "isbi-train fit --init em-open --data s.tif --labels l.tif --out runs/mine",
            "From a released model's.",
        ),
        ("isbi-train fit --resume --out runs/mine", "Go on with a run that was stopped."),
        ("isbi-train fit --recipe em-open --stacks all.toml --out runs/all", "On several stacks."),
    ),
)
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
    folds_of: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="With --folds and --stacks: the stack of the list that is cut into them."
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Processor threads. [default: all cores; 1 a process where several train]"
        ),
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", help="No progress and no scores; history.json has them.", rich_help_panel=GENERAL
        ),
    ] = False,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard",
            help="Write losses and scores for TensorBoard too, into OUT/tensorboard.",
            rich_help_panel=GENERAL,
        ),
    ] = False,
    debug: Debug = False,
    *,
    flags: Layer,
) -> None:
    """Train a U-Net on all but a few sections, validating and saving every 2 epochs.

    Settings come from the defaults, --recipe, --settings and flags, in this order. On several devices:
    torchrun --nproc-per-node 2 -m isbi_train fit ...
    """
    with exit_codes("isbi-train", debug=debug), surroundings_of_torch(out), ExitStack() as shown:
        for given, flag in ((fold, "--fold is one"), (folds_of, "--folds-of names the stack")):
            if given is not None and folds is None:
                raise UsageError(f"{flag} of --folds N; give N too")
        if resume and folds is not None:
            raise UsageError("--folds always goes on where it stopped; leave --resume out")
        require_packages("train", "torch", "numba", "tomli_w")
        check_headroom_of_torch()
        first = os.environ.get("RANK", "0") == "0"  # of several processes, which torchrun numbers
        display = shown.enter_context(show_progress("starting", quiet=quiet or not first))
        from isbi_train.commands.records import Records
        from isbi_train.config import TrainConfig
        from isbi_train.data.inputs import entries_of, read_labelled, read_list_of
        from isbi_train.data.labelled import LabelledStack
        from isbi_train.data.stacks import TrainingData
        from isbi_train.training.device import use_threads
        from isbi_train.training.distributed import torchrun_processes
        from isbi_train.training.start import at_its_pixel_size, settings_from

        display.stage("reading")
        records = Records(out, tensorboard=tensorboard)
        saved = out / "settings.toml"
        if resume and recipe is None and settings is None and saved.exists():
            settings = saved
        chosen, start = settings_from([*_layers(recipe, settings, assignments or []), ("flags", flags)])
        inputs, note = chosen.inputs, ""
        if folds is not None and bool(inputs.stacks) != (folds_of is not None):
            raise UsageError(
                "--folds cuts one stack into blocks; name it with --folds-of, or give it alone with --data"
                if inputs.stacks
                else "--folds-of names a stack of a list; give the list with --stacks"
            )
        stack: LabelledStack | TrainingData | None = None  # each fold of a list reads its own
        if not inputs.stacks:
            stack = read_labelled(inputs)
            if start:
                inputs, note = at_its_pixel_size(inputs, stack, start)
                stack = read_labelled(inputs) if inputs != chosen.inputs else stack
        elif folds is None:
            stack = read_list_of(chosen)
        with torchrun_processes() as processes:
            level = logging.WARNING if quiet else logging.INFO
            shown.enter_context(printed_log("isbi_train", level if processes.is_main else logging.ERROR))
            use_threads(threads, processes.size)
            parts: dict[str, Any] = {
                "network": chosen.network,
                "augment": chosen.augment,
                "inputs": inputs,
                "processes": processes,
                "display": display,
            }
            if note and processes.is_main:
                print(f"isbi-train: note: {printable(note)}", file=sys.stderr)
            if folds is not None:
                from isbi_train.training.folds import FoldsOfList, FoldsOfOne, cross_validate

                cut: FoldsOfOne | FoldsOfList
                if isinstance(stack, LabelledStack):
                    cut = FoldsOfOne(stack, chosen.train, folds)
                else:
                    size, name = inputs.resample_nm, folds_of or ""
                    cut = FoldsOfList(entries_of(inputs), name, chosen.train, folds, size, inputs.stacks)

                def say_fold(fold: int, entry: dict[str, Any]) -> None:
                    records.of_fold(fold).add(entry)
                    if not quiet:
                        _say_fold(fold, entry)

                def keep_page(fold: int, data: TrainingData, train: TrainConfig) -> None:
                    records.of_fold(fold).finish(data, train)

                found = cross_validate(cut, out, only=fold, report=say_fold, finished=keep_page, **parts)
                shown.close()
                if processes.is_main and not quiet:
                    _say_folds(out, found)
            elif stack is not None:
                from isbi_train.training.train import fit as run

                def say(entry: dict[str, Any]) -> None:
                    records.add(entry)
                    if not quiet:
                        _say(entry)

                model = run(stack, out, train=chosen.train, resume=resume, report=say, **parts)
                shown.close()
                if processes.is_main:
                    if isinstance(stack, LabelledStack):
                        stack = TrainingData.of_one(stack, chosen.train.counted(len(stack)))
                    page = records.finish(stack, chosen.train)
                    if not quiet:
                        typer.echo(f"{page}: losses, scores and examples")
                        typer.echo(f"{model}: next, isbi-export {shlex.quote(str(model))}")


def _layers(recipe: str | None, settings: Path | None, assignments: list[str]) -> Iterator[tuple[str, Layer]]:
    """Yield the settings of recipe, file and assignments, each with where they come from."""
    if recipe is not None:
        yield f"recipe {recipe}", recipe_layer(recipe)
    if settings is not None:
        yield str(settings), read_layer(settings)
    for assignment in assignments:
        yield f"--set {assignment}", parse_assignment(assignment)


def _say(entry: dict[str, Any], fold: str = "") -> None:
    # By `print`, which finds the standard output that a display puts above itself; `typer.echo` writes past it.
    print(
        f"{fold}epoch {entry['epoch']:4d}  loss {entry['training_loss']:.4f}, held out {entry['loss']:.4f}  "
        f"V_rand {entry['v_rand_thin']:.4f}  V_info {entry['v_info_thin']:.4f}  {duration(entry['seconds'])}",
        flush=True,
    )
    for name, scores in entry.get("stacks", {}).items():
        print(
            f"  {name}: held out {scores['loss']:.4f}  V_rand {scores['v_rand_thin']:.4f}  "
            f"V_info {scores['v_info_thin']:.4f}",
            flush=True,
        )


def _say_fold(fold: int, entry: dict[str, Any]) -> None:
    _say(entry, f"fold {fold}  ")


def _say_folds(out: Path, found: dict[str, Any]) -> None:
    for entry in found["per_fold"]:
        typer.echo(
            f"fold {entry['fold']}  sections {entry['sections']}  epoch {entry['epoch']}  "
            f"V_rand {entry['v_rand_thin']:.4f}  V_info {entry['v_info_thin']:.4f}"
        )
    for fold in found["unfinished"]:
        typer.echo(
            f"fold {fold}  unfinished, so not in the mean; the same command with --fold {fold} goes on"
        )
    count = f"{len(found['per_fold'])} of {found['folds']} folds"
    for name, score in (("V_rand", "v_rand_thin"), ("V_info", "v_info_thin")):
        spread = found["spread"][score]
        around = "" if spread is None else f" +- {spread:.4f}"
        typer.echo(f"{name} {found['mean'][score]:.4f}{around} over {count}")
    typer.echo(f"{out / 'folds.json'}: next, train on all sections with the same settings, without --folds")
