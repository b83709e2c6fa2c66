"""Stacks segmented with one model, and what is printed of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from isbi_infer.cli.request import Request
from isbi_infer.errors import IsbiError
from isbi_infer.terminal import counted, printable
from isbi_infer.terminal.progress import show_progress

if TYPE_CHECKING:
    from isbi_infer.neurons.labelling import LabelSink
    from isbi_infer.neurons.volume import VolumeLabels
    from isbi_infer.plan.run import RunPlan
    from isbi_infer.run.volume import VolumeOptions
    from isbi_infer.segmenter import Segmenter
    from isbi_infer.volumes import Source


def segment_all(
    work: Sequence[tuple[Path, Path]], open_model: Callable[[int], Segmenter], request: Request
) -> None:
    """Segment stacks with one model; of several, those that can be, and then raise the first error."""
    from isbi_infer.backends.allocator import share_one_arena
    from isbi_infer.volumes import open_source

    share_one_arena()  # before runtimes start threads
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
                    with show_progress("opening the model", quiet=request.quiet):
                        segmenter = open_model(prod(source.info.shape) * len(work))
                with segmenter.nearest_level(source) as nearest:
                    unit = f"{stack.name or stack}: tile" if len(work) > 1 else "tile"
                    _segment(segmenter, nearest, target, request, unit)
        except IsbiError as error:
            if len(work) == 1:
                raise
            failures.append(error)
            typer.echo(f"isbi-infer: {printable(str(error))}", err=True)
    if failures:
        message = f"{len(failures)} of {counted(len(work), 'stack')} failed, as listed above"
        raise type(failures[0])(message) from failures[0]


def _segment(segmenter: Segmenter, source: Source, target: Path, request: Request, unit: str) -> None:
    from isbi_infer import scoring
    from isbi_infer.files import check_writable
    from isbi_infer.run.counting import tiles_of_section
    from isbi_infer.volumes import check_output, is_chunked_output, open_source

    if request.dry_run:
        estimate = segmenter.estimate(_plan(segmenter, source, target, request))
        typer.echo(json.dumps(estimate.to_plain()) if request.as_json else str(estimate))
        _say(estimate.plan.notes)
        return
    check_output(target)
    if not is_chunked_output(target):
        check_writable(target)
    request.looks.check(shares=request.options.share[1] if request.options else 1)
    scores = None
    with ExitStack() as opened:
        scorer = to_score = None
        if request.label:
            scorer = scoring.open_scorer(
                request.label,
                source.info.shape,
                membrane=request.emit == "membrane",
                labels_are=request.labels_are,
                ignore=request.ignore,
            )
            opened.enter_context(scorer)
            to_score = scoring.ScoringSink(scorer)
        plan = _plan(segmenter, source, target, request)
        watched = request.looks.watch(plan) if request.looks else None
        labels: LabelSink | VolumeLabels | None = None
        if request.labels:
            labels = _labels_of(segmenter, source, target, request, plan)
            opened.enter_context(labels)
        megapixels = source.info.shape[-2] * source.info.shape[-1] / tiles_of_section(plan) / 1e6
        progress = opened.enter_context(
            show_progress(unit, quiet=request.quiet, amount=megapixels, unit="Mpx")
        )
        summary = segmenter.segment_file(
            source,
            target,
            emit=request.emit,
            dtype=request.dtype,
            progress=progress,
            also=(
                *((to_score,) if to_score else ()),
                *(labels.sinks if labels else ()),
                *((watched.sink,) if watched else ()),
            ),
            options=_of_result(request, target),
            plan=watched.plan if watched else plan,
            findings=watched.findings if watched else None,
        )
        if (
            scorer and to_score and to_score.sections == source.info.sections
        ):  # none of one that is not whole yet
            progress.stage("scoring")
            scores = scorer.scores()
        if labels:
            progress.stage("joining cells")
        found = labels.summarise() if labels and labels.complete(target) else None
        unshown = tuple[str, ...]()
        if watched:
            progress.stage("drawing what there is to look at")
            cells = (
                opened.enter_context(open_source(request.labels, grey=False))
                if found and request.labels
                else None
            )
            unshown = watched.draw(
                source,
                summary,
                segmenter.contract,
                scores=scores,
                labels_name=request.label.name if request.label else "",
                errors=scorer.errors if scorer else None,
                neurons=cells,
            )
    _say(
        (
            *summary.notes,
            *(scores["notes"] if scores else ()),
            *(found.notes if found else ()),
            *unshown,
            *_not_yet(request, scored=bool(scores), labelled=bool(found)),
        )
    )
    if request.as_json:
        parts = {"scores": scores, "labels": found.to_plain() if found else None}
        typer.echo(json.dumps(summary.to_plain() | {name: part for name, part in parts.items() if part}))
        return
    if not request.quiet:
        sections, speed = counted(summary.sections, "section"), summary.megapixels_per_second
        did = f"in {summary.seconds:.2f} s, {speed:.2f} Mpx/s" if speed else "and nothing left to compute"
        typer.echo(f"{summary.provider} {summary.precision}: {sections} {did} -> {summary.output}")
    if found and not request.quiet:
        typer.echo(str(found))
    if scores:
        typer.echo(scoring.summary(scores))


def _of_result(request: Request, target: Path) -> VolumeOptions | None:
    """Return the options without --overwrite where it can only be for the labels: a TIFF is replaced in any case."""
    from isbi_infer.volumes import is_chunked_output

    options, labels = request.options, request.labels
    if options is None or labels is None or is_chunked_output(target) or not is_chunked_output(labels):
        return options
    return replace(options, overwrite=False)


def _not_yet(request: Request, *, scored: bool, labelled: bool) -> Iterator[str]:
    """Return what is to be said of scores and ids that wait for the other shares of a result."""
    for option, path, made in (("--label", request.label, scored), ("--labels", request.labels, labelled)):
        if path and not made:
            what = "no scores against it" if option == "--label" else "no ids in it"
            yield (
                f"{path}: {what} yet, for the result is not in place; once all shares are, run it again with "
                f"--resume instead of --shard, and {option} {path}"
            )


def _plan(segmenter: Segmenter, source: Source, target: Path, request: Request) -> RunPlan:
    from isbi_infer.volumes import is_chunked_output

    return segmenter.plan_source(
        source,
        emit=request.emit,
        dtype=request.dtype,
        chunked=is_chunked_output(target),
        block=request.options.block if request.options else None,
    )


def _labels_of(
    segmenter: Segmenter, source: Source, target: Path, request: Request, plan: RunPlan
) -> LabelSink | VolumeLabels:
    from isbi_infer.neurons.labelling import Labelling, LabelSink
    from isbi_infer.neurons.segments import pixels_of_size
    from isbi_infer.neurons.volume import VolumeLabels
    from isbi_infer.volumes import is_chunked_output

    assert request.labels is not None
    like = replace(source.info, pixel_size=plan.source.pixel_size)
    labelling = Labelling.of(
        request.threshold,
        segmenter.contract.threshold,
        request.link,
        pixels_of_size(request.min_size, like.pixel_size),
    )
    provenance = f"model sha256 {segmenter.model_sha256}"
    membrane = request.emit == "membrane"
    if is_chunked_output(request.labels):
        options = request.options
        return VolumeLabels(
            request.labels,
            target,
            like,
            labelling,
            membrane=membrane,
            provenance=provenance,
            cluster=options.cluster if options else "",
            resume=options is not None and options.joins,
            overwrite=options is not None and options.overwrite,
        )
    return LabelSink(request.labels, like, labelling, membrane=membrane, provenance=provenance)


def _say(notes: Iterable[str]) -> None:
    for note in notes:
        typer.echo(f"isbi-infer: note: {printable(note)}", err=True)
