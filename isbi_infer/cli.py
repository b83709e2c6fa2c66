"""``isbi-infer``: arguments -> Segmenter -> exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from isbi_infer._version import __version__
from isbi_infer.model.devices import device_names, precision_names
from isbi_infer.terminal import counted, exit_codes, printable, section_progress

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


if TYPE_CHECKING:
    from isbi_infer.model.devices import PrecisionName as Precision
    from isbi_infer.model.devices import ProviderName as Provider
else:  # the choices are those of the table of devices
    Provider = Literal[("auto", *device_names())]
    Precision = Literal[("auto", *precision_names())]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"isbi-infer {__version__}")
        raise typer.Exit


@app.command(
    epilog="isbi-infer doctor reports what is installed and what of it really runs. (A stack of that name: ./doctor)"
)
def infer(
    stack: Annotated[
        Path,
        typer.Argument(
            metavar="STACK",
            help="Greyscale TIFF section or stack (plain, ImageJ, OME), or a folder of images.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Output TIFF. [default: STACK.probability.tif]")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="ONNX or TorchScript model from isbi-export. [default: the released model]"),
    ] = None,
    provider: Annotated[
        Provider,
        typer.Option(
            help="Where to compute; any name but auto is proved active, or it is an error.",
        ),
    ] = "auto",
    precision: Annotated[
        Precision,
        typer.Option(
            help="Of weights and arithmetic; auto is the fastest that passed its gate for the provider.",
        ),
    ] = "auto",
    tile: Annotated[
        int | None, typer.Option(help="Longest tile side in pixels; never changes the result.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Tiles computed at once; never changes the result.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="What the network may take, such as 4GiB. [default: half of what is free]"),
    ] = None,
    halo: Annotated[
        int | None,
        typer.Option(help="Context in pixels; less than the model's own is not exact, as a note then says."),
    ] = None,
    pixel_size: Annotated[
        float | None,
        typer.Option(
            help="Side of a pixel in nanometres: sections are resampled to the model's and results back. "
            "[default: what the file holds]"
        ),
    ] = None,
    tta: Annotated[
        bool, typer.Option("--tta", help="Average over the 8 flips and rotations; 8 times the work.")
    ] = False,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep compiled models in the user's cache folder.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print plan, memory and expected time; write nothing.")
    ] = False,
    emit: Annotated[Literal["cell", "membrane"], typer.Option(help="What 1 means.")] = "cell",
    dtype: Annotated[
        Literal["float32", "uint8"], typer.Option(help="Of the output; uint8 stores round(255 p).")
    ] = "float32",
    label: Annotated[
        Path | None, typer.Option(help="TIFF of labels (255 = cell) to score the result against.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of the summary.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no summary.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback when something goes wrong.")
    ] = False,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Segment STACK: write the probability that each pixel is cell interior (1) rather than membrane (0)."""
    with exit_codes("isbi-infer", debug=debug):
        from isbi_infer import scoring
        from isbi_infer.backends.compiled_cache import use_cache
        from isbi_infer.files import check_not_input, check_writable
        from isbi_infer.segmenter import Segmenter
        from isbi_infer.volumes import open_source

        use_cache(cache)
        target = output or _beside(stack)
        with ExitStack() as opened:
            source = opened.enter_context(open_source(stack))
            scorer = None
            if label:
                check_not_input(target, label)
                scorer = scoring.open_scorer(label, source.info.shape, membrane=emit == "membrane")
                opened.enter_context(scorer)
            if not dry_run:
                check_not_input(target, stack)
                check_writable(target)
            segmenter = Segmenter(
                model,
                provider=provider,
                tile=tile,
                batch=batch,
                memory=memory,
                halo=halo,
                precision=precision,
                pixel_size=pixel_size,
                tta=tta,
                pixels=prod(source.info.shape) * (8 if tta else 1),
            )
            if dry_run:
                estimate = segmenter.estimate(segmenter.plan_source(source, emit=emit, dtype=dtype))
                typer.echo(json.dumps(estimate.to_plain()) if as_json else str(estimate))
                _say(estimate.plan.notes)
                return
            megapixels = source.info.shape[-2] * source.info.shape[-1] / 1e6
            with section_progress(megapixels, quiet=quiet or as_json) as progress:
                summary = segmenter.segment_file(
                    source,
                    target,
                    emit=emit,
                    dtype=dtype,
                    progress=progress,
                    also=(scoring.ScoringSink(scorer),) if scorer else (),
                )
            scores = scorer.scores() if scorer else None
        _say((*summary.notes, *(scores["notes"] if scores else ())))
        if as_json:
            typer.echo(json.dumps(summary.to_plain() | ({"scores": scores} if scores else {})))
            return
        if not quiet:
            typer.echo(
                f"{summary.provider} {summary.precision}: {counted(summary.sections, 'section')} in "
                f"{summary.seconds:.2f} s, {summary.megapixels_per_second:.2f} Mpx/s -> {summary.output}"
            )
        if scores:
            typer.echo(scoring.summary(scores))


def _say(notes: Iterable[str]) -> None:
    for note in notes:
        typer.echo(f"isbi-infer: note: {printable(note)}", err=True)


def _beside(stack: Path) -> Path:
    """Name the output after the stack: ``stack.tif`` -> ``stack.probability.tif``."""
    stem = stack.stem if stack.suffix.lower() in (".tif", ".tiff") else stack.name
    return stack.with_name(f"{stem}.probability.tif")


def main() -> None:
    """Run ``isbi-infer``, or ``isbi-infer doctor``."""
    if sys.argv[1:2] == ["doctor"]:
        from isbi_infer.doctor import app as doctor

        doctor(args=sys.argv[2:], prog_name="isbi-infer doctor")
    app()
