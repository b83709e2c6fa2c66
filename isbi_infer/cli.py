"""``isbi-infer``: arguments -> Segmenter -> exit code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from isbi_infer._version import __version__
from isbi_infer.errors import IsbiError, UsageError
from isbi_infer.model.devices import device_names, precision_names
from isbi_infer.terminal import counted, exit_codes, printable, section_progress

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

_COMMANDS = {  # beside the one that segments
    "doctor": "isbi_infer.doctor",
    "models": "isbi_infer.catalogue",
    "verify": "isbi_infer.verify",
}


if TYPE_CHECKING:
    from isbi_infer.model.devices import PrecisionName as Precision
    from isbi_infer.model.devices import ProviderName as Provider
    from isbi_infer.neurons.labelling import LabelSink
    from isbi_infer.plan.run import RunPlan
    from isbi_infer.report.after import Looks
    from isbi_infer.run.volume import VolumeOptions
    from isbi_infer.segmenter import Segmenter
    from isbi_infer.volumes import Source
else:  # the choices are those of the table of devices
    Provider = Literal[("auto", *device_names())]
    Precision = Literal[("auto", *precision_names())]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"isbi-infer {__version__}")
        raise typer.Exit


@app.command(
    epilog="isbi-infer doctor reports what is installed and what of it really runs, isbi-infer models lists "
    "the released models, isbi-infer verify computes parts of an OME-Zarr result again and compares. (Stacks of these "
    "names: ./doctor, ./models, ./verify)"
)
def infer(
    stacks: Annotated[
        list[Path],
        typer.Argument(
            metavar="STACK",
            help="Greyscale TIFF section or stack, folder of images, or OME-Zarr; several share one model.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="TIFF, or OME-Zarr. [default: STACK.probability.tif]"),
    ] = None,
    out_dir: Annotated[
        Path | None, typer.Option(help="Folder for the outputs. [default: beside each STACK]")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="ONNX or TorchScript model from isbi-export, or the name of a released one; see isbi-infer models. "
            "[default: the released model]"
        ),
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
    channel: Annotated[
        int | None, typer.Option(help="Of a file with several channels, counted from 0.")
    ] = None,
    time: Annotated[
        int | None, typer.Option(help="Of a file with several time points, counted from 0.")
    ] = None,
    series: Annotated[
        int | None, typer.Option(help="Of a file with images of several sizes, counted from 0.")
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(
            help="Of a volume with several resolutions. [default: nearest to the model's pixel size]"
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Take a missing chunk of a volume for an error.")
    ] = False,
    block: Annotated[
        str | None,
        typer.Option(metavar="Z,Y,X", help="Pixels of OME-Zarr stored as one; never changes the result."),
    ] = None,
    pyramid: Annotated[bool, typer.Option("--pyramid", help="Add smaller resolutions to OME-Zarr.")] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where a run was cut off; for TIFF, one that was begun with it."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OME-Zarr that is there.")] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Compute the I-th of N shares of OME-Zarr; the last one completes it."
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="TIFF or volume that is 0 where OME-Zarr has no tissue, at any scale that divides: blocks outside are "
            "left out."
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="Compute OME-Zarr on a Dask cluster: local, local:N, tcp://HOST:8786, or a scheduler's JSON file.",
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
        Path | None, typer.Option(help="TIFF of labels to score the result against; see --labels-are.")
    ] = None,
    labels_are: Annotated[
        Literal["cells", "membranes", "ids"],
        typer.Option(help="What labels above 0 mark: cells, membranes, or ids of cells."),
    ] = "cells",
    ignore: Annotated[
        float | None, typer.Option(help="Value of labels that nobody knows; left out of the scores.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Page of HTML to look at: sections, hints, scores, plan. Needs the extra report."),
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="PNG of the first, middle and last section, membranes outlined.")
    ] = None,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(help="PNG of up to 30 sections, outlined and beside their probabilities."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Write ids of cells too: a TIFF, and a table of them beside it (.csv)."),
    ] = None,
    link: Annotated[
        Literal["none", "overlap", "multicut"],
        typer.Option(
            help="How cells of --labels are joined through the sections; none numbers each section's."
        ),
    ] = "none",
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability above which a pixel of --labels is cell. [default: the model's]"),
    ] = None,
    min_size: Annotated[
        str, typer.Option(help="Leave smaller cells of a section out of --labels: 50px or 20000nm2.")
    ] = "0px",
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
    """Segment each STACK: write the probability that each pixel is cell interior (1) rather than membrane (0)."""
    with exit_codes("isbi-infer", debug=debug):
        from isbi_infer.backends.compiled_cache import use_cache
        from isbi_infer.files import make_folder
        from isbi_infer.report.after import Looks
        from isbi_infer.segmenter import Segmenter

        use_cache(cache)
        _check_stacks(stacks, output, label, report or overlay or contact_sheet)
        _check_labels(stacks, labels, link, threshold, min_size)
        if out_dir is not None and not dry_run:
            make_folder(out_dir)
        targets = [_target(stack, output, out_dir) for stack in stacks]
        if len(set(targets)) < len(targets):
            twice = next(target for target in targets if targets.count(target) > 1)
            raise UsageError(f"{twice}: two stacks would be written to it; name one of them otherwise")
        request = _Request(
            channel=channel,
            time=time,
            series=series,
            level=level,
            strict=strict,
            options=_volume_options(block, shard, pyramid, resume, overwrite, mask, cluster),
            label=label,
            labels_are=labels_are,
            ignore=ignore,
            labels=labels,
            link=link,
            threshold=threshold,
            min_size=min_size,
            pixel_size=pixel_size,
            emit=emit,
            dtype=dtype,
            looks=Looks(report=report, overlay=overlay, contact_sheet=contact_sheet),
            dry_run=dry_run,
            as_json=as_json,
            quiet=quiet or as_json,
        )

        def open_model(pixels: int) -> Segmenter:
            return Segmenter(
                model,
                provider=provider,
                tile=tile,
                batch=batch,
                memory=memory,
                halo=halo,
                precision=precision,
                pixel_size=pixel_size,
                tta=tta,
                pixels=pixels * (8 if tta else 1),
            )

        _segment_all(list(zip(stacks, targets, strict=True)), open_model, request)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What is wanted of each stack."""

    channel: int | None
    time: int | None
    series: int | None
    level: str | None
    strict: bool
    options: VolumeOptions | None
    label: Path | None
    labels_are: Literal["cells", "membranes", "ids"]
    ignore: float | None
    labels: Path | None
    link: Literal["none", "overlap", "multicut"]
    threshold: float | None
    min_size: str
    pixel_size: float | None
    emit: Literal["cell", "membrane"]
    dtype: Literal["float32", "uint8"]
    looks: Looks
    dry_run: bool
    as_json: bool
    quiet: bool


