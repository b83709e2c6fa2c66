"""``isbi-train evaluate``: predictions into scores."""

from __future__ import annotations

import json
import math
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isbi_infer.errors import UsageError
from isbi_infer.model.devices import ProviderName
from isbi_infer.surroundings import surroundings_of_torch
from isbi_infer.terminal import exit_codes, printable, require_packages
from isbi_infer.terminal.commands import GENERAL, Command, Debug, listed, new_app
from isbi_infer.terminal.labels import ignore_option, labels_are_option
from isbi_infer.terminal.progress import show_progress
from isbi_train.config.inputs import LabelKindName

if TYPE_CHECKING:
    from rich.table import Table

    from isbi_train.evaluation.evaluate import Evaluation
    from isbi_train.scores.instances import InstanceScores
    from isbi_train.scores.metrics import ThinnedScores

app = new_app()

_ALL_COLUMNS = 76  # of a terminal that has room for them


@app.command(
    cls=Command,
    short_help="Score a result, or a model, against labels.",
    epilog=listed(
        "Examples",
        ("isbi-train evaluate stack.probability.tif labels.tif", "Score a result."),
        (
            "isbi-train evaluate model.onnx labels.tif --image stack.tif --sections 25:30",
            "Run a model, and score it.",
        ),
        ("isbi-train evaluate cells.tif ids.tif --instances", "Score ids of cells in 3-D."),
    ),
)
def evaluate(
    prediction: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTION",
            help="TIFF with the probability of cell, or a model (.onnx, .pth, .pt) to run on --image.",
        ),
    ],
    labels: Annotated[
        Path, typer.Argument(metavar="LABELS", help="TIFF of labels, of the same shape; see --labels-are.")
    ],
    labels_are: Annotated[LabelKindName, labels_are_option()] = "cells",
    ignore: Annotated[float | None, ignore_option()] = None,
    image: Annotated[Path | None, typer.Option(help="TIFF to run a model on.")] = None,
    sections: Annotated[
        str,
        typer.Option(
            show_default="all", help="Sections to score, counted from 0: 25:30, 25:, :5, or one such as 7."
        ),
    ] = ":",
    provider: Annotated[ProviderName, typer.Option(help="Where to run a model.")] = "auto",
    pixel_size: Annotated[
        float | None,
        typer.Option(help="Side of a pixel of --image in nanometres. [default: what the file says]"),
    ] = None,
    instances: Annotated[
        bool,
        typer.Option(
            "--instances",
            help="PREDICTION and LABELS hold ids of cells through the stack: score them in 3-D.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of tables.", rich_help_panel=GENERAL)
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw scores, splits and mergers into a .png, .svg or .pdf file.")
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", help="No progress; scores are printed all the same.", rich_help_panel=GENERAL
        ),
    ] = False,
    debug: Debug = False,
) -> None:
    """Score PREDICTION against LABELS as the ISBI 2012 challenge does: V_rand and V_info after border thinning."""
    with exit_codes("isbi-train", debug=debug), surroundings_of_torch(plot), ExitStack() as shown:
        require_packages("scores", "numba", "skimage", *(["matplotlib"] if plot else []))
        display = shown.enter_context(show_progress("starting", quiet=quiet, unit="Mpx"))
        from isbi_infer.volumes import open_stack
        from isbi_train.data.labels import LabelRule
        from isbi_train.evaluation.evaluate import evaluate as score
        from isbi_train.evaluation.evaluate import evaluate_instances, section_range
        from isbi_train.evaluation.predict import unit_of

        if instances:
            if image or plot or pixel_size is not None or ignore is not None:
                raise UsageError(
                    "--instances compares two files of ids; leave --image, --pixel-size, --ignore, --plot out"
                )
            display.stage("scoring")
            found = evaluate_instances(prediction, labels, sections=sections)
            shown.close()
            _print_instances(found, prediction, labels, as_json=as_json)
            return
        if plot:
            from isbi_train.plots.figures import check_plottable

            check_plottable(plot)
        display.stage("reading")
        if image:
            with open_stack(image) as reader:
                megapixels = (
                    reader.height * reader.width * len(section_range(sections, reader.sections)) / 1e6
                )
            display.stage(unit_of(prediction), together=megapixels)
        evaluation = score(
            prediction,
            labels,
            rule=LabelRule.of(labels_are, ignore),
            image=image,
            sections=sections,
            provider=provider,
            pixel_size=pixel_size,
            progress=display,
            scored=display.next("scored section"),
        )
        shown.close()
        for note in evaluation.notes:
            typer.echo(f"isbi-train: note: {printable(note)}", err=True)
        if plot:
            from isbi_train.plots.scores import plot_scores

            plot_scores(evaluation, plot)
        if as_json:
            typer.echo(json.dumps(evaluation.to_plain(), allow_nan=False))
        else:
            _print_tables(evaluation)


