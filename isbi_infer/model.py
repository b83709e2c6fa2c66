"""A model file opened for use: its contract, checked against its graph, a session on it, and a probe of both."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isbi_infer.contract import ModelContract, contract_of
from isbi_infer.errors import ModelError
from isbi_infer.graph import GraphAnalysis, analyse
from isbi_infer.onnxgraph.onnxfile import OnnxFile, read_onnx
from isbi_infer.session import OnnxSession, open_session
from isbi_models import default_model


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model that is ready to run.

    Attributes
    ----------
    path : Path
        The file.
    sha256 : str
        Of its bytes.
    contract : ModelContract
        What it says about itself.
    graph : GraphAnalysis
        What its graph says, with which the contract agrees.
    session : OnnxSession
        On the proved provider.
    """

    path: Path
    sha256: str
    contract: ModelContract
    graph: GraphAnalysis
    session: OnnxSession


def open_model(model: str | Path | None, provider: str) -> OpenModel:
    """Read a model, open it on a provider and run the smallest tile through it.

    Parameters
    ----------
    model : path or None
        An ONNX file exported by ``isbi-export``; None is the released model.
    provider : str
        "auto" or one of `isbi_infer.session.PROVIDERS`.

    Returns
    -------
    OpenModel

    Raises
    ------
    DependencyError
        If onnxruntime or the provider is missing.
    ModelError
        If the file cannot be read, is not what it should be, or breaks its contract.
    """
    released = default_model() if model is None else None
    path = released.path if released else Path(model or "")
    model_bytes = _read_model(path)
    sha256 = hashlib.sha256(model_bytes).hexdigest()
    if released and sha256 != released.sha256:
        raise ModelError(f"{path}: sha256 is {sha256}, released was {released.sha256}; reinstall isbi-infer")
    try:
        file = read_onnx(model_bytes)
        _require_weights_inside(file)
        contract = contract_of(file.metadata)
        graph = analyse(file)
        _require_agreement(contract, graph)
        session = open_session(model_bytes, provider)
        _probe(session, contract)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return OpenModel(path, sha256, contract, graph, session)


def _read_model(path: Path) -> bytes:
    try:
        model = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path}: cannot read the model ({error.strerror}); expected an .onnx file"
        ) from error
    for start, finding in (
        (b"version https://git-lfs", "a Git LFS pointer; run: git lfs pull"),
        (b"PK\x03\x04", "a PyTorch file; run isbi-export on the checkpoint and use the .onnx file"),
        (b"\x80", "a pickle; expected an .onnx file from isbi-export"),
        (b"<", "HTML; download the model again"),
    ):
        if model.lstrip()[: len(start)] == start:
            raise ModelError(f"{path}: this is {finding}")
    if not model:
        raise ModelError(f"{path}: the file is empty; expected an .onnx file from isbi-export")
    return model


def _require_weights_inside(file: OnnxFile) -> None:
    if file.external:
        raise ModelError(
            f"the weights lie outside the file ({len(file.external)} tensors, {file.external[0]!r} first); "
            "export it with isbi-export, or save it with external_data=False"
        )


def _require_agreement(contract: ModelContract, graph: GraphAnalysis) -> None:
    """Hold the contract against the graph: too small a halo or stride would be a seam in every result."""
    if contract.exact and not graph.exact:
        more = f" (and {len(graph.reasons) - 1} more)" if len(graph.reasons) > 1 else ""
        raise ModelError(f"the contract says exact, the graph is not: {graph.reasons[0]}{more}")
    if contract.stride % graph.stride:
        raise ModelError(
            f"the contract says stride {contract.stride}, the graph repeats every {graph.stride} pixels"
        )
    if contract.halo < graph.halo:
        raise ModelError(
            f"the contract says halo {contract.halo}, the graph needs {graph.halo} "
            f"(it looks {max(graph.context)} pixels far)"
        )


def _probe(session: OnnxSession, contract: ModelContract) -> None:
    """Run the smallest tile, so that a model that breaks its contract fails at load and not in the night."""
    if [contract.input_name] != session.inputs or [contract.output_name] != session.outputs:
        raise ModelError(
            f"tensors are {session.inputs} -> {session.outputs}, "
            f"the contract says {contract.input_name!r} -> {contract.output_name!r}"
        )
    shape = (1, 1, contract.stride, 2 * contract.stride)
    ramp = np.linspace(-2, 2, shape[2] * shape[3], dtype=np.float32).reshape(shape)
    result = session.run(ramp)
    if result.shape != shape or result.dtype != np.float32:
        raise ModelError(
            f"a {shape} tile gives {result.shape} {result.dtype}, the contract says {shape} float32"
        )
    if not (np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1):
        raise ModelError("a probe tile gives values outside [0, 1]; are the weights damaged?")
