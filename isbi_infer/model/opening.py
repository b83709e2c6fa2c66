"""A model file opened for use: which one, its contract, a backend on a proved device, and a probe."""

from __future__ import annotations

import codecs
import hashlib
import operator
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import SupportsIndex

import numpy as np

from isbi_infer.backends.base import Arithmetic, Backend, Device
from isbi_infer.backends.cores import available_cores
from isbi_infer.errors import DependencyError, ModelError, ResourceError, UsageError
from isbi_infer.model.contract import PRECISIONS, ModelContract, contract_of
from isbi_infer.model.devices import ModelFormat, open_backend, precision_names, rows
from isbi_infer.model.file import check_regular, read_model_file
from isbi_infer.terminal import did_you_mean, nearest_file
from isbi_models import ReleasedFile, ReleasedModel, default_model, released_models

_NAMES_OF_SCRIPTS = (".pt", ".pth", ".ts", ".torchscript")
_SNIFFED = (
    (b"version https://git-lfs", "a Git LFS pointer; run: git lfs pull"),
    (b"\x80", "a pickle; expected an .onnx file, as isbi-export writes it"),
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


@dataclass(frozen=True, slots=True)
class _File:
    """A model file that was read, and its contract."""

    path: Path
    content: bytes
    sha256: str
    contract: ModelContract


def open_model(
    model: str | Path | None, provider: str, precision: str = "auto", pixels: int | None = None
) -> OpenModel:
    """Read a model, open it on a device and run the smallest tile through it.

    Parameters
    ----------
    model : path, str or None
        An ONNX or TorchScript file exported by ``isbi-export``, or the name of a released model; a file of that name
        comes first. None is the released model that is the default.
    provider : str
        "auto" or the name of a device of `isbi_infer.model.devices`.
    precision : str
        "auto" takes the fastest one of the device that passed its gate when the file was exported. Otherwise one of
        `isbi_infer.model.devices.precision_names`: of `model`, or of its variant of this precision, which
        ``isbi-export`` writes beside it.
    pixels : int, optional
        How many will be computed, where that is known: "auto" takes a device whose start is slow only for enough of
        them.

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
        If the precision or the device is unknown, or the device does not compute in it.
    """
    for what, name in (("provider", provider), ("precision", precision)):
        if not isinstance(name, str):
            raise UsageError(f"{what} is {name!r}; expected auto or a name")
    if pixels is not None and not (isinstance(pixels, SupportsIndex) and operator.index(pixels) >= 0):
        raise UsageError(f"pixels is {pixels!r}; expected a whole number, 0 or more")
    wanted = PRECISIONS.get(precision, precision)
    if wanted not in ("auto", *precision_names()):
        meant = did_you_mean(precision, precision_names())
        choices = ", ".join(precision_names())
        raise UsageError(f"unknown precision {precision!r}; choose auto, {choices}{meant}")
    released = find_released(model)
    if released is not None:
        known = tuple(rows("onnx", provider))
        if not any(_fits(a, wanted, released.files) for row in known for a in row.arithmetic):
            choice = dict.fromkeys(
                a.name for row in known for a in row.arithmetic if a.file in released.files
            )
            raise UsageError(
                f"{released.name} is not released in {wanted} for {provider}; choose from {', '.join(choice)}, or "
                f"make a file of it: isbi-export {released.name} -o FOLDER --precision {wanted}"
            )
        read = cache(lambda name: _read_released(released.files[name]))
        return _open_first(read, set(released.files), known, provider, wanted, pixels)
    assert model is not None
    path = Path(model)
    file_format, file = _read_file(path)
    known = tuple(rows(file_format, provider))
    own = file.contract.precision
    if any(_fits(a, wanted, (own,)) for row in known for a in row.arithmetic):
        return _open_first(lambda _: file, {own}, known, provider, wanted, pixels)
    other = next((a.file for row in known for a in row.arithmetic if a.name == wanted), own)
    if other == own:
        in_words = "" if wanted == "auto" else f" in {wanted}"
        raise UsageError(f"{path} is {PRECISIONS[own]}, which {provider} does not compute{in_words}")
    variant = _read_variant(path, file.contract, other)
    return _open_first(lambda _: variant, {other}, known, provider, wanted, pixels)


def find_released(model: str | Path | None) -> ReleasedModel | None:
    """Return the released model of a name, the default one for None, and None for a file.

    Raises
    ------
    UsageError
        If it is neither a file nor a name, but looks like a name: it names those that are installed.
    """
    if model is None:
        return default_model()
    if not isinstance(model, str | os.PathLike):
        raise UsageError(
            f"the model is given as {type(model).__name__}; expected a path, or the name of a released model"
        )
    path, known = Path(model), released_models()
    if os.path.exists(path) and not (os.path.isdir(path) and str(model) in known):
        return None
    if str(model) in known:
        return known[str(model)]
    if path.suffix or len(path.parts) != 1:
        return None
    meant = did_you_mean(path.name, known)
    raise UsageError(
        f"{model}: neither a file nor the name of a released model{meant} (installed: {', '.join(known)})"
    )


def _fits(arithmetic: Arithmetic, wanted: str, files: Collection[str]) -> bool:
    return wanted in ("auto", arithmetic.name) and arithmetic.file in files


def _open_first(
    read: Callable[[str], _File],
    files: Collection[str],
    known: Sequence[Device],
    provider: str,
    wanted: str,
    pixels: int | None,
) -> OpenModel:
    """Open the first pair of device and precision that runs here; "auto" passes over what did not pass its gate."""
    notes: list[str] = []
    failure: Exception | None = None
    for row in known:
        least = row.auto_pixels_per_core * available_cores()
        if provider == wanted == "auto" and pixels is not None and pixels < least:
            continue
        for arithmetic in row.arithmetic:
            if not _fits(arithmetic, wanted, files):
                continue
            file = read(arithmetic.file)
            passed = not arithmetic.gated or f"{row.name} {arithmetic.name}" in getattr(
                file.contract, "runtimes", ()
            )
            asked = wanted != "auto" or arithmetic.name == PRECISIONS[arithmetic.file]
            if not passed and not (asked and provider != "auto"):
                continue
            try:
                with _naming(file.path):
                    opened = _open(file, row, arithmetic)
            except DependencyError as error:
                failure = error
                continue
            except ModelError as error:
                if provider != "auto":
                    raise
                failure = error
                notes.append(f"{row.name} does not run this model ({error})")
                continue
            assert wanted in ("auto", opened.backend.arithmetic.name)
            return replace(opened, notes=(*opened.notes, *notes))
    raise failure or UsageError(
        f"{wanted} passed its gate on no device when the model was exported; name one with --provider to insist"
    )


def _variant(path: Path, contract: ModelContract, precision: str) -> Path:
    """Name the file of another precision that stands beside one."""
    plain, raw = path.name.removesuffix(path.suffix), ""
    if contract.input_dtype == "uint8" and plain.endswith(".uint8"):
        plain, raw = plain.removesuffix(".uint8"), ".uint8"
    for short in PRECISIONS.values():
        plain = plain.removesuffix(f".{short}")
    return path.with_name(plain + ("" if precision == "fp32" else f".{precision}") + raw + path.suffix)


def _read_variant(path: Path, contract: ModelContract, wanted: str) -> _File:
    """Read the file of another precision that stands beside one, and was made of the same checkpoint."""
    short = PRECISIONS[wanted]
    sibling = _variant(path, contract, short)
    if not os.path.isfile(sibling):
        raise UsageError(
            f"{path} is {PRECISIONS[contract.precision]}, and there is no {sibling}; "
            f"run isbi-export --precision {short} on its checkpoint, or leave --precision out"
        )
    _, variant = _read_file(sibling)
    same = variant.contract.provenance.get("training") == contract.provenance.get("training")
    if variant.contract.precision != wanted or not same:
        raise ModelError(f"{sibling}: is not the {short} variant of {path}; export both from one checkpoint")
    return variant


def _read_file(path: Path) -> tuple[ModelFormat, _File]:
    content = read_content(path)
    with _naming(path):
        outside = read_model_file(content)
        if outside.format == "torchscript" and path.suffix.lower() not in _NAMES_OF_SCRIPTS:
            raise ModelError(
                "this is TorchScript, which may run any code when it is opened, under another name; if you trust who "
                f"made it, name it {path.stem}.pt"
            )
        contract = contract_of(outside.metadata, outside.digest)
    return outside.format, _File(path, content, hashlib.sha256(content).hexdigest(), contract)


def _read_released(released: ReleasedFile) -> _File:
    content = read_content(released.path)
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != released.sha256:
        raise ModelError(
            f"{released.path}: sha256 is {sha256}, released was {released.sha256}; reinstall isbi-infer"
        )
    _, file = _read_file(released.path)
    return file


def _open(file: _File, device: Device, arithmetic: Arithmetic) -> OpenModel:
    backend = open_backend(file.content, device, arithmetic)
    _probe(backend, file.contract)
    backend.file = str(file.path)
    trusted = any(
        file.sha256 == known.sha256 for model in released_models().values() for known in model.files.values()
    )
    notes = [] if trusted or file.contract.trust_note is None else [file.contract.trust_note]
    if arithmetic.apart and file.contract.exact:
        notes.append(
            f"{device.name} in {arithmetic.name}: tiles may differ from the whole section by up to {arithmetic.apart:g}"
        )
    return OpenModel(file.path, file.sha256, file.contract, backend, tuple(notes))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with it."""
    try:
        yield
    except (ModelError, ResourceError) as error:
        raise type(error)(f"{path}: {error}") from error


def read_content(path: Path) -> bytes:
    """Read a model file; ModelError, which names it, where it cannot be read or is seen to be something else."""
    try:
        with _naming(path):
            check_regular(path)
        content = path.read_bytes()
    except OSError as error:
        meant = nearest_file(path) if isinstance(error, FileNotFoundError) else ""
        expected = meant or "; expected an .onnx file"
        raise ModelError(f"{path}: cannot read the model ({error.strerror}){expected}") from error
    text = content.removeprefix(codecs.BOM_UTF8).lstrip()
    for start, finding in _SNIFFED:
        if text.startswith(start):
            raise ModelError(f"{path}: this is {finding}")
    if not content:
        raise ModelError(f"{path}: the file is empty; expected an .onnx file, as isbi-export writes it")
    return content


def _probe(backend: Backend, contract: ModelContract) -> None:
    """Run a small tile, so that a model that breaks its contract fails at load and not in the night.

    It is so large that a filter of three pixels has each of its weights on pixels of the coarsest level.
    """
    inputs = [contract.input_name, *contract.statistics_inputs]
    if backend.inputs and (inputs != backend.inputs or [contract.output_name] != backend.outputs):
        raise ModelError(
            f"tensors are {backend.inputs} -> {backend.outputs}, the contract says {inputs} -> "
            f"{contract.output_name!r}"
        )
    channels = contract.input_channels
    shape = (1, 1, 3 * contract.stride, 4 * contract.stride)
    ramp = np.linspace(-2, 2, shape[2] * shape[3]).reshape(shape).repeat(channels, axis=1)
    if contract.input_dtype == "uint8":
        mean, inverse_std = (np.full((1, channels, 1, 1), value, np.float32) for value in (127.5, 1 / 64))
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
