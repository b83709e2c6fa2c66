"""``isbi-infer STACK ...``: the options, and what they are made into."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from isbi_infer.cli.outputs import check_files
from isbi_infer.cli.request import COMMANDS, Request, check_labels, check_stacks, target_of, volume_options
from isbi_infer.cli.segment import segment_all
from isbi_infer.model.devices import PrecisionName, ProviderName
from isbi_infer.terminal import exit_codes
from isbi_infer.terminal.commands import (
    GENERAL,
    RUNTIMES,
    Command,
    Debug,
    Quiet,
    listed,
    new_app,
    version_option,
)
from isbi_infer.terminal.labels import LabelsAre, ignore_option, labels_are_option

_RESULT = "Result"
_MODEL = "Model and device"
_INPUT = "Input"
_PICTURES = "Pictures"
_CELLS = "Ids of cells"
_SCORES = "Scores"
_SPEED = "Speed and memory"
_ZARR = "OME-Zarr"

app = new_app(add_completion=True)


def _complete_stack(incomplete: str) -> list[str]:
    """Complete the names of commands; where none fits, shells complete the names of files."""
    return [name for name in COMMANDS if incomplete and name.startswith(incomplete)]


if TYPE_CHECKING:
    from isbi_infer.segmenter import Segmenter


@app.command(
    cls=Command,
    epilog=listed(
        "Examples",
        ("isbi-infer stack.tif", "Write stack.probability.tif."),
        ("isbi-infer *.tif --out-dir results", "Several, with one model."),
        ("isbi-infer stack.tif --report out.html", "And a page to look at."),
        ("isbi-infer stack.tif --labels ids.tif", "And ids of cells."),
        ("isbi-infer stack.tif --model em-open", "Another released model."),
        ("isbi-infer stack.tif --dry-run", "Plan, memory and time."),
        ("isbi-infer in.ome.zarr -o out.ome.zarr", "A volume, in blocks."),
    )
    + listed(
        "Commands",
        ("isbi-infer doctor", "What is installed, and what of it really runs."),
        ("isbi-infer models", "The released models, with terms and scores."),
        ("isbi-infer verify RESULT", "Compute parts of an OME-Zarr result again."),
    )
    + "Stacks of these names: ./doctor, ./models, ./verify",
)
def infer(
    stacks: Annotated[
        list[Path],
        typer.Argument(
            metavar="STACK",
            autocompletion=_complete_stack,
            help="Greyscale TIFF section or stack, folder of images, or OME-Zarr; several share one model.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="TIFF, or OME-Zarr. [default: STACK.probability.tif]",
            rich_help_panel=_RESULT,
        ),
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(help="Folder for the outputs. [default: beside each STACK]", rich_help_panel=_RESULT),
    ] = None,
    emit: Annotated[
        Literal["cell", "membrane"], typer.Option(help="What 1 means.", rich_help_panel=_RESULT)
    ] = "cell",
    dtype: Annotated[
        Literal["float32", "uint8"],
        typer.Option(help="Of the output; uint8 stores round(255 p).", rich_help_panel=_RESULT),
    ] = "float32",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on where a run was cut off; for TIFF, one that was begun with it.",
            rich_help_panel=_RESULT,
        ),
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option(
            help="ONNX or TorchScript model from isbi-export (TorchScript is code: run none of strangers), or the "
            "name of a released one; see isbi-infer models. [default: the released model]",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    provider: Annotated[
        ProviderName,
        typer.Option(
            help="Where to compute; any name but auto is proved active, or it is an error.",
            rich_help_panel=_MODEL,
        ),
    ] = "auto",
    precision: Annotated[
        PrecisionName,
        typer.Option(
            help="Of weights and arithmetic; auto is the fastest that passed its gate for the provider.",
            rich_help_panel=_MODEL,
        ),
    ] = "auto",
    tta: Annotated[
        bool,
        typer.Option(
            "--tta", help="Average over the 8 flips and rotations; 8 times the work.", rich_help_panel=_MODEL
        ),
    ] = False,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            help="Keep compiled models in the user's cache folder.",
            rich_help_panel=_MODEL,
        ),
    ] = True,
    pixel_size: Annotated[
        float | None,
        typer.Option(
            help="Side of a pixel in nanometres: sections are resampled to the model's and results back. "
            "[default: what the file holds]",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    channel: Annotated[
        int | None,
        typer.Option(help="Of a file with several channels, counted from 0.", rich_help_panel=_INPUT),
    ] = None,
    time: Annotated[
        int | None,
        typer.Option(help="Of a file with several time points, counted from 0.", rich_help_panel=_INPUT),
    ] = None,
    series: Annotated[
        int | None,
        typer.Option(help="Of a file with images of several sizes, counted from 0.", rich_help_panel=_INPUT),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(
            help="Of a volume with several resolutions. [default: nearest to the model's pixel size]",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Take a missing chunk of a volume for an error.", rich_help_panel=_INPUT
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Page of HTML to look at: sections, hints, scores, plan. Needs the extra report.",
            rich_help_panel=_PICTURES,
        ),
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(
            help="PNG of the first, middle and last section, membranes outlined.", rich_help_panel=_PICTURES
        ),
    ] = None,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(
            help="PNG of up to 30 sections, outlined and beside their probabilities.",
            rich_help_panel=_PICTURES,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Write ids of cells too: a TIFF or OME-Zarr, and a table of them beside it (.csv).",
            rich_help_panel=_CELLS,
        ),
    ] = None,
    link: Annotated[
        Literal["none", "overlap", "multicut"],
        typer.Option(
            help="How cells of --labels are joined through the sections; none numbers each section's.",
            rich_help_panel=_CELLS,
        ),
    ] = "none",
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Probability above which a pixel of --labels is cell. [default: the model's]",
            rich_help_panel=_CELLS,
        ),
    ] = None,
    min_size: Annotated[
        str,
        typer.Option(
            help="Leave smaller cells of a section out of --labels: 50px or 20000nm2.", rich_help_panel=_CELLS
        ),
    ] = "0px",
    label: Annotated[
        Path | None,
        typer.Option(
            help="TIFF of labels to score the result against; see --labels-are.", rich_help_panel=_SCORES
        ),
    ] = None,
    labels_are: Annotated[LabelsAre, labels_are_option(_SCORES)] = "cells",
    ignore: Annotated[float | None, ignore_option(_SCORES)] = None,
    tile: Annotated[
        int | None,
        typer.Option(help="Longest tile side in pixels; never changes the result.", rich_help_panel=_SPEED),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Tiles computed at once; never changes the result.", rich_help_panel=_SPEED),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="What the network may take, such as 4GiB. [default: half of what is free]",
            rich_help_panel=_SPEED,
        ),
    ] = None,
    halo: Annotated[
        int | None,
        typer.Option(
            help="Context in pixels; less than the model's own is not exact, as a note then says.",
            rich_help_panel=_SPEED,
        ),
    ] = None,
    block: Annotated[
        str | None,
        typer.Option(
            metavar="Z,Y,X",
            help="Pixels of OME-Zarr stored as one; never changes the result.",
            rich_help_panel=_ZARR,
        ),
    ] = None,
    pyramid: Annotated[
        bool, typer.Option("--pyramid", help="Add smaller resolutions to OME-Zarr.", rich_help_panel=_ZARR)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OME-Zarr that is there.", rich_help_panel=_ZARR)
    ] = False,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="TIFF or volume that is 0 where OME-Zarr has no tissue, at any scale that divides: blocks outside are "
            "left out. Blank ones are without it.",
            rich_help_panel=_ZARR,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Compute the I-th of N shares of OME-Zarr; the last one completes it.",
            rich_help_panel=_ZARR,
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="Compute OME-Zarr on a Dask cluster: local, local:N, tcp://HOST:8786, or a scheduler's JSON file.",
            rich_help_panel=_ZARR,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print plan, memory and expected time; write nothing.", rich_help_panel=GENERAL
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object instead of the summary.", rich_help_panel=GENERAL),
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
    _: Annotated[bool, version_option("isbi-infer", *RUNTIMES)] = False,
) -> None:
    """Segment each STACK: write the probability that each pixel is cell interior (1) rather than membrane (0)."""
    with exit_codes("isbi-infer", debug=debug):
        from isbi_infer.backends.compiled_cache import use_cache
        from isbi_infer.files import make_folder
        from isbi_infer.report.after import Looks
        from isbi_infer.segmenter import Segmenter

        use_cache(cache)
        check_stacks(stacks, output, label, report or overlay or contact_sheet)
        check_labels(stacks, labels, link, threshold, min_size)
        if out_dir is not None and not dry_run:
            make_folder(out_dir)
        work = [(stack, target_of(stack, output, out_dir)) for stack in stacks]
        request = Request(
            channel=channel,
            time=time,
            series=series,
            level=level,
            strict=strict,
            options=volume_options(block, shard, pyramid, resume, overwrite, mask, cluster),
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
        if not dry_run:
            check_files(work, request, (model, cluster))

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

        segment_all(work, open_model, request)
