"""The metadata of an ONNX file: the contract, bound to graph and weights, and no trace of the machine that wrote it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from isbi_infer import __version__
from isbi_infer.model.contract import CONTRACT_KEY, ModelContract
from isbi_infer.model.file import read_model_file

INPUT, OUTPUT = "image", "probability"


def finished(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what tools noted about themselves and this machine, in place, and sign a graph."""
    _strip_provenance(proto)
    proto.producer_name, proto.producer_version = "isbi-export", __version__
    return proto


def write_onnx(path: Path, graph: onnx.ModelProto, contract: ModelContract) -> None:
    """Write a graph with its contract.

    Parameters
    ----------
    path : Path
        Where to; written directly, so it should be a temporary name.
    graph : onnx.ModelProto
        Without metadata of its own.
    contract : ModelContract
        Stamped into ``metadata_props``.
    """
    path.write_bytes(stamp(graph, contract))


def stamp(proto: onnx.ModelProto, contract: ModelContract) -> bytes:
    """Put a contract into a graph's metadata, bound to the graph and its weights by their digest.

    Parameters
    ----------
    proto : onnx.ModelProto
        The graph; its metadata is changed in place.
    contract : ModelContract
        What the runtime must know; its digest is replaced.

    Returns
    -------
    bytes
        The whole file, the same for the same graph and contract.
    """
    others = {entry.key: entry.value for entry in proto.metadata_props if entry.key != CONTRACT_KEY}
    digest = read_model_file(proto.SerializeToString(deterministic=True)).digest
    onnx.helper.set_model_props(proto, {**others, CONTRACT_KEY: replace(contract, digest=digest).to_json()})
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def _strip_provenance(proto: onnx.ModelProto) -> None:
    """Remove the exporter's notes, which hold stack traces and paths of this machine."""
    graph = proto.graph
    for part in (
        proto,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        part.ClearField("metadata_props")
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("doc_string")
