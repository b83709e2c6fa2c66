"""Writing the ONNX file: one self-contained graph, the contract in its metadata, no trace of this machine."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import torch

from isbi_export.deployable import Deployable
from isbi_infer import __version__
from isbi_infer.model.contract import CONTRACT_KEY, ModelContract
from isbi_infer.model.file import read_model_file

OPSET = 20
OPSETS = range(18, 24)
INPUT, OUTPUT = "image", "probability"


def graph_of(model: Deployable, opset: int = OPSET) -> onnx.ModelProto:
    """Export a network as a graph with dynamic batch, height and width, and all weights inside.

    Parameters
    ----------
    model : Deployable
        What to export.
    opset : int
        Version of the operators, one of `OPSETS`.

    Returns
    -------
    onnx.ModelProto
        From `INPUT` to `OUTPUT`, without a contract.
    """
    stride = model.network.config.stride
    example_NCYX = torch.zeros(2, 1, 2 * stride, 3 * stride)
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    with _quiet_exporter():
        program = torch.onnx.export(
            model,
            (example_NCYX,),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=({0: batch, 2: stride * height, 3: stride * width},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return finished(program.model_proto)


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
        Where to; written directly, so give a temporary name.
    graph : onnx.ModelProto
        From `graph_of`.
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
        What to say about it; a digest in it is replaced.

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


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's progress lines and its own libraries' deprecation warnings from our user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