def _segment_all(
    work: Sequence[tuple[Path, Path]], open_model: Callable[[int], Segmenter], request: _Request
) -> None:
    """Segment stacks with one model; of several, those that can be, and then raise the first error."""
    from isbi_infer.volumes import open_source

    segmenter: Segmenter | None = None
    failures: list[IsbiError] = []
    for stack, target in work:
        try:
            with open_source(
                stack,
                channel=request.channel,
                time=request.time,
                series=request.series,
                level=request.level,
                strict=request.strict,
            ) as source:
                if segmenter is None:  # once the first stack is known to be one
                    segmenter = open_model(prod(source.info.shape) * len(work))
                with segmenter.nearest_level(source) as nearest:
                    _segment(segmenter, nearest, target, request)
        except IsbiError as error:
            if len(work) == 1:
                raise
            failures.append(error)
            typer.echo(f"isbi-infer: {printable(str(error))}", err=True)
    if failures:
        message = f"{len(failures)} of {counted(len(work), 'stack')} failed, as listed above"
        raise type(failures[0])(message) from failures[0]


def _segment(segmenter: Segmenter, source: Source, target: Path, request: _Request) -> None:
    from isbi_infer import scoring
    from isbi_infer.files import check_not_input, check_writable
    from isbi_infer.volumes import check_output, is_chunked_output, open_source

    if request.dry_run:
        estimate = segmenter.estimate(_plan(segmenter, source, target, request))
        typer.echo(json.dumps(estimate.to_plain()) if request.as_json else str(estimate))
        _say(estimate.plan.notes)
        return
    check_output(target)
    check_not_input(target, source.name)
    if not is_chunked_output(target):
        check_writable(target)
    request.looks.check(
        [path for path in (source.name, target, request.label) if path],
        shares=request.options.share[1] if request.options else 1,
    )
    scores = None
    with ExitStack() as opened:
        scorer = None
        if request.label:
            check_not_input(target, request.label)
            scorer = scoring.open_scorer(
                request.label,
                source.info.shape,
                membrane=request.emit == "membrane",
                labels_are=request.labels_are,
                ignore=request.ignore,
            )
            opened.enter_context(scorer)
        watched = request.looks.watch(_plan(segmenter, source, target, request)) if request.looks else None
        labels = (
            opened.enter_context(_label_sink(segmenter, source, target, request)) if request.labels else None
        )
        megapixels = source.info.shape[-2] * source.info.shape[-1] / 1e6
        progress = opened.enter_context(section_progress(megapixels, quiet=request.quiet))
        summary = segmenter.segment_file(
            source,
            target,
            emit=request.emit,
            dtype=request.dtype,
            progress=progress,
            also=(
                *((scoring.ScoringSink(scorer),) if scorer else ()),
                *((labels,) if labels else ()),
                *((watched.sink,) if watched else ()),
            ),
            options=request.options,
            plan=watched.plan if watched else None,
            findings=watched.findings if watched else None,
        )
        if scorer:
            scores = scorer.scores()
        found = labels.summarise() if labels and labels.complete(target) else None
        unshown = tuple[str, ...]()
        if watched:
            cells = opened.enter_context(open_source(request.labels)) if found and request.labels else None
            unshown = watched.draw(
                source,
                summary,
                segmenter.contract,
                scores=scores,
                labels_name=request.label.name if request.label else "",
                errors=scorer.errors if scorer else None,
                neurons=cells,
            )
    _say((*summary.notes, *(scores["notes"] if scores else ()), *(found.notes if found else ()), *unshown))
    if request.as_json:
        parts = {"scores": scores, "labels": found.to_plain() if found else None}
        typer.echo(json.dumps(summary.to_plain() | {name: part for name, part in parts.items() if part}))
        return
    if not request.quiet:
        typer.echo(
            f"{summary.provider} {summary.precision}: {counted(summary.sections, 'section')} in "
            f"{summary.seconds:.2f} s, {summary.megapixels_per_second:.2f} Mpx/s -> {summary.output}"
        )
    if found and not request.quiet:
        typer.echo(str(found))
    if scores:
        typer.echo(scoring.summary(scores))


