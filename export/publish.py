"""Checkpoint in, proved files out: write aside, run, compare, and only then rename.

::

    checkpoint -> network -> float32 graph -> float16, int8 -> the same with bytes in and out
                     |             each: draft -> evidence -> gate -> stamped file -> evidence again
                     +-> probes ------------------'-> the same on every runtime and precision, for the contract
    all that passed, and the report: renamed at the end
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

from isbi_export.contracts import contract_for, contract_halo_error, parity_of, tiling
from isbi_export.formats.calibration import Calibration, read_calibrations, synthetic_calibration
from isbi_export.formats.deployable import Deployable
from isbi_export.formats.exported import WRITERS, Exported
from isbi_export.formats.onnx_export import OPSET, OPSETS
from isbi_export.graph.analysis.analyse import GraphAnalysis, analyse
from isbi_export.proof.gates import refusals
from isbi_export.proof.parity import Evidence, Scores, compare, reference_scores
from isbi_export.proof.probes import Labelled, Probe, make_probes, read_labelled
from isbi_export.proof.runners import Runner, file_runner, normalising, real_float32
from isbi_export.proof.runtimes import OWN_DEVICE, RuntimeProof, prove_runtimes
from isbi_export.proof.seams import seam_errors
from isbi_export.proof.timing import milliseconds_per_section
from isbi_export.report.parity_report import FileReport, Report, write_html, write_json
from isbi_export.variants import Variant, plan_variants
from isbi_infer.errors import ModelError, UsageError
from isbi_infer.files import check_writable, replacing
from isbi_infer.model.contract import ModelContract
from isbi_infer.model.devices import open_backend
from isbi_infer.model.opening import open_model
from isbi_infer.terminal import counted
from isbi_train.data.labels import LabelRule
from isbi_train.data.sections import ranges
from isbi_train.evaluation.evaluate import sections_named
from isbi_train.networks.checkpoint import Weights, file_sha256
from isbi_train.networks.origins import origins_of
from isbi_train.networks.weights import load_weights

_Runs = dict[tuple[Variant, str], Runner]
"""What computes a file, by the device and precision in which it does."""


class NotPublishedError(ModelError):
    """Some files did not pass; the others are published.

    Parameters
    ----------
    report : Report
        About all of them.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        super().__init__("\n".join(file.refusal for file in report.files if not file.published))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Source:
    """What all variants are made from and held against."""

    weights: Weights
    sha256: str
    exported: Exported
    analysis: GraphAnalysis
    probes: list[Probe]
    reference: dict[str, Scores]
    labelled: Labelled | None
    calibration: Calibration | None

    @property
    def tiles(self) -> dict[str, int]:
        stride, halo = tiling(self.weights, self.analysis)
        channels = self.weights.network.channels
        return {"stride": stride, "halo": halo, "border": self.weights.border, "channels": channels}

    @property
    def scored_on(self) -> dict[str, Any] | None:
        if self.labelled is None:
            return None
        sections = self.labelled.sections
        return {
            "data_sha256": self.labelled.data_sha256,
            "sections": sections_named(sections),
        }

    @property
    def calibrated_on(self) -> dict[str, Any] | None:
        return self.calibration.source if self.calibration else None

    def contract(self, variant: Variant, **measured: Any) -> ModelContract:
        return contract_for(self.weights, self.sha256, self.analysis, variant, **measured)


def _unsaid(stage: str) -> None:
    """Take note of nothing."""


