"""A model file opened for use: which one, its contract, a backend on a proved device, and a probe."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isbi_infer.backends.base import Arithmetic, Backend, Device
from isbi_infer.errors import DependencyError, ModelError, UsageError
from isbi_infer.model.contract import PRECISIONS, ModelContract, contract_of
from isbi_infer.model.devices import open_backend, precision_names, rows
from isbi_infer.model.file import read_model_file
from isbi_models import ReleasedFile, default_model, released_models

_SNIFFED = (
    (b"version https://git-lfs", "a Git LFS pointer; run: git lfs pull"),
    (b"\x80", "a pickle; expected an .onnx file from isbi-export"),
    (b"<", "HTML; download the model again"),
)


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
        The model's promises, checked.
    backend : Backend
        On the proved device, in the proved precision.
    notes : tuple of str
        What the reader of the results must know about the file.
    """

    path: Path
    sha256: str
    contract: ModelContract
    backend: Backend
    notes: tuple[str, ...] = ()


def open_model(model: str | Path | None, provider: str, precision: str = "auto") -> OpenModel:
    """Read a model, open it on a device and run the smallest tile through it.

    Parameters
    ----------
    model : path or None
        An ONNX or TorchScript file exported by ``isbi-export``; None is the released model.
    provider : str
        "auto" or the name of a device of `isbi_infer.model.devices`.
    precision : str
        "auto" takes the fastest released file for the device, or `model` as it is. Otherwise one of
        `isbi_infer.model.devices.precision_names`: `model` or its variant of this precision, which ``isbi-export``
        writes beside it.

    Returns
    -------
    OpenModel

    Raises
    ------
    DependencyError
        If the runtime or the device is missing.
    ModelError
        If the file cannot be read, is not what it should be, or breaks its contract.
    UsageError
        If the precision or the device is unknown.
    """
    wanted = {full: short for full, short in PRECISIONS.items() if precision == full}.get(
        precision, precision
    )
    if wanted not in ("auto", *precision_names()):
        raise UsageError(f"unknown precision {precision!r}; choose auto, {', '.join(precision_names())}")
    if model is None:
        return _open_released(provider, wanted)
    path = Path(model)
    content = _read(path)
    with _naming(path):
        file = read_model_file(content)
        contract = contract_of(file.metadata, file.digest)
    if wanted not in ("auto", PRECISIONS[contract.precision]) and _variant(path, contract, wanted) != path:
        return _open_variant(path, contract, provider, wanted)
    return _open_first(path, content, contract, list(rows(file.format, provider)), provider, wanted)


def _open_released(provider: str, wanted: str) -> OpenModel:
    released = default_model()
    candidates = []
    for row in rows("onnx", provider):
        found = [a for a in row.arithmetic if wanted in ("auto", a.name) and a.file in released.files]
        candidates += [(row, found[0])] if found else []
    if not candidates:
        choice = ", ".join(PRECISIONS[name] for name in released.files)
        raise UsageError(f"{released.name} is not released in {wanted} for {provider}; choose from {choice}")
    for row, arithmetic in candidates:
        file = released.files[arithmetic.file]
        try:
            content = _read(file.path)
            with _naming(file.path):
                return _opened(file.path, content, None, row, arithmetic, file)
        except DependencyError:
            if row is candidates[-1][0]:
                raise
    raise AssertionError  # the last candidate returns or raises


def _open_first(
    path: Path, content: bytes, contract: ModelContract, candidates: list[Device], provider: str, wanted: str
) -> OpenModel:
    """Open a file on the first device of a list that runs here and computes in its precision."""
    fitting = [
        (row, arithmetic)
        for row in candidates
        if (arithmetic := _arithmetic(row, contract, wanted)) is not None
    ]
    if not fitting:
        raise UsageError(
            f"{path} is {PRECISIONS[contract.precision]}, which {provider} does not compute"
            + (f" in {wanted}" if wanted != "auto" else "")
        )
    for row, arithmetic in fitting:
        try:
            with _naming(path):
                return _opened(path, content, contract, row, arithmetic)
        except DependencyError:
            if row is fitting[-1][0]:
                raise
    raise AssertionError  # the last candidate returns or raises