def _plan(segmenter: Segmenter, source: Source, target: Path, request: _Request) -> RunPlan:
    from isbi_infer.volumes import is_chunked_output

    return segmenter.plan_source(
        source,
        emit=request.emit,
        dtype=request.dtype,
        chunked=is_chunked_output(target),
        block=request.options.block if request.options else None,
    )


def _label_sink(segmenter: Segmenter, source: Source, target: Path, request: _Request) -> LabelSink:
    from isbi_infer.files import check_not_input
    from isbi_infer.neurons.labelling import Labelling, LabelSink
    from isbi_infer.neurons.segments import pixels_of_size
    from isbi_infer.volumes.pixel_size import PixelSize

    assert request.labels is not None
    check_not_input(request.labels, source.name)
    if os.path.realpath(request.labels) == os.path.realpath(target):
        raise UsageError(
            f"{target}: labels and probabilities go to two files; name another one with --labels"
        )
    if request.label:
        check_not_input(request.labels, request.label)
    like, side = source.info, request.pixel_size
    if side is not None:
        z_nm = like.pixel_size.z_nm if like.pixel_size else None
        like = replace(like, pixel_size=PixelSize(y_nm=side, x_nm=side, z_nm=z_nm))
    labelling = Labelling.of(
        request.threshold,
        segmenter.contract.threshold,
        request.link,
        pixels_of_size(request.min_size, like.pixel_size),
    )
    provenance = f"model sha256 {segmenter.model_sha256}"
    membrane = request.emit == "membrane"
    return LabelSink(request.labels, like, labelling, membrane=membrane, provenance=provenance)


