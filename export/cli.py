"""``isbi-export``: a checkpoint into files that are proved equal to it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from isbi_infer.console import exit_codes, require_packages

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Checkpoint written by isbi-train (.pth).")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the files. [default: beside the checkpoint]"),
    ] = None,
    formats: Annotated[str, typer.Option(help="Comma-separated: onnx, torchscript.")] = "onnx,torchscript",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback when something goes wrong.")
    ] = False,
) -> None:
    """Write CHECKPOINT as ONNX and TorchScript, run both against it, and publish them only if they agree."""
    with exit_codes("isbi-export", debug=debug):
        require_packages("export", "torch", "onnx", "onnxscript")
        from isbi_export.publish import publish

        names = [name.strip() for name in formats.split(",") if name.strip()]
        published = publish(checkpoint, output or checkpoint.parent, names)
        if as_json:
            typer.echo(json.dumps({"files": [{"path": str(p.path), **asdict(p.parity)} for p in published]}))
            return
        for p in published:
            typer.echo(
                f"{p.path}: differs from the checkpoint by at most {p.parity.largest:.1e} "
                f"on {len(p.parity.shapes)} shapes, {p.parity.changed} pixels change class"
            )


def main() -> None:
    """Run ``isbi-export``."""
    app()
