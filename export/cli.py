"""``isbi-export``: a checkpoint into files that are proved equal to it."""

from __future__ import annotations

import json
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from isbi_infer.backends.compiled_cache import use_cache
from isbi_infer.errors import UsageError
from isbi_infer.headroom import check_headroom_of_torch
from isbi_infer.surroundings import surroundings_of_torch
from isbi_infer.terminal import exit_codes, printable, require_packages
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
from isbi_infer.terminal.progress import show_progress

if TYPE_CHECKING:
    from isbi_export.report.parity_report import Report
    from isbi_infer.model.contract import ModelContract
    from isbi_models import ReleasedModel

_PACKAGES = ("torch", "onnx", "onnxscript", *(name for name in RUNTIMES if name != "torch"))
_SCORES, _WEIGHTS, _PACKAGE, _FOREIGN = "Scores", "Weights from elsewhere", "Package", "Model from elsewhere"

app = new_app(add_completion=True)


@app.command(
    cls=Command,
    epilog=listed(
        "Examples",
        ("isbi-export model.pth", "ONNX and TorchScript, each proved."),
        ("isbi-export model.pth --precision fp32,int8", "And a smaller, faster one."),
        ("isbi-export model.pth --image s.tif --labels l.tif", "And what becomes of the scores."),
        ("isbi-export model.pth --package", "And a package for bioimage.io."),
        ("isbi-export em --precision fp16", "Of a released model, into this folder."),
        ("isbi-export other.onnx --contract", "A model from elsewhere."),
    ),
)
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="Checkpoint of isbi-train (.pth), a released model's name, weights from elsewhere (.pth, "
            ".safetensors); .onnx with --contract.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for the files. [default: beside the checkpoint; this folder for a released model]",
        ),
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
            "read: unet-skip-first, unet-up-first, ...",
            rich_help_panel=_WEIGHTS,
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            metavar="STACK",
            help="With --labels: measure what becomes of the scores.",
            rich_help_panel=_SCORES,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="STACK", help="Labels of --image; see --labels-are.", rich_help_panel=_SCORES),
    ] = None,
    labels_are: Annotated[LabelsAre, labels_are_option(_SCORES)] = "cells",
    ignore: Annotated[float | None, ignore_option(_SCORES)] = None,
    sections: Annotated[
        str | None,
        typer.Option(
            help="Sections of --image, as 25:30. [default: 25:30 of 30, all otherwise]",
            rich_help_panel=_SCORES,
        ),
    ] = None,
    package: Annotated[
        bool,
        typer.Option(
            "--package",
            help="Write a bioimage.io package of the float32 files too.",
            rich_help_panel=_PACKAGE,
        ),
    ] = False,
    licence: Annotated[
        str | None,
        typer.Option(
            help="With --package: SPDX identifier of the weights' licence.", rich_help_panel=_PACKAGE
        ),
    ] = None,
    author: Annotated[
        list[str] | None,
        typer.Option(
            help="With --package: who made the model; repeatable. [default: this program]",
            rich_help_panel=_PACKAGE,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="With --package: what the model is called. [default: the checkpoint's name]",
            rich_help_panel=_PACKAGE,
        ),
    ] = None,
    contract: Annotated[
        bool,
        typer.Option(
            "--contract",
            help="Analyse a model from elsewhere, and write a copy that isbi-infer runs.",
            rich_help_panel=_FOREIGN,
        ),
    ] = False,
    output_is: Annotated[
        Literal["cell", "membrane", "cell-logits", "membrane-logits"],
        typer.Option(help="With --contract: what the foreign model's output is.", rich_help_panel=_FOREIGN),
    ] = "cell",
    border: Annotated[
        int,
        typer.Option(
            help="With --contract: mirrored pixels around a section.", min=0, rich_help_panel=_FOREIGN
        ),
    ] = 0,
    pixel_size: Annotated[
        float | None,
        typer.Option(
            help="With --contract: side of a training pixel in nanometres.", rich_help_panel=_FOREIGN
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of lines.", rich_help_panel=GENERAL)
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
    _: Annotated[bool, version_option("isbi-export", *_PACKAGES)] = False,
) -> None:
    """Write CHECKPOINT as ONNX and TorchScript, run both against it, and publish what agrees, with a report."""
    with exit_codes("isbi-export", debug=debug), ExitStack() as around, ExitStack() as shown:
        released = _released(checkpoint)
        folder = output or (Path() if released else checkpoint.parent)
        checkpoint = released.checkpoint.path if released else checkpoint
        around.enter_context(surroundings_of_torch(folder / checkpoint.name))
        if released:
            _check_released(released, folder, contract=contract)
        quiet = quiet or as_json
        if checkpoint.suffix.lower() == ".onnx" and not contract:
            raise UsageError(
                f"{checkpoint}: is no checkpoint; did you mean isbi-export {checkpoint} --contract?"
            )
        if contract:
            require_packages("export", "onnx")
            with show_progress(f"analysing {checkpoint.name}", quiet=quiet):
                found = _add_contract(checkpoint, folder, output_is, border, pixel_size)
            _say_contract(*found, as_json=as_json, quiet=quiet)
            return
        require_packages("export", "torch", "onnx", "onnxscript")
        check_headroom_of_torch()
        display = shown.enter_context(show_progress("starting", quiet=quiet, every_stage=True))
        use_cache(False)  # what is compiled here is of drafts, and would push the user's models out
        from isbi_export.formats.onnx_export import OPSET
        from isbi_export.publish import NotPublishedError, publish
        from isbi_train.data.labels import LabelRule
        from isbi_train.networks.checkpoint import file_sha256
        from isbi_train.networks.origins import check_registered

        if released and checkpoint.is_file():
            check_registered(checkpoint, released)
        names, precisions, ios = (
            [name.strip() for name in given.split(",") if name.strip()] for given in (formats, precision, io)
        )
        if package and not ("onnx" in names and "fp32" in precisions and "float32" in ios):
            raise UsageError(
                "a package holds the float32 ONNX file; add onnx to --formats, fp32 to --precision and float32 to --io"
            )
        if not package and (licence is not None or author or name is not None):
            raise UsageError(
                "a licence, authors and a name are of a package; add --package, or leave them out"
            )
        if package:
            from isbi_export.bioimage.package import SUFFIX, package_terms
            from isbi_train.networks.origins import origins_of
            from isbi_train.networks.weights import load_weights

            target, weights = folder / f"{checkpoint.stem}{SUFFIX}", load_weights(checkpoint, arch)
            origins = origins_of(weights, file_sha256(checkpoint))
            package_terms(target, origins, name=name, licence=licence, authors=_authors(author))
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
                stage=display.stage,
            )
        except NotPublishedError as error:
            report, refused = error.report, error
        packed = None
        if package and not refused:
            display.stage("packing")
            packed = _pack(folder, report, name, licence, _authors(author))
        shown.close()
        _say(report, as_json=as_json, quiet=quiet)
        if refused:
            raise SystemExit(refused.exit_code)
        if packed and not quiet:
            typer.echo(f"{packed}: a bioimage.io package")
        if not quiet:
            _say_next(folder, report)


