"""The commands of ``isbi-train`` that handle data: fetch it, take it apart, vary it, and lay out results."""

from __future__ import annotations

import logging
import time
from math import prod
from pathlib import Path
from typing import Annotated

import typer

from isbi_infer.model.devices import ProviderName
from isbi_infer.terminal import counted, exit_codes, printable, printed_log, require_packages
from isbi_infer.terminal.commands import Command, Debug, Quiet, listed, new_app
from isbi_infer.terminal.labels import labels_are_option
from isbi_infer.terminal.progress import show_progress
from isbi_train.config.inputs import LabelKindName

app = new_app()

_DATA = Path("data/isbi2012")


@app.command(
    cls=Command,
    short_help="Fetch the data of the ISBI 2012 challenge.",
    epilog=listed(
        "Examples",
        ("isbi-train download", "Into data/isbi2012."),
    ),
)
def download(
    data: Annotated[Path, typer.Option(help="Folder to put the three stacks into.")] = _DATA,
    archive: Annotated[
        Path | None, typer.Option(help="The zip file, fetched by other means: nothing is downloaded.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(show_default="the challenge's", help="Another address of the zip file.")
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fetch the data of the ISBI 2012 challenge and check every pixel; what is there already stays."""
    with exit_codes("isbi-train", debug=debug):
        from isbi_train.data.download import TERMS, URL
        from isbi_train.data.download import download as run

        with show_progress("MB", quiet=quiet, unit="MB", scale=1e6) as progress:
            written = run(data, url=url or URL, archive=archive, progress=progress)
        if not quiet:
            if written:
                typer.echo(f"{', '.join(map(str, written))}: written, every pixel as it should be")
            else:
                typer.echo(f"{data}: all three stacks are there already, every pixel as it should be")
            typer.echo(TERMS)


@app.command(
    cls=Command,
    short_help="Write each section of a stack into a file of its own.",
    epilog=listed(
        "Examples",
        ("isbi-train split stack.tif sections", "sections/00.tif, 01.tif ..."),
    ),
)
def split(
    stack: Annotated[Path, typer.Argument(metavar="STACK", help="Greyscale TIFF: plain, ImageJ or OME.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for 00.tif, 01.tif, ...")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace sections in DIR.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write each section of STACK into a file of its own; pixels, dtype and pixel size stay as they are."""
    with exit_codes("isbi-train", debug=debug):
        from isbi_train.data.section_files import split_stack

        with show_progress("section", quiet=quiet) as progress:
            files = split_stack(stack, folder, overwrite=overwrite, progress=progress)
        if not quiet:
            typer.echo(f"{counted(len(files), 'section')} -> {files[0]} to {files[-1].name}")


@app.command(
    cls=Command,
    short_help="Write a folder of sections into one stack.",
    epilog=listed(
        "Examples",
        ("isbi-train merge sections stack.tif", "All sections, in natural order."),
    ),
)
def merge(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with a TIFF for each section.")],
    stack: Annotated[Path, typer.Argument(metavar="STACK", help="TIFF to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace STACK.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the TIFF files of DIR, in natural order (2 before 10), into one STACK: what split did, undone."""
    with exit_codes("isbi-train", debug=debug):
        from isbi_train.data.section_files import merge_sections

        with show_progress("section", quiet=quiet) as progress:
            count, notes = merge_sections(folder, stack, overwrite=overwrite, progress=progress)
        _say(notes)
        if not quiet:
            typer.echo(f"{counted(count, 'section')} -> {stack}")


@app.command(
    cls=Command,
    short_help="Write augmented pairs of image and labels.",
    epilog=listed(
        "Examples",
        ("isbi-train augment --out pairs --count 200", "Of the challenge's data."),
        (
            "isbi-train augment --data s.tif --labels l.tif --sections : --out pairs",
            "Of a stack of your own.",
        ),
    ),
)
def augment(
    out: Annotated[Path, typer.Option(help="Folder for the pairs and a picture of some.")],
    data: Annotated[
        Path, typer.Option(help="Folder with train-volume.tif and train-labels.tif, or a stack.")
    ] = _DATA,
    labels: Annotated[Path | None, typer.Option(help="Labels of a stack.")] = None,
    labels_are: Annotated[LabelKindName, labels_are_option()] = "cells",
    count: Annotated[int, typer.Option(help="Pairs to make.")] = 8820,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pairs.")] = 2012,
    sections: Annotated[
        str, typer.Option(help="Sections to draw from, counted from 0; leave out those to be scored.")
    ] = "0:25",
    crop: Annotated[
        int | None, typer.Option(help="Side of the pairs in pixels. [default: a whole section]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace pairs in OUT.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write augmented pairs of image and labels, drawn as training draws them, and a picture of a few."""
    with exit_codes("isbi-train", debug=debug):
        require_packages("train", "torch", "matplotlib")
        with show_progress("starting", quiet=quiet):
            from isbi_train.augment.examples import PREVIEW, write_pairs
            from isbi_train.data.labelled import load_labelled
            from isbi_train.evaluation.evaluate import section_range
            from isbi_train.plots.sheets import draw_pairs

        stack = load_labelled(data, labels=labels, labels_are=labels_are)
        _say(stack.notes)
        chosen = section_range(sections, len(stack))
        started = time.perf_counter()
        with (
            printed_log("isbi_train.augment", logging.WARNING if quiet else logging.INFO),
            show_progress("pair", quiet=quiet, unit="pairs") as progress,
        ):
            write_pairs(
                stack,
                out,
                count=count,
                seed=seed,
                sections=chosen,
                crop=crop,
                draw=draw_pairs,
                overwrite=overwrite,
                progress=progress,
            )
        if not quiet:
            speed = count / (time.perf_counter() - started)
            typer.echo(
                f"{counted(count, 'pair')} of sections {chosen.start}:{chosen.stop} -> {out}, {speed:.1f} pairs/s; "
                f"some are drawn in {out / PREVIEW}"
            )


@app.command(
    cls=Command,
    short_help="Segment a stack into a submission and pictures.",
    epilog=listed(
        "Examples",
        ("isbi-train analyse model.onnx stack.tif --out look", "Submission, sections, picture."),
    ),
)
def analyse(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model (.onnx, .pth, .pt).")],
    stack: Annotated[Path, typer.Argument(metavar="STACK", help="Greyscale TIFF: plain, ImageJ or OME.")],
    out: Annotated[Path, typer.Option(help="Folder for submission, sections and contact sheet.")],
    provider: Annotated[ProviderName, typer.Option(help="Where to compute.")] = "auto",
    tta: Annotated[
        bool, typer.Option("--tta", help="Average over the 8 flips and rotations; not of .pth.")
    ] = False,
    pixel_size: Annotated[
        float | None, typer.Option(help="Side of a pixel in nanometres. [default: what the file says]")
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Segment STACK into a challenge submission (float32, 1 = cell), single sections and a contact sheet."""
    with exit_codes("isbi-train", debug=debug):
        require_packages("scores", "matplotlib", "skimage", "numba")
        with show_progress("starting", quiet=quiet):
            from isbi_infer.volumes import open_stack
            from isbi_train.evaluation.predict import unit_of
            from isbi_train.plots.analyse import analyse as run

        with open_stack(stack) as reader:
            megapixels = prod(reader.shape) / 1e6
        with show_progress(unit_of(model), quiet=quiet, unit="Mpx", together=megapixels) as progress:
            result = run(
                model, stack, out, provider=provider, tta=tta, pixel_size=pixel_size, progress=progress
            )
        _say(result.notes)
        if not quiet:
            typer.echo(
                f"{result.submission} (float32, 1 = cell), {counted(len(result.sections), 'section')} in "
                f"{result.sections[0].parent}, {result.contact_sheet}"
            )


@app.command(
    cls=Command,
    short_help="Draw losses and scores of a run.",
    epilog=listed(
        "Examples",
        ("isbi-train curves runs/mine", "Draw runs/mine/curves.png."),
    ),
)
def curves(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or its history.json.")],
    out: Annotated[
        Path | None, typer.Option(help=".png, .svg or .pdf to write.", show_default="RUN/curves.png")
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="Above the picture.", show_default="the run's name and epochs")
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw the losses and scores of a run by epoch, also while it is going on."""
    with exit_codes("isbi-train", debug=debug):
        require_packages("scores", "matplotlib")
        from isbi_train.plots.curves import CURVES, plot_curves, read_history

        history = read_history(run)
        folder = run if run.is_dir() else run.parent
        path = out or folder / CURVES
        named = title or f"{folder.resolve().name}, {counted(int(history[-1]['epoch']), 'epoch')}"
        plot_curves(history, path, title=named)
        if not quiet:
            typer.echo(
                f"{path}: {counted(len(history), 'validation')}, the last after epoch {history[-1]['epoch']}"
            )


def _say(notes: tuple[str, ...]) -> None:
    for note in notes:
        typer.echo(f"isbi-train: note: {printable(note)}", err=True)