@real_float32()
def publish(
    checkpoint: Path,
    folder: Path,
    formats: Sequence[str] = ("onnx", "torchscript"),
    *,
    precisions: Sequence[str] = ("fp32",),
    ios: Sequence[str] = ("float32",),
    opset: int = OPSET,
    calibrate: Sequence[Path] = (),
    arch: str | None = None,
    image: Path | None = None,
    labels: Path | None = None,
    sections: str | None = None,
    rule: LabelRule | None = None,
    stage: Callable[[str], None] = _unsaid,
) -> Report:
    """Export a checkpoint; a file appears only when it passed its gate, and the report about all of them with it.

    Parameters
    ----------
    checkpoint : Path
        Whatever `isbi_train.networks.weights.load_weights` reads.
    folder : Path
        Where the files go, named after the checkpoint.
    formats, precisions, ios : sequence of str
        See `isbi_export.variants.plan_variants`.
    opset : int
        Version of the ONNX operators.
    calibrate : sequence of Path
        Stacks to calibrate int8 on; synthetic sections when not given.
    arch : str, optional
        Architecture of bare weights.
    image, labels : Path, optional
        A stack and its labels, to measure scores on.
    sections : str, optional
        Which of them; see `isbi_export.proof.probes.read_labelled`.
    rule : LabelRule, optional
        What the labels mean; cells when not given.
    stage : callable
        Called with what is done next: each file, and each proof of it.

    Returns
    -------
    Report
        All files were published.

    Raises
    ------
    NotPublishedError
        If some were not; its message has a line for each.
    ModelError
        If the checkpoint is damaged or holds NaN; nothing is published.
    OutputError
        If the files cannot be written; nothing is published.
    UsageError
        If an argument is invalid.
    """
    variants = plan_variants(formats, precisions, ios)
    _check_arguments(variants, opset, calibrate, image, labels, sections)
    targets = [folder / f"{checkpoint.stem}{variant.suffix}" for variant in variants]
    report_paths = [folder / f"{checkpoint.stem}.parity{suffix}" for suffix in (".json", ".html")]
    for target in (*targets, *report_paths):
        check_writable(target)
    weights = load_weights(checkpoint, arch)
    _require_finite(checkpoint, weights)
    model_nm = weights.data["pixel_size_nm"] if weights.data else None
    labelled = read_labelled(image, labels, sections, model_nm, rule) if image and labels else None
    _require_bytes(image, labelled, variants)
    calibration = _calibration(variants, calibrate, weights, labelled)
    raw = any(variant.io == "uint8" for variant in variants)
    stage("tracing the network and running it on the inputs of the proofs")
    source = _prepare(weights, file_sha256(checkpoint), opset, labelled, calibration, as_bytes=raw)
    files: list[FileReport] = []
    runs: _Runs = {}
    with ExitStack() as passed:  # leaves by renaming all that passed, the report last, or none
        report_files = [passed.enter_context(replacing(path)) for path in report_paths]
        for variant, target in zip(variants, targets, strict=True):
            with suppress(_RefusedError), ExitStack() as one:
                temporary = one.enter_context(replacing(target))
                file, computing = _built(source, variant, target, temporary, stage)
                files.append(file)
                if not file.published:
                    raise _RefusedError
                passed.push(one.pop_all())
                runs |= computing
        on_gpu = {(file.variant, proof.pair) for file in files for proof in file.runtimes if proof.on_gpu}
        stage("measuring times")
        times = milliseconds_per_section(runs, **source.tiles, on_gpu=on_gpu)
        report = Report(
            checkpoint=checkpoint.name,
            checkpoint_sha256=source.sha256,
            notes=(*weights.notes, *_terms(weights, source.sha256), *_of_stacks(labelled, calibration)),
            scored_on=source.scored_on,
            calibrated_on=source.calibrated_on,
            scores=source.reference,
            files=tuple(_timed(file, times) for file in files),
        )
        if not any(file.published for file in files):
            raise NotPublishedError(report)
        for path, write in zip(report_files, (write_json, write_html), strict=True):
            write(path, report)
    if not all(file.published for file in files):
        raise NotPublishedError(report)
    return report


def _terms(weights: Weights, sha256: str) -> list[str]:
    return [f"the terms of {origin} go along with these weights" for origin in origins_of(weights, sha256)]


def _of_stacks(labelled: Labelled | None, calibration: Calibration | None) -> list[str]:
    notes = [*(labelled.notes if labelled else ()), *(calibration.notes if calibration else ())]
    return list(dict.fromkeys(notes))


def _timed(file: FileReport, times: Mapping[tuple[Variant, str], float]) -> FileReport:
    runtimes = (replace(proof, milliseconds=times.get((file.variant, proof.pair))) for proof in file.runtimes)
    own = times.get((file.variant, f"{OWN_DEVICE} {file.variant.arithmetic}"))
    return replace(file, milliseconds=own, runtimes=tuple(runtimes))


class _RefusedError(Exception):
    """Takes back what was written of one file."""


def _check_arguments(
    variants: list[Variant],
    opset: int,
    calibrate: Sequence[Path],
    image: Path | None,
    labels: Path | None,
    sections: str | None,
) -> None:
    if opset not in OPSETS:
        raise UsageError(f"opset {opset} is not within {OPSETS.start}..{OPSETS.stop - 1}")
    if calibrate and all(variant.precision != "int8" for variant in variants):
        raise UsageError("sections to calibrate on are for int8; add it to the precisions")
    if (image is None) != (labels is None):
        raise UsageError("an image and its labels go together; give both or none")
    if sections is not None and image is None:
        raise UsageError("sections are of an image with labels; give these too")


def _require_finite(path: Path, weights: Weights) -> None:
    broken = [name for name, weight in weights.state_dict.items() if not weight.isfinite().all()]
    broken += [name for name, v in weights.scores.items() if isinstance(v, float) and not isfinite(v)]
    if broken:
        raise ModelError(
            f"{path}: NaN or infinite numbers in {len(broken)} weights and scores ({broken[0]} first), so the training "
            "diverged; train again with a lower --learning-rate"
        )


def _require_bytes(image: Path | None, labelled: Labelled | None, variants: list[Variant]) -> None:
    raw = any(variant.io == "uint8" for variant in variants)
    if labelled and raw and labelled.image_ZYX.dtype != "uint8":
        raise UsageError(
            f"{image}: is {labelled.image_ZYX.dtype}, but files with uint8 input are compared on 8-bit sections; give "
            "such ones, or leave uint8 out"
        )