def _print_instances(
    scored: tuple[str, InstanceScores], prediction: Path, labels: Path, *, as_json: bool
) -> None:
    from dataclasses import asdict

    chosen, found = scored
    if as_json:
        named = {"prediction": str(prediction), "labels": str(labels), "sections": chosen}
        typer.echo(json.dumps(named | asdict(found)))
        return
    typer.echo(
        f"{prediction} against {labels}, sections {chosen}: {found.found} ids, {found.truth} in the labels\n"
        f"adapted Rand error {found.error:.4f} (precision {found.precision:.4f}, recall {found.recall:.4f})\n"
        f"variation of information {found.splits + found.mergers:.4f} bits (splits {found.splits:.4f}, "
        f"mergers {found.mergers:.4f})"
    )


def _print_tables(evaluation: Evaluation) -> None:
    from rich.console import Console

    from isbi_train.evaluation.evaluate import sections_named

    console = Console(highlight=False, markup=False)
    chosen, thinned = evaluation.sections, evaluation.thinned
    with console.capture() as captured:  # rich would take a closed standard output for a failure
        files = f"{evaluation.prediction} against {evaluation.labels}"
        console.print(f"{files}, sections {sections_named(chosen)}", soft_wrap=True)
        for name, scores in (("V_rand", thinned.rand), ("V_info", thinned.info)):
            best = f"{scores.best:.6f} at threshold {scores.best_threshold:.1f}"
            console.print(name, "undefined" if math.isnan(scores.best) else best, style="bold")
        # Where there is no room for all, the scores alone.
        shown = slice(None) if console.width >= _ALL_COLUMNS else slice(None, None, 3)
        tables = _threshold_table(thinned, shown), _section_table(evaluation, shown)
        console.print(*tables, _other_table(evaluation))
        footer = "Figures on held-out training sections are not comparable with the official test set."
        console.print(footer, soft_wrap=True)
    sys.stdout.write(captured.get())


def _threshold_table(thinned: ThinnedScores, shown: slice) -> Table:
    table = _table("After border thinning, means over the sections; * best", "threshold", shown)
    for t, threshold in enumerate(thinned.thresholds.tolist()):
        cells = []
        for scores in (thinned.rand, thinned.info):
            mark = "*" if threshold == scores.best_threshold else " "
            precision, recall = (float(part[t].mean()) for part in (scores.precision, scores.recall))
            cells += [f"{scores.mean[t]:.4f}{mark}", f"{precision:.4f}", f"{recall:.4f}"]
        table.add_row(f"{threshold:.1f}", *cells[shown])
    return table


def _section_table(evaluation: Evaluation, shown: slice) -> Table:
    from isbi_train.evaluation.evaluate import best_index

    both = evaluation.thinned.rand, evaluation.thinned.info
    rand, info = (f"{scores.thresholds[best_index(scores)]:.1f}" for scores in both)
    table = _table(f"Each section, V_rand at threshold {rand} and V_info at {info}", "section", shown)
    for s, section in enumerate(evaluation.sections):
        cells = []
        for scores in both:
            t = best_index(scores)
            parts = scores.score[t, s], scores.precision[t, s], scores.recall[t, s]
            cells += [f"{part:.4f}" for part in parts]
        table.add_row(str(section), *cells[shown])
    return table


def _table(title: str, first: str, shown: slice) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    table.add_column(first, justify="right")
    for score in ("V_rand", "V_info"):
        for name in (score, "precision\n(mergers)", "recall\n(splits)")[shown]:
            table.add_column(name, justify="right")
    return table


def _other_table(evaluation: Evaluation) -> Table:
    from rich import box
    from rich.table import Table

    pixels, rand, variation = evaluation.pixels, evaluation.adapted_rand, evaluation.variation
    table = Table(
        title=f"Without thinning; where classes are compared, at threshold {pixels.threshold}",
        title_justify="left",
        title_style="",
        box=box.SIMPLE_HEAD,
        show_header=False,
    )
    table.add_column()
    table.add_column(justify="right")
    for name, *figures in (
        ("pixel error", pixels.pixel_error),
        ("Dice: membrane, cell", pixels.dice_membrane, pixels.dice_cell),
        ("intersection over union: membrane, cell", pixels.iou_membrane, pixels.iou_cell),
        ("adapted Rand: error, precision, recall", rand.error, rand.precision, rand.recall),
        ("variation of information: splits, mergers (bits)", variation.splits, variation.mergers),
        ("expected calibration error", evaluation.calibration_error),
    ):
        table.add_row(name, "  ".join(f"{figure:.4f}" for figure in figures))
    return table
