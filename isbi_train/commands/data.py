"""The commands of ``isbi-train`` that handle data: fetch it, take it apart, vary it, and lay out results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from isbi_infer.terminal import exit_codes, printable, require_packages, section_progress
from isbi_train.config.inputs import LabelKindName

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback when something goes wrong.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress and no summary.")]
Provider = Literal["auto", "cpu", "cuda", "tensorrt", "openvino"]

_DATA = Path("data/isbi2012")
_INTERVAL_S = 2.0


@app.command()
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

        with _progress("MB", 1e6, quiet=quiet) as progress:
            written = run(data, url=url or URL, archive=archive, progress=progress)
        if not quiet:
            if written:
                typer.echo(f"{', '.join(map(str, written))}: written, every pixel as it should be")
            else:
                typer.echo(f"{data}: all three stacks are there already, every pixel as it should be")
            typer.echo(TERMS)


@app.command()
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

        with _progress("sections", quiet=quiet) as progress:
            files = split_stack(stack, folder, overwrite=overwrite, progress=progress)
        if not quiet:
            typer.echo(f"{len(files)} sections -> {files[0]} to {files[-1].name}")


@app.command()
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

        with _progress("sections", quiet=quiet) as progress:
            count, notes = merge_sections(folder, stack, overwrite=overwrite, progress=progress)
        _say(notes)
        if not quiet:
            typer.echo(f"{count} sections -> {stack}")


@app.command()
def augment(
    out: Annotated[Path, typer.Option(help="Folder for the pairs and a picture of some.")],
    data: Annotated[
        Path, typer.Option(help="Folder with train-volume.tif and train-labels.tif, or a stack.")
    ] = _DATA,
    labels: Annotated[Path | None, typer.Option(help="Labels of a stack.")] = None,
    labels_are: Annotated[
        LabelKindName, typer.Option(help="What labels above 0 mark: cells, membranes, or ids of cells.")
    ] = "cells",
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
        from isbi_train.augment.examples import PREVIEW, write_pairs
        from isbi_train.data.labelled import load_labelled
        from isbi_train.evaluation.evaluate import section_range
        from isbi_train.plots.sheets import draw_pairs

        stack = load_labelled(data, labels=labels, labels_are=labels_are)
        _say(stack.notes)
        chosen = section_range(sections, len(stack))
        started = time.perf_counter()
        with _progress("pairs", quiet=quiet) as progress:
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
                f"{count} pairs of sections {chosen.start}:{chosen.stop} -> {out}, {speed:.1f} pairs/s; "
                f"some are drawn in {out / PREVIEW}"
            )


@app.command()
def analyse(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model (.onnx, .pth, .pt).")],
    stack: Annotated[Path, typer.Argument(metavar="STACK", help="Greyscale TIFF: plain, ImageJ or OME.")],
    out: Annotated[Path, typer.Option(help="Folder for submission, sections and contact sheet.")],
    provider: Annotated[Provider, typer.Option(help="Where to compute.")] = "auto",
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
        from isbi_infer.volumes import open_stack
        from isbi_train.plots.analyse import analyse as run

        with open_stack(stack) as reader:
            megapixels = reader.height * reader.width / 1e6
        with section_progress(megapixels, quiet=quiet) as progress:
            result = run(
                model, stack, out, provider=provider, tta=tta, pixel_size=pixel_size, progress=progress
            )
        _say(result.notes)
        if not quiet:
            typer.echo(
                f"{result.submission} (float32, 1 = cell), {len(result.sections)} sections in "
                f"{result.sections[0].parent}, {result.contact_sheet}"
            )


@app.command()
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
        named = title or f"{folder.resolve().name}, {history[-1]['epoch']} epochs"
        plot_curves(history, path, title=named)
        if not quiet:
            typer.echo(f"{path}: {len(history)} validations, the last after epoch {history[-1]['epoch']}")


def _say(notes: tuple[str, ...]) -> None:
    for note in notes:
        typer.echo(f"isbi-train: note: {printable(note)}", err=True)


@contextmanager
def _progress(noun: str, unit: float = 1, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Show how many are done, their speed and the time left, every 2 seconds on standard error."""
    if quiet:
        yield None
        return
    started = said = time.perf_counter()
    live = sys.stderr.isatty()

    def show(done: int, total: int) -> None:
        nonlocal said
        now = time.perf_counter()
        if now - said < _INTERVAL_S:
            return
        said = now
        speed = done / (now - started)
        left = f", {(total - done) / speed:.0f} s left" if total and speed else ""
        of = f"/{total / unit:.0f}" if total else ""
        line = f"{done / unit:.0f}{of} {noun}, {speed / unit:.1f} a second{left}"
        print(f"\r{line:<60}" if live else line, end="" if live else "\n", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if live and said != started:
            print(f"\r{'':<60}\r", end="", file=sys.stderr, flush=True)
