"""The contract of an exported file: architecture and provenance from the checkpoint, the rest measured."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isnan, lcm
from typing import Any

from isbi_export.graph.analysis.analyse import GraphAnalysis
from isbi_export.graph.metadata import INPUT, OUTPUT
from isbi_export.graph.raw_io import INVERSE_STD, MEAN
from isbi_export.proof.gates import GATES
from isbi_export.proof.parity import Evidence
from isbi_export.proof.seams import contract_errors, rounded_up
from isbi_export.variants import Variant
from isbi_infer import __version__
from isbi_infer.model.contract import ModelContract
from isbi_train.networks.checkpoint import Weights
from isbi_train.networks.origins import ORIGINS, origins_of
from isbi_train.networks.seen import SEEN


def tiling(weights: Weights, graph: GraphAnalysis) -> tuple[int, int]:
    """Return stride and halo: those of the graph, on a grid that the network takes."""
    stride = lcm(graph.stride, weights.network.stride)
    return stride, ceil(max(graph.context) / stride) * stride


def contract_for(
    weights: Weights,
    checkpoint_sha256: str,
    graph: GraphAnalysis,
    variant: Variant,
    parity: dict[str, Any] | None = None,
    halo_error: dict[str, float] | None = None,
    runtimes: Sequence[str] = (),
) -> ModelContract:
    """Return the contract of a file, without the digest of what is not yet written.

    Parameters
    ----------
    weights : Weights
        Architecture, border, provenance and scores; of bare weights the last two are unknown and stored as such.
    checkpoint_sha256 : str
        Of the checkpoint file.
    graph : GraphAnalysis
        Stride, halo and exactness of the float32 graph.
    variant : Variant
        What the file is.
    parity : dict, optional
        From `parity_of`; of a draft, empty.
    halo_error : dict of str to float, optional
        From `isbi_export.proof.seams.contract_errors`; of a draft, empty.
    runtimes : sequence of str
        What passed its gate with this graph; of a draft, empty.

    Returns
    -------
    ModelContract
    """
    stride, halo = tiling(weights, graph)
    raw = variant.io == "uint8"
    data = weights.data
    stacks = weights.stacks
    training = {
        "checkpoint_sha256": checkpoint_sha256,
        "data_sha256": data["sha256"] if data else None,
        "sections": ", ".join(f"{stack.name} {stack.sections}".strip() for stack in stacks) or None,
        "network": weights.network.to_plain(),
        "epochs": weights.epoch,
    }
    if data and "stacks" in data:
        training["stacks"] = [stack.to_plain() for stack in stacks]
    for part in ("init", "teaching"):  # the weights it began with, and the models it learnt from
        if data and part in data:
            training[f"{part}_sha256"] = data[part]
    if data and SEEN in data:
        training[SEEN] = data[SEEN]
    if origins := origins_of(weights, checkpoint_sha256):
        training[ORIGINS] = [origin.to_plain() for origin in origins]
    return ModelContract(
        input_name=INPUT,
        input_dtype=variant.io,
        input_channels=weights.network.channels,
        output_name=OUTPUT,
        output_dtype=variant.io,
        output_channels=1,
        statistics_inputs=(MEAN, INVERSE_STD) if raw else (),
        stride=stride,
        halo=halo,
        border=weights.border,
        halo_error=halo_error or {},
        exact=graph.exact,
        not_exact_because=graph.reasons,
        flops_per_pixel=graph.flops_per_pixel,
        activation_bytes_per_pixel=graph.activation_bytes_per_pixel,
        normalisation=weights.normalisation,
        polarity="cell",
        pixel_size_nm=data["pixel_size_nm"] if data else None,
        threshold=weights.scores.get("threshold"),
        familiar=data.get("familiar") if data else None,
        precision=variant.precision,
        digest=None,  # of what is written in the end
        runtimes=tuple(runtimes),
        provenance={
            "parity": parity or {},
            "training": training,
            "scores": weights.scores,
            "code_version": __version__,
        },
    )


def parity_of(
    evidence: Evidence, scored_on: dict[str, Any] | None, calibrated_on: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the gate's figures as a contract holds them; the same for the same checkpoint and data.

    Parameters
    ----------
    evidence : Evidence
        What was measured.
    scored_on : dict or None
        Which sections of the user's were looked at.
    calibrated_on : dict or None
        Which sections int8 was calibrated on.

    Returns
    -------
    dict
    """
    plain: dict[str, Any] = {
        "largest": rounded_up(evidence.largest),
        "changed": rounded_up(evidence.changed),
        "v_rand_change": {data: _plain(change.v_rand) for data, change in evidence.changes.items()},
        "v_info_change": {data: _plain(change.v_info) for data, change in evidence.changes.items()},
        "gate": GATES[evidence.variant.arithmetic].to_plain(),
    }
    if scored_on:
        plain["image"] = scored_on
    if calibrated_on and evidence.variant.precision == "int8":
        plain["calibrated_on"] = calibrated_on
    return plain


def contract_halo_error(evidence: Evidence) -> dict[str, float]:
    """Return what smaller halos cost this file."""
    return contract_errors(evidence.seams, max(evidence.seams)) if evidence.seams else {}


def _plain(change: float) -> float | None:
    return None if isnan(change) else round(change, 5) + 0.0  # no -0.0
