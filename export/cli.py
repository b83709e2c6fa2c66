"""``isbi-export``: a checkpoint into files that are proved equal to it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from isbi_infer.console import exit_codes, require_packages

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="Checkpoint written by isbi-train (.pth); .onnx with --contract."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the files. [default: beside the checkpoint]"),
    ] = None,
    formats: Annotated[str, typer.Option(help="Comma-separated: onnx, torchscript.")] = "onnx,torchscript",
    contract: Annotated[
        bool,
        typer.Option(
            "--contract", help="Analyse a model from elsewhere, and write a copy that isbi-infer runs."
        ),
    ] = False,
    output_is: Annotated[
        Literal["cell", "membrane", "cell-logits", "membrane-logits"],
        typer.Option(help="With --contract: what the foreign model's output is."),
    ] = "cell",
    border: Annotated[
        int, typer.Option(help="With --contract: mirrored pixels around a section.", min=0)
    ] = 0,
    pixel_size: Annotated[
        float | None, typer.Option(help="With --contract: side of a training pixel in nanometres.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback when something goes wrong.")
    ] = False,
) -> None:
    """Write CHECKPOINT as ONNX and TorchScript, run both against it, and publish them only if they agree."""
    with exit_codes("isbi-export", debug=debug):
        require_packages("export", "torch", "onnx", "onnxscript")
        folder = output or checkpoint.parent
        if contract:
            _adopt(checkpoint, folder, output_is, border, pixel_size, as_json=as_json)
            return
        from isbi_export.publish import publish

        names = [name.strip() for name in formats.split(",") if name.strip()]
        published = publish(checkpoint, folder, names)
        if as_json:
            typer.echo(json.dumps({"files": [{"path": str(p.path), **asdict(p.parity)} for p in published]}))
            return
        for p in published:
            typer.echo(
                f"{p.path}: differs from the checkpoint by at most {p.parity.largest:.1e} "
                f"on {len(p.parity.shapes)} shapes, {p.parity.changed} pixels change class"
            )


def _adopt(
    model: Path, folder: Path, output_is: Any, border: int, pixel_size: float | None, *, as_json: bool
) -> None:
    from isbi_export.foreign import ForeignModel, adopt

    target = folder / f"{model.stem}.contract.onnx"
    foreign = ForeignModel(output=output_is, border=border, pixel_size_nm=pixel_size)
    contract = adopt(model, target, foreign)
    if as_json:
        typer.echo(contract.to_json())
        return
    typer.echo(
        f"{target}: stride {contract.stride}, halo {contract.halo}, "
        + ("exact" if contract.exact else "not exact")
    )
    for reason in contract.not_exact_because:
        typer.echo(f"isbi-export: note: {reason}", err=True)


def main() -> None:
    """Run ``isbi-export``."""
    app()