def _check_labels(
    stacks: Sequence[Path], labels: Path | None, link: str, threshold: float | None, min_size: str
) -> None:
    if labels is None:
        if link != "none" or threshold is not None or min_size != "0px":
            raise UsageError("--link, --threshold and --min-size are for labels; name a file with --labels")
        return
    if len(stacks) > 1:
        raise UsageError(
            f"{labels}: labels of one stack, but there are {len(stacks)}; label one after the other"
        )
    if labels.suffix.lower() not in (".tif", ".tiff"):
        raise UsageError(f"{labels}: labels are written as TIFF; name it {labels.with_suffix('.tif')}")


def _check_stacks(
    stacks: Sequence[Path], output: Path | None, label: Path | None, picture: Path | None
) -> None:
    if len(stacks) > 1 and output is not None:
        raise UsageError(f"{output}: one output for {len(stacks)} stacks; use --out-dir")
    if len(stacks) > 1 and label is not None:
        raise UsageError(
            f"{label}: labels of one stack, but there are {len(stacks)}; score one after the other"
        )
    if len(stacks) > 1 and picture is not None:
        raise UsageError(f"{picture}: shows one stack, but there are {len(stacks)}; run one after the other")


def _target(stack: Path, output: Path | None, out_dir: Path | None) -> Path:
    """Name the output: as asked, or after the stack: ``stack.tif`` -> ``stack.probability.tif``."""
    from isbi_infer.volumes.zarr.location import is_address

    if output is not None and out_dir is not None:
        raise UsageError("--output and --out-dir exclude each other; use one of them")
    if output is not None:
        return output
    stem = stack.stem if stack.suffix.lower() in (".tif", ".tiff", ".zarr") else stack.name
    if stack.suffix.lower() == ".zarr":
        folder = Path() if is_address(stack) else stack.parent
        return (out_dir or folder) / f"{stem.removesuffix('.ome')}.probability.ome.zarr"
    return (out_dir or stack.parent) / f"{stem}.probability.tif"


def _volume_options(
    block: str | None,
    shard: str | None,
    pyramid: bool,
    resume: bool,
    overwrite: bool,
    mask: Path | None,
    cluster: str | None,
) -> VolumeOptions | None:
    """Read what concerns OME-Zarr alone; None where nothing of it was asked for."""
    from isbi_infer.run.volume import VolumeOptions

    if not (block or shard or pyramid or resume or overwrite or mask or cluster):
        return None
    sides, share = (
        _numbers(block, ",", 3, "--block", "32,1024,1024"),
        _numbers(shard, "/", 2, "--shard", "1/4"),
    )
    return VolumeOptions(
        block=(sides[0], sides[1], sides[2]) if sides else None,
        share=(share[0], share[1]) if share else (1, 1),
        pyramid=pyramid,
        resume=resume,
        overwrite=overwrite,
        mask=str(mask or ""),
        cluster=cluster or "",
    )


def _numbers(text: str | None, separator: str, count: int, option: str, example: str) -> list[int] | None:
    parts = [] if text is None else text.split(separator)
    if text is not None and not (len(parts) == count and all(part.strip().isdecimal() for part in parts)):
        raise UsageError(f"{option} {text} is invalid; expected {count} numbers, such as {option} {example}")
    return [int(part) for part in parts] or None


def _say(notes: Iterable[str]) -> None:
    for note in notes:
        typer.echo(f"isbi-infer: note: {printable(note)}", err=True)


def main() -> None:
    """Run ``isbi-infer``, or what stands beside it: ``isbi-infer doctor``, ``models`` or ``verify``."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in _COMMANDS:
        beside = import_module(_COMMANDS[command]).app
        beside(args=sys.argv[2:], prog_name=f"isbi-infer {command}")
    app()
