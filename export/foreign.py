"""A model from elsewhere: its graph is analysed once, and what the runtime must know is stamped into a copy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import helper

from isbi_export.graph.analysis.analyse import GraphAnalysis, analyse
from isbi_export.graph.analysis.reading import read_onnx
from isbi_export.graph.metadata import stamp
from isbi_export.proof.runners import normalising
from isbi_export.proof.seams import contract_errors, seam_errors
from isbi_infer import __version__
from isbi_infer.errors import ModelError
from isbi_infer.files import check_not_input, replacing
from isbi_infer.model.contract import ModelContract, read_contract
from isbi_infer.model.devices import open_backend
from isbi_infer.model.file import read_model_file


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignModel:
    """What a graph does not show about itself.

    Attributes
    ----------
    output : {"cell", "membrane", "cell-logits", "membrane-logits"}
        What the output is: a probability, or logits, of cell interior or of membrane.
    border : int
        Mirrored pixels around a section.
    pixel_size_nm : float or None
        Side of a pixel in the training data.
    """

    output: Literal["cell", "membrane", "cell-logits", "membrane-logits"] = "cell"
    border: int = 0
    pixel_size_nm: float | None = None


def add_contract(source: Path, target: Path, foreign: ForeignModel) -> ModelContract:
    """Write a copy of a foreign ONNX model that returns probabilities of cell interior and carries a contract.

    Parameters
    ----------
    source : Path
        A self-contained ONNX file from one greyscale image (N, 1, Y, X), each section normalised to zero mean and unit
        variance, to one map of the same size.
    target : Path
        The copy; replaced only when whole.
    foreign : ForeignModel
        What its graph does not show.

    Returns
    -------
    ModelContract
        As stamped. ``exact`` is false where tiles are not proved to equal the whole-image result.

    Raises
    ------
    ModelError
        If the file is damaged or no such model.
    OutputError
        If the copy cannot be written.
    """
    check_not_input(target, source)
    try:
        content = source.read_bytes()
        proto = read_onnx(content)
        read_model_file(content)  # which refuses weights in other files
        analysis = analyse(proto)
    except OSError as error:
        raise ModelError(
            f"{source}: cannot read the model ({error.strerror}); expected an .onnx file"
        ) from error
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error
    _make_probability_of_cell(proto, foreign.output)
    model = proto.SerializeToString(deterministic=True)
    contract = _contract(source, content, model, analysis, foreign)
    with replacing(target) as temporary:
        stamped = stamp(proto, contract)
        temporary.write_bytes(stamped)
    return read_contract(stamped)


def _make_probability_of_cell(proto: onnx.ModelProto, output: str) -> None:
    """Append a sigmoid and an inversion where they are needed."""
    graph = proto.graph
    if len(graph.output) != 1 or len(graph.input) - len(graph.initializer) > 1:
        raise ModelError(
            f"expected one input and one output, found {len(graph.input)} and {len(graph.output)}"
        )
    steps: list[tuple[str, list[str]]] = []
    if output.endswith("-logits"):
        steps.append(("Sigmoid", []))
    if output.startswith("membrane"):
        graph.initializer.append(helper.make_tensor("isbi_one", onnx.TensorProto.FLOAT, [], [1.0]))
        steps.append(("Sub", ["isbi_one"]))
    final = graph.output[0].name
    names = [*(f"isbi_step_{i}" for i in range(len(steps))), final]
    for node in graph.node:
        node.output[:] = [names[0] if name == final else name for name in node.output]
        node.input[:] = [names[0] if name == final else name for name in node.input]
    for (operation, constants), before, after in zip(steps, names, names[1:], strict=False):
        graph.node.append(helper.make_node(operation, [*constants, before], [after]))


def _contract(
    source: Path, content: bytes, model: bytes, analysis: GraphAnalysis, foreign: ForeignModel
) -> ModelContract:
    session = open_backend(model, "cpu")
    shape = (1, 1, 2 * analysis.stride, 3 * analysis.stride)
    result = session.run(np.zeros(shape, np.float32))
    if result.shape != shape:
        raise ModelError(
            f"{source}: an input of {shape} gives an output of {result.shape}; they must have one shape"
        )
    errors = {}
    if analysis.exact:
        found = seam_errors(
            normalising(session.run), stride=analysis.stride, halo=analysis.halo, border=foreign.border
        )
        errors = contract_errors(found, analysis.halo)
    return ModelContract(
        input_name=session.inputs[0],
        input_dtype="float32",
        input_channels=1,
        output_name=session.outputs[0],
        output_dtype="float32",
        output_channels=1,
        statistics_inputs=(),
        stride=analysis.stride,
        halo=analysis.halo,
        border=foreign.border,
        halo_error=errors,
        exact=analysis.exact,
        not_exact_because=analysis.reasons,
        flops_per_pixel=analysis.flops_per_pixel,
        activation_bytes_per_pixel=analysis.activation_bytes_per_pixel,
        normalisation="section-zscore",
        polarity="cell",
        pixel_size_nm=foreign.pixel_size_nm,
        precision="float32",
        digest=None,
        runtimes=(),  # there is no checkpoint to compare with
        provenance={
            "parity": {},
            "training": {"source": source.name, "source_sha256": hashlib.sha256(content).hexdigest()},
            "scores": {},
            "code_version": __version__,
        },
    )
