"""A model file opened for use: which one, its contract, checked against its graph, a session on it, and a probe."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isbi_infer.backend import Backend
from isbi_infer.contract import PRECISIONS, ModelContract, contract_of
from isbi_infer.errors import DependencyError, ModelError, UsageError
from isbi_infer.graph import GraphAnalysis, analyse
from isbi_infer.onnxgraph.onnxfile import OnnxFile, read_onnx
from isbi_infer.session import cuda_is_compiled_in, open_session
from isbi_models import ReleasedFile, default_model

_SHORT = {"float32": "fp32", "float16": "fp16", "int8": "int8"}
_FASTEST = {"cpu": ("int8", "float32"), "cuda": ("float16", "float32"), "tensorrt": ("float16", "float32")}
_ZIP = b"PK\x03\x04"


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
        What it says about itself, with which its graph agrees.
    session : Backend
        On the proved provider.
    """

    path: Path
    sha256: str
    contract: ModelContract
    session: Backend


def open_model(model: str | Path | None, provider: str, precision: str = "auto") -> OpenModel:
    """Read a model, open it on a provider and run the smallest tile through it.

    Parameters
    ----------
    model : path or None
        An ONNX or TorchScript file exported by ``isbi-export``; None is the released model.
    provider : str
        "auto" or one of `isbi_infer.session.PROVIDERS`.
    precision : {"auto", "fp32", "fp16", "int8"}
        "auto" takes the fastest released file for the provider, or `model` as it is. Otherwise `model` or its variant
        of this precision, which ``isbi-export`` writes beside it.

    Returns
    -------
    OpenModel

    Raises
    ------
    DependencyError
        If onnxruntime or the provider is missing, or torch for a TorchScript file.
    ModelError
        If the file cannot be read, is not what it should be, or breaks its contract.
    UsageError
        If the precision or the provider is unknown.
    """
    wanted = next((full for full, short in _SHORT.items() if precision in (short, full)), None)
    if wanted is None and precision != "auto":
        raise UsageError(f"unknown precision {precision!r}; choose auto, {', '.join(_SHORT.values())}")
    if model is None:
        return _open_released(provider, wanted)
    path = Path(model)
    opened = _open(path, provider)
    if wanted is None or opened.contract.precision == wanted:
        return opened
    return _open_variant(opened, provider, wanted)


def _open_released(provider: str, wanted: str | None) -> OpenModel:
    released = default_model()
    if wanted and wanted not in released.files:
        choice = ", ".join(_SHORT[name] for name in released.files)
        raise UsageError(f"{released.name} is not released in {_SHORT[wanted]}; choose from {choice}")
    for candidate in _providers(provider):
        fastest = (wanted,) if wanted else _FASTEST.get(candidate, ("float32",))
        file = next(released.files[name] for name in fastest if name in released.files)
        try:
            return _open(file.path, candidate, file)
        except DependencyError:
            if candidate == provider or candidate == "cpu":
                raise
    raise AssertionError  # the last candidate returns or raises


def _providers(provider: str) -> Iterator[str]:
    """Resolve "auto" to what is worth trying, the CPU last."""
    if provider != "auto":
        yield provider
        return
    if cuda_is_compiled_in():
        yield "cuda"
    yield "cpu"


def _open_variant(opened: OpenModel, provider: str, wanted: str) -> OpenModel:
    short, path = _SHORT[wanted], opened.path
    plain, raw = path.name.removesuffix(path.suffix), ""
    if opened.contract.input_dtype == "uint8" and plain.endswith(".uint8"):
        plain, raw = plain.removesuffix(".uint8"), ".uint8"
    for name in PRECISIONS:
        plain = plain.removesuffix(f".{_SHORT[name]}")
    sibling = path.with_name(plain + ("" if wanted == "float32" else f".{short}") + raw + path.suffix)
    if not sibling.is_file():
        raise UsageError(
            f"{path} is {_SHORT[opened.contract.precision]}, and there is no {sibling}; "
            f"run isbi-export --precision {short} on its checkpoint, or leave --precision out"
        )
    variant = _open(sibling, provider)
    if variant.contract.precision != wanted or variant.contract.training != opened.contract.training:
        raise ModelError(f"{sibling}: is not the {short} variant of {path}; export both from one checkpoint")
    return variant


def _open(path: Path, provider: str, released: ReleasedFile | None = None) -> OpenModel:
    content = _read_model(path)
    sha256 = hashlib.sha256(content).hexdigest()
    if released and sha256 != released.sha256:
        raise ModelError(f"{path}: sha256 is {sha256}, released was {released.sha256}; reinstall isbi-infer")
    try:
        if content.startswith(_ZIP):
            from isbi_infer.torchscript import open_torchscript

            session: Backend = open_torchscript(content, provider)
            contract = contract_of(session.metadata)
        else:
            file = read_onnx(content)
            _require_weights_inside(file)
            contract = contract_of(file.metadata)
            _require_agreement(contract, analyse(file))
            session = open_session(content, provider)
        _probe(session, contract)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return OpenModel(path, sha256, contract, session)


def _read_model(path: Path) -> bytes:
    try:
        model = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path}: cannot read the model ({error.strerror}); expected an .onnx file"
        ) from error
    for start, finding in (
        (b"version https://git-lfs", "a Git LFS pointer; run: git lfs pull"),
        (b"\x80", "a pickle; expected an .onnx file from isbi-export"),
        (b"<", "HTML; download the model again"),
    ):
        if model.lstrip()[: len(start)] == start:
            raise ModelError(f"{path}: this is {finding}")
    if not model:
        raise ModelError(f"{path}: the file is empty; expected an .onnx file from isbi-export")
    if model.startswith(_ZIP) and b"/constants.pkl" not in model:  # which every TorchScript archive has
        raise ModelError(
            f"{path}: this is a PyTorch file but no TorchScript; run isbi-export on it and use the .onnx file"
        )
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


def _probe(session: Backend, contract: ModelContract) -> None:
    """Run the smallest tile, so that a model that breaks its contract fails at load and not in the night."""
    inputs = [contract.input_name, *contract.statistics_inputs]
    if inputs != session.inputs or [contract.output_name] != session.outputs:
        raise ModelError(
            f"tensors are {session.inputs} -> {session.outputs}, the contract says {inputs} -> "
            f"{contract.output_name!r}"
        )
    shape = (1, 1, contract.stride, 2 * contract.stride)
    ramp = np.linspace(-2, 2, shape[2] * shape[3]).reshape(shape)
    if contract.input_dtype == "uint8":
        mean, inverse_std = (np.full((1, 1, 1, 1), value, np.float32) for value in (127.5, 1 / 64))
        result = session.run((127.5 + 63 * ramp).astype(np.uint8), mean, inverse_std)
    else:
        result = session.run(ramp.astype(np.float32))
    if result.shape != shape or result.dtype != contract.output_dtype:
        raise ModelError(
            f"a {shape} tile gives {result.shape} {result.dtype}, the contract says {shape} {contract.output_dtype}"
        )
    highest = 255 if contract.output_dtype == "uint8" else 1
    if not (np.isfinite(result).all() and result.min() >= 0 and result.max() <= highest):
        raise ModelError("a probe tile gives values outside [0, 1]; are the weights damaged?")
