"""``isbi-infer verify``: compute blocks of an OME-Zarr result again and compare."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from isbi_infer.surroundings import some_temporary_folder
from isbi_infer.terminal import counted, exit_codes
from isbi_infer.terminal.commands import RUNTIMES, Command, Debug, Quiet, listed, new_app, version_option
from isbi_infer.terminal.progress import show_progress

app = new_app()


@app.command(
    cls=Command,
    epilog=listed(
        "Examples",
        ("isbi-infer verify out.ome.zarr", "All blocks, to the bit."),
        ("isbi-infer verify out.ome.zarr --blocks 20", "Some, chosen at random."),
    ),
)
def verify(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="OME-Zarr written by isbi-infer.")],
    stack: Annotated[Path | None, typer.Option(help="The input, where it is no longer where it was.")] = None,
    model: Annotated[Path | None, typer.Option(help="The model. [default: the released model]")] = None,
    blocks: Annotated[
        int | None, typer.Option(min=1, help="How many, chosen at random. [default: all]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the choice.")] = None,
    channel: Annotated[int | None, typer.Option(help="As in the run.")] = None,
    time: Annotated[int | None, typer.Option(help="As in the run.")] = None,
    series: Annotated[int | None, typer.Option(help="As in the run.")] = None,
    level: Annotated[str | None, typer.Option(help="As in the run.")] = None,
    pixel_size: Annotated[float | None, typer.Option(help="As in the run.")] = None,
    quiet: Quiet = False,
    debug: Debug = False,
    _: Annotated[bool, version_option("isbi-infer", *RUNTIMES)] = False,
) -> None:
    """Compute blocks of RESULT again, from the same input by the same model, and compare them to the bit."""
    with exit_codes("isbi-infer verify", debug=debug), ExitStack() as opened:
        from isbi_infer.backends.allocator import share_one_arena
        from isbi_infer.run.counting import tiles_of_section
        from isbi_infer.run.volume import plan_of
        from isbi_infer.segmenter import Segmenter
        from isbi_infer.volumes import open_source

        share_one_arena()  # before runtimes start threads
        plan = plan_of(result)
        opened.enter_context(some_temporary_folder(result))
        with show_progress("opening the model", quiet=quiet):
            segmenter = Segmenter(
                model,
                provider=plan.device,  # type: ignore[arg-type]  # a name of the table, or it is refused
                precision=plan.precision if model is None else "auto",  # type: ignore[arg-type]
                halo=plan.section.halo,
                pixel_size=pixel_size,
                tta=len(plan.views) > 1,
            )
        source = opened.enter_context(
            open_source(stack or plan.source.name, channel=channel, time=time, series=series, level=level)
        )
        source = opened.enter_context(segmenter.nearest_level(source))
        megapixels = source.info.shape[-2] * source.info.shape[-1] / tiles_of_section(plan) / 1e6
        progress = opened.enter_context(show_progress("tile", quiet=quiet, amount=megapixels, unit="Mpx"))
        compared = segmenter.verify(result, source, blocks=blocks, seed=seed, progress=progress)
        if not quiet:
            assert plan.layout is not None
            count = counted(plan.layout.count, "block")
            typer.echo(f"{result}: {len(compared)} of {count} computed again, all the same")