def _calibration(
    variants: list[Variant], calibrate: Sequence[Path], weights: Weights, labelled: Labelled | None
) -> Calibration | None:
    """Choose sections for int8, none of them among those that are held out or scored."""
    if all(variant.precision != "int8" for variant in variants):
        return None
    if not calibrate:
        return synthetic_calibration(weights.network.neighbours)
    held_out: dict[str, Collection[int]] = {}
    for stack in weights.stacks:
        (left_out,) = ranges(stack.held_out)
        held_out[stack.data_sha256["images"]] = range(left_out.start, left_out.stop)
    if labelled:
        before = held_out.get(labelled.data_sha256, ())
        held_out[labelled.data_sha256] = {*before, *labelled.sections}
    model_nm = weights.data["pixel_size_nm"] if weights.data else None
    return read_calibrations(calibrate, held_out, model_nm, weights.network.neighbours)


def _prepare(
    weights: Weights,
    checkpoint_sha256: str,
    opset: int,
    labelled: Labelled | None,
    calibration: Calibration | None,
    *,
    as_bytes: bool,
) -> _Source:
    exported = Exported(Deployable(weights.load_network()), opset, weights.border, calibration)
    analysis = analyse(exported.graph("float32").SerializeToString())
    stride, _ = tiling(weights, analysis)
    padding = {"stride": stride, "border": weights.border, "channels": weights.network.channels}
    probes = make_probes(weights.load_network(), **padding, labelled=labelled, as_bytes=as_bytes)
    return _Source(
        weights=weights,
        sha256=checkpoint_sha256,
        exported=exported,
        analysis=analysis,
        probes=probes,
        reference=reference_scores(probes),
        labelled=labelled,
        calibration=calibration,
    )


def _built(
    source: _Source, variant: Variant, target: Path, temporary: Path, stage: Callable[[str], None]
) -> tuple[FileReport, _Runs]:
    """Write one file aside and try it; with the report comes what computes it, for measuring times."""
    try:
        tried = _tried(source, variant, temporary, lambda proof: stage(f"{target.name}: {proof}"))
    except ModelError as error:
        reason = str(error).replace(str(temporary), str(target)).removeprefix(f"{target}: ")
        return FileReport(path=target, variant=variant, refused=(reason,)), {}
    content = temporary.read_bytes()
    report = FileReport(
        path=target,
        variant=variant,
        refused=tuple(tried.refused),
        evidence=tried.evidence,
        runtimes=tried.runtimes,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    return report, tried.runs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    evidence: Evidence
    refused: Sequence[str] = ()
    runtimes: tuple[RuntimeProof, ...] = ()
    runs: _Runs = field(default_factory=dict)


def _tried(source: _Source, variant: Variant, temporary: Path, stage: Callable[[str], None]) -> _Tried:
    write, probes = WRITERS[variant.file_format], source.probes
    stage("writing it aside")
    write(temporary, source.exported, variant, source.contract(variant))
    run, encoded_from = file_runner(temporary, variant), None
    if variant.io == "uint8":
        graph = source.exported.graph(variant.precision)
        encoded_from = normalising(open_backend(graph.SerializeToString(), "cpu").run)
    stage(f"against the checkpoint on {counted(len(probes), 'input')}")
    evidence = compare(variant, run, probes, source.reference, encoded_from)
    if source.analysis.exact:
        stage("tiles against whole sections")
        evidence = replace(evidence, seams=seam_errors(run, **source.tiles))
    if reasons := refusals(evidence):
        return _Tried(evidence=evidence, refused=reasons)
    runs = {(variant, f"{OWN_DEVICE} {variant.arithmetic}"): run}
    tiles = source.tiles if source.analysis.exact else None
    found = list(prove_runtimes(temporary.read_bytes(), evidence, probes, source.reference, tiles, stage))
    runs |= {(variant, proof.pair): computing for proof, computing in found if computing}
    runtimes = tuple(proof for proof, _ in found)
    parity = parity_of(evidence, source.scored_on, source.calibrated_on)
    contract = source.contract(
        variant,
        parity=parity,
        halo_error=contract_halo_error(evidence),
        runtimes=[proof.pair for proof in runtimes if proof.verdict == "passed"],
    )
    stage("again, with its contract in it")
    write(temporary, source.exported, variant, contract)
    if variant.file_format != "program":
        open_model(temporary, "cpu")  # as the runtime that ships does
    random = [probe for probe in probes if probe.data == "random"]
    again = compare(variant, file_runner(temporary, variant), random, source.reference)
    if again.comparisons != evidence.comparisons[: len(random)]:
        return _Tried(evidence=evidence, refused=["gives other results since its contract is in it"])
    return _Tried(evidence=evidence, runtimes=runtimes, runs=runs)