def _released(checkpoint: Path) -> ReleasedModel | None:
    """Return the released model of a name, as ``isbi-train --init`` takes it; None for a file."""
    from isbi_infer.model.opening import find_released
    from isbi_models import default_model

    if not checkpoint.is_file():
        from isbi_train.config.inputs import RELEASED

        if str(checkpoint) == RELEASED:
            return default_model()
    return find_released(checkpoint)


def _check_released(model: ReleasedModel, folder: Path, *, contract: bool) -> None:
    """Check that no foreign model is meant, and that files go elsewhere than where the released ones are."""
    if contract:
        raise UsageError(
            f"{model.name}: is a released model, whose files have a contract; --contract is for models from "
            "elsewhere"
        )
    if folder.resolve().is_relative_to(model.checkpoint.path.parent.resolve()):
        raise UsageError(
            f"{folder}: holds the released models, which stay as they are; name another folder with -o"
        )


def _say_next(folder: Path, report: Report) -> None:
    typer.echo(f"{folder / Path(report.checkpoint).stem}.parity.html: the proofs, to look at")
    first = next((file.path for file in report.files if file.variant.file_format != "program"), None)
    if first:
        typer.echo(f"next, isbi-infer STACK --model {shlex.quote(str(first))}")


def _say(report: Report, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report.to_plain()))
    for note in report.notes:
        typer.echo(f"isbi-export: note: {printable(note)}", err=True)
    for file in report.files:
        if not file.published:
            typer.echo(f"isbi-export: {printable(file.refusal)}", err=True)
        elif file.evidence and not quiet:
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
    folder: Path, report: Report, name: str | None, licence: str | None, authors: tuple[str, ...]
) -> Path:
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
        name=name,
        licence=licence,
        authors=authors,
    )
    return target


def _add_contract(
    model: Path, folder: Path, output_is: Any, border: int, pixel_size: float | None
) -> tuple[Path, ModelContract]:
    from isbi_export.foreign import ForeignModel, add_contract

    target = folder / f"{model.stem}.contract.onnx"
    foreign = ForeignModel(output=output_is, border=border, pixel_size_nm=pixel_size)
    return target, add_contract(model, target, foreign)


def _say_contract(target: Path, contract: ModelContract, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        typer.echo(contract.to_json())
        return
    if not quiet:
        exact = "exact" if contract.exact else "not exact"
        typer.echo(f"{target}: stride {contract.stride}, halo {contract.halo}, {exact}")
        typer.echo(f"next, isbi-infer STACK --model {shlex.quote(str(target))}")
    for reason in contract.not_exact_because:
        typer.echo(f"isbi-export: note: {printable(reason)}", err=True)


def main() -> None:
    """Run ``isbi-export``."""
    app()
