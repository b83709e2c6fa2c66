"""Checkpoint in, proved files out: write aside, run, compare, and only then rename."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import onnx

from isbi_export.deployable import Deployable
from isbi_export.graph_file import INPUT, OUTPUT, graph_of, write_onnx
from isbi_export.parity import Parity, Run, compare, module_runner, onnx_runner, torchscript_runner
from isbi_export.seams import halo_errors
from isbi_export.torchscript import write_torchscript
from isbi_infer import __version__
from isbi_infer.contract import SCHEMA, ModelContract
from isbi_infer.errors import ModelError, UsageError
from isbi_infer.files import check_writable, replacing
from isbi_infer.graph import GraphAnalysis, analyse
from isbi_train.checkpoint import Checkpoint, file_sha256, load_checkpoint


@dataclass(frozen=True, slots=True)
class Exported:
    """One network in the two shapes that files are written from."""

    module: Deployable
    graph: onnx.ModelProto


Write = Callable[[Path, Exported, ModelContract], None]


@dataclass(frozen=True, slots=True)
class _Format:
    suffix: str
    write: Write
    runner: Callable[[Path], Run]


FORMATS = {
    "onnx": _Format(
        ".onnx", lambda path, exported, contract: write_onnx(path, exported.graph, contract), onnx_runner
    ),
    "torchscript": _Format(
        ".pt",
        lambda path, exported, contract: write_torchscript(path, exported.module, contract),
        torchscript_runner,
    ),
}


@dataclass(frozen=True, slots=True)
class Published:
    """One published file and its proof."""

    path: Path
    parity: Parity


def contract_for(
    checkpoint: Checkpoint, checkpoint_sha256: str, deployable: Deployable, graph: GraphAnalysis
) -> ModelContract:
    """Say about a checkpoint's network what the runtime must know.

    Parameters
    ----------
    checkpoint : Checkpoint
        Gives architecture, border, provenance and scores.
    checkpoint_sha256 : str
        Of the checkpoint file.
    deployable : Deployable
        Its network, on which the errors of smaller halos are measured.
    graph : GraphAnalysis
        What the exported graph says about stride, halo and exactness.

    Returns
    -------
    ModelContract
    """
    stride, halo, border = graph.stride, graph.halo, checkpoint.train.border
    errors = {}
    if graph.exact:
        errors = halo_errors(module_runner(deployable), stride=stride, halo=halo, border=border)
    return ModelContract(
        schema=SCHEMA,
        input_name=INPUT,
        input_dtype="float32",
        input_channels=1,
        output_name=OUTPUT,
        output_dtype="float32",
        output_channels=1,
        statistics_inputs=(),
        stride=stride,
        halo=halo,
        border=border,
        halo_error=errors,
        exact=graph.exact,
        not_exact_because=graph.reasons,
        flops_per_pixel=graph.flops_per_pixel,
        activation_bytes_per_pixel=graph.activation_bytes_per_pixel,
        normalisation="section-zscore",
        polarity="cell",
        pixel_size_nm=checkpoint.data["pixel_size_nm"],
        precision="float32",
        parity={},
        training={
            "checkpoint_sha256": checkpoint_sha256,
            "data_sha256": checkpoint.data["sha256"],
            "sections": f"0:{checkpoint.data['sections'] - checkpoint.train.hold_out}",
            "network": checkpoint.network.to_plain(),
            "epochs": checkpoint.epoch,
        },
        scores=checkpoint.scores,
        code_version=__version__,
    )


def publish(checkpoint_path: Path, folder: Path, formats: Sequence[str]) -> list[Published]:
    """Export a checkpoint; nothing appears unless every file agrees with it.

    Parameters
    ----------
    checkpoint_path : Path
        A ``.pth`` file written by ``isbi-train``.
    folder : Path
        Where the files go, named after the checkpoint.
    formats : sequence of str
        Keys of `FORMATS`.

    Returns
    -------
    list of Published
        One per format, in order.

    Raises
    ------
    ModelError
        If the checkpoint is damaged, holds NaN, or a file differs from it.
    OutputError
        If the files cannot be written.
    UsageError
        If a format is unknown.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise UsageError(f"unknown formats {unknown}; choose from {', '.join(FORMATS)}")
    checkpoint = load_checkpoint(checkpoint_path)
    _require_finite(checkpoint_path, checkpoint)
    targets = {
        name: folder / (checkpoint_path.stem + FORMATS[name].suffix) for name in dict.fromkeys(formats)
    }
    for target in targets.values():
        check_writable(target)
    network, deployable = checkpoint.load_network(), Deployable(checkpoint.load_network())
    exported = Exported(deployable, graph_of(deployable))
    analysis = analyse(exported.graph.SerializeToString())
    contract = contract_for(checkpoint, file_sha256(checkpoint_path), deployable, analysis)
    published = []
    with ExitStack() as stack:  # leaves by renaming all files, or none
        for name, target in targets.items():
            temporary = stack.enter_context(replacing(target))
            FORMATS[name].write(temporary, exported, contract)
            parity = compare(name, FORMATS[name].runner(temporary), network)
            parity.require(target)
            published.append(Published(target, parity))
    return published


def _require_finite(path: Path, checkpoint: Checkpoint) -> None:
    broken = [name for name, weight in checkpoint.state_dict.items() if not weight.isfinite().all()]
    broken += [name for name, v in checkpoint.scores.items() if isinstance(v, float) and not isfinite(v)]
    if broken:
        raise ModelError(
            f"{path}: NaN or infinite numbers in {len(broken)} weights and scores ({broken[0]} first), so the training "
            "diverged; train again with a lower --learning-rate"
        )
