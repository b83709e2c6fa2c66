"""``isbi-export``: a checkpoint into files that are proved equal to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from isbi_infer.backends.compiled_cache import use_cache
from isbi_infer.errors import UsageError
from isbi_infer.scoring import LabelsAre
from isbi_infer.terminal import exit_codes, printable, require_packages

if TYPE_CHECKING:
    from isbi_export.report.parity_report import Report

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="Checkpoint of isbi-train (.pth), weights from elsewhere (.pth, .safetensors); .onnx with --contract.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the files. [default: beside the checkpoint]"),
    ] = None,
    formats: Annotated[
        str, typer.Option(help="Comma-separated: onnx, torchscript, program (torch.export, .pt2).")
    ] = "onnx,torchscript",
    precision: Annotated[
        str, typer.Option(help="Of ONNX files, comma-separated: fp32, fp16, int8.")
    ] = "fp32",
    io: Annotated[
        str,
        typer.Option("--io", help="Input and output of ONNX files, comma-separated: float32, uint8."),
    ] = "float32",
    opset: Annotated[int | None, typer.Option(help="Version of the ONNX operators. [default: 20]")] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="STACK",
            help="Sections that int8 is calibrated on; repeatable. [default: synthetic ones]",
        ),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(
            help="Architecture of bare weights: unet or valid-unet; of unknown names with the order of what decoders "
            "read: unet-skip-first, unet-up-first, ..."
        ),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(metavar="STACK", help="With --labels: measure what becomes of the scores.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="STACK", help="Labels of --image; see --labels-are.")
    ] = None,
    labels_are: Annotated[
        LabelsAre, typer.Option(help="What labels above 0 mark: cells, membranes, or ids of cells.")
    ] = "cells",
    ignore: Annotated[
        float | None, typer.Option(help="Value of labels that nobody knows; left out of the scores.")
    ] = None,
    sections: Annotated[
        str | None, typer.Option(help="Sections of --image, as 25:30. [default: 25:30 of 30, all otherwise]")
    ] = None,
    package: Annotated[
        bool, typer.Option("--package", help="Write a bioimage.io package of the float32 files too.")
    ] = False,
    licence: Annotated[
        str | None, typer.Option(help="With --package: SPDX identifier of the weights' licence.")
    ] = None,
    author: Annotated[
        list[str] | None,
        typer.Option(help="With --package: who made the model; repeatable. [default: this program]"),
    ] = None,
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
    """Write CHECKPOINT as ONNX and TorchScript, run both against it, and publish what agrees, with a report."""
    with exit_codes("isbi-export", debug=debug):
        folder = output or checkpoint.parent
        if contract:
            require_packages("export", "onnx")
            _add_contract(checkpoint, folder, output_is, border, pixel_size, as_json=as_json)
            return
        require_packages("export", "torch", "onnx", "onnxscript")
        use_cache(False)  # what is compiled here is of drafts, and would push the user's models out
        from isbi_export.formats.onnx_export import OPSET
        from isbi_export.publish import NotPublishedError, publish
        from isbi_train.data.labels import LabelRule

        names, precisions, ios = (
            [name.strip() for name in given.split(",") if name.strip()] for given in (formats, precision, io)
        )
        if package and not ("onnx" in names and "fp32" in precisions and "float32" in ios):
            raise UsageError(
                "a package holds the float32 ONNX file; add onnx to --formats, fp32 to --precision and float32 to --io"
            )
        if not package and (licence is not None or author):
            raise UsageError("a licence and authors are of a package; add --package, or leave them out")
        if package:
            from isbi_export.bioimage.package import SUFFIX, package_terms
            from isbi_train.networks.checkpoint import file_sha256
            from isbi_train.networks.origins import origins_of
            from isbi_train.networks.weights import load_weights

            target, weights = folder / f"{checkpoint.stem}{SUFFIX}", load_weights(checkpoint, arch)
            origins = origins_of(weights, file_sha256(checkpoint))
            package_terms(target, origins, licence=licence, authors=_authors(author))
        refused: NotPublishedError | None = None
        try:
            report = publish(
                checkpoint,
                folder,
                names,
                precisions=precisions,
                ios=ios,
                opset=OPSET if opset is None else opset,
                calibrate=calibrate or (),
                arch=arch,
                image=image,
                labels=labels,
                sections=sections,
                rule=LabelRule.of(labels_are, ignore),
            )
        except NotPublishedError as error:
            report, refused = error.report, error
        _say(report, as_json=as_json)
        if refused:
            raise SystemExit(refused.exit_code)
        if package:
            _pack(folder, report, licence, _authors(author), as_json=as_json)


def _say(report: Report, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report.to_plain()))
    for note in report.notes:
        typer.echo(f"isbi-export: note: {printable(note)}", err=True)
    for file in report.files:
        if not file.published:
            typer.echo(f"isbi-export: {printable(file.refusal)}", err=True)
        elif file.evidence and not as_json:
            found = file.evidence
            v_rand = f", V_rand {found.judged.v_rand:+.4f}" if file.variant.precision == "int8" else ""
            verdicts = ""
            for verdict in ("passed", "failed"):
                pairs = [proof.pair for proof in file.runtimes if proof.verdict == verdict]
                verdicts += f"; {verdict} on {', '.join(pairs)}" if pairs else ""
            typer.echo(
                f"{file.path}: differs from the checkpoint by at most {found.largest:.1e} on "
                f"{len(found.comparisons)} inputs, {found.changed:.2%} of pixels change class{v_rand}{verdicts}"
            )


def _authors(given: list[str] | None) -> tuple[str, ...]:
    from isbi_export.bioimage.package import AUTHORS

    return tuple(given) if given else AUTHORS


def _pack(
    folder: Path, report: Report, licence: str | None, authors: tuple[str, ...], *, as_json: bool
) -> None:
    from isbi_export.bioimage.package import SUFFIX, write_package
    from isbi_infer.model.contract import read_contract

    paths = {str(file.variant): file.path for file in report.files}
    target = folder / f"{Path(report.checkpoint).stem}{SUFFIX}"
    contract = read_contract(paths["onnx"].read_bytes())
    write_package(
        target,
        onnx=paths["onnx"],
        torchscript=paths.get("torchscript"),
        contract=contract,
        licence=licence,
        authors=authors,
    )
    if not as_json:
        typer.echo(f"{target}: a bioimage.io package")


def _add_contract(
    model: Path, folder: Path, output_is: Any, border: int, pixel_size: float | None, *, as_json: bool
) -> None:
    from isbi_export.foreign import ForeignModel, add_contract

    target = folder / f"{model.stem}.contract.onnx"
    foreign = ForeignModel(output=output_is, border=border, pixel_size_nm=pixel_size)
    contract = add_contract(model, target, foreign)
    if as_json:
        typer.echo(contract.to_json())
        return
    typer.echo(
        f"{target}: stride {contract.stride}, halo {contract.halo}, "
        + ("exact" if contract.exact else "not exact")
    )
    for reason in contract.not_exact_because:
        typer.echo(f"isbi-export: note: {printable(reason)}", err=True)


def main() -> None:
    """Run ``isbi-export``."""
    app()