def _arithmetic(row: Device, contract: ModelContract, wanted: str) -> Arithmetic | None:
    fitting = (a for a in row.arithmetic if a.file == contract.precision and wanted in ("auto", a.name))
    return next(fitting, None)


def _variant(path: Path, contract: ModelContract, wanted: str) -> Path:
    """Name the file of another precision that stands beside one."""
    plain, raw = path.name.removesuffix(path.suffix), ""
    if contract.input_dtype == "uint8" and plain.endswith(".uint8"):
        plain, raw = plain.removesuffix(".uint8"), ".uint8"
    for short in PRECISIONS.values():
        plain = plain.removesuffix(f".{short}")
    return path.with_name(plain + ("" if wanted == "fp32" else f".{wanted}") + raw + path.suffix)


def _open_variant(path: Path, contract: ModelContract, provider: str, wanted: str) -> OpenModel:
    sibling = _variant(path, contract, wanted)
    if not sibling.is_file():
        raise UsageError(
            f"{path} is {PRECISIONS[contract.precision]}, and there is no {sibling}; "
            f"run isbi-export --precision {wanted} on its checkpoint, or leave --precision out"
        )
    variant = open_model(sibling, provider)
    if PRECISIONS[variant.contract.precision] != wanted or variant.contract.provenance.get(
        "training"
    ) != contract.provenance.get("training"):
        raise ModelError(f"{sibling}: is not the {wanted} variant of {path}; export both from one checkpoint")
    return variant


def _opened(
    path: Path,
    content: bytes,
    contract: ModelContract | None,
    device: Device,
    arithmetic: Arithmetic,
    released: ReleasedFile | None = None,
) -> OpenModel:
    sha256 = hashlib.sha256(content).hexdigest()
    if released and sha256 != released.sha256:
        raise ModelError(f"sha256 is {sha256}, released was {released.sha256}; reinstall isbi-infer")
    if contract is None:
        file = read_model_file(content)
        contract = contract_of(file.metadata, file.digest)
    backend = open_backend(content, device, arithmetic)
    _probe(backend, contract)
    trusted = any(
        sha256 == file.sha256 for model in released_models().values() for file in model.files.values()
    )
    notes = () if trusted or contract.trust_note is None else (contract.trust_note,)
    return OpenModel(path, sha256, contract, backend, notes)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with it."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path}: cannot read the model ({error.strerror}); expected an .onnx file"
        ) from error
    for start, finding in _SNIFFED:
        if content.lstrip()[: len(start)] == start:
            raise ModelError(f"{path}: this is {finding}")
    if not content:
        raise ModelError(f"{path}: the file is empty; expected an .onnx file from isbi-export")
    return content


def _probe(backend: Backend, contract: ModelContract) -> None:
    """Run the smallest tile, so that a model that breaks its contract fails at load and not in the night."""
    inputs = [contract.input_name, *contract.statistics_inputs]
    if backend.inputs and (inputs != backend.inputs or [contract.output_name] != backend.outputs):
        raise ModelError(
            f"tensors are {backend.inputs} -> {backend.outputs}, the contract says {inputs} -> "
            f"{contract.output_name!r}"
        )
    shape = (1, 1, contract.stride, 2 * contract.stride)
    ramp = np.linspace(-2, 2, shape[2] * shape[3]).reshape(shape)
    if contract.input_dtype == "uint8":
        mean, inverse_std = (np.full((1, 1, 1, 1), value, np.float32) for value in (127.5, 1 / 64))
        result = backend.run((127.5 + 63 * ramp).astype(np.uint8), mean, inverse_std)
    else:
        result = backend.run(ramp.astype(np.float32))
    if result.shape != shape or result.dtype != contract.output_dtype:
        raise ModelError(
            f"a {shape} tile gives {result.shape} {result.dtype}, the contract says {shape} {contract.output_dtype}"
        )
    highest = 255 if contract.output_dtype == "uint8" else 1
    if not (np.isfinite(result).all() and result.min() >= 0 and result.max() <= highest):
        raise ModelError("a probe tile gives values outside [0, 1]; are the weights damaged?")
