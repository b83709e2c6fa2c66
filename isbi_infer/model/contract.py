"""What a model file says about itself: one JSON document, strict in both directions.

The document stands under `CONTRACT_KEY` in an ONNX file's ``metadata_props``, and under the same name in a
TorchScript file's extra files. Nothing in it has a default: a missing, unknown, doubled or ill-typed field makes the
model unusable, because a guess here would be a silent error in every pixel.

Four versions of the document are read. Schema 4 holds a digest of the graph and all its weights and a checksum of the
document itself, which are compared when the file is opened. Schema 3 says neither which threshold parts cells from
membranes nor how the training data look. Schema 2 has no digest and no checksum either, and provenance as four fields
beside the others; schema 1 says in addition neither what the network costs nor how far it is from its checkpoint. What
files of these two compute is taken on trust: released files are compared with the registered SHA-256 of the whole file,
all others carry `ModelContract.trust_note`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from isbi_infer.backends.base import CONTRACT_KEY
from isbi_infer.errors import ModelError, UsageError
from isbi_infer.model.file import read_model_file
from isbi_infer.pixels.texture import Familiar

__all__ = [
    "CONTRACT_KEY",
    "NORMALISATIONS",
    "PRECISIONS",
    "ROBUST",
    "SCHEMA",
    "ZSCORE",
    "ModelContract",
    "Normalisation",
    "contract_of",
    "parse_contract",
    "read_contract",
]

SCHEMA = 4
PRECISIONS = {"float32": "fp32", "float16": "fp16", "int8": "int8"}  # of files, and what users call them
Normalisation = Literal["section-zscore", "section-robust"]
NORMALISATIONS: tuple[str, ...] = get_args(Normalisation)
ZSCORE: Normalisation = "section-zscore"
ROBUST: Normalisation = "section-robust"

_WITH_DIGEST = 3  # the first schema that has one, and a checksum
_PROVENANCE = ("parity", "training", "scores", "code_version")  # fields of schemas 1 and 2
_SINCE_4: dict[str, Any] = {"threshold": None, "familiar": None}  # and what older ones mean
# What schema 1 does not say. Memory is planned with the activations of a wide network, so that tiles get small.
_SCHEMA_1: dict[str, Any] = {
    "statistics_inputs": [],
    "flops_per_pixel": 0.0,
    "activation_bytes_per_pixel": 1024.0,
    "parity": {},
}
_MOST_PIXELS = 2**14
_MOST_CHANNELS = 255
_AGAIN = "export the model again"
_DIGEST = re.compile("[0-9a-f]{64}")
_RUNTIME = re.compile("[a-z][a-z0-9_-]* [a-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelContract:
    """A model's promises about its input, its output and its tiling.

    Attributes
    ----------
    input_name, output_name : str
        Tensors of the graph, both of shape (N, channels, Y, X).
    input_dtype : {"float32", "uint8"}
        "float32" takes normalised grey values, "uint8" grey values as stored, which the graph normalises.
    output_dtype : {"float32", "uint8"}
        "float32" returns probabilities p in [0, 1], "uint8" returns round(255 p).
    statistics_inputs : tuple of str
        Where the graph normalises: its inputs for each section's mean and inverse standard deviation, both float32 of
        shape (N, channels, 1, 1). Empty otherwise.
    input_channels : int
        1, or with the sections that the network sees on either side of the one in the middle 3, 5 and so on; a stack
        is mirrored at its ends.
    output_channels : int
        1.
    stride : int
        What tile origins and sizes must be multiples of, in pixels; computed from the network.
    halo : int
        Pixels of context per side that make interior pixels independent of the tile, a multiple of `stride`; computed
        from the network.
    border : int
        Mirrored pixels around the image that the model was validated with.
    halo_error : mapping of str to float
        Largest error of a probability with a smaller halo, by its pixels ("0", "16" ...), measured on the synthetic
        sample when the model was exported; for `halo` itself it is 0 on the CPU.
    exact : bool
        True when the graph has no global operation, so that tiles evaluate the whole-image result.
    not_exact_because : tuple of str
        Why not, where it is not; empty otherwise.
    flops_per_pixel : float
        Floating-point operations of the network per input pixel; 0 where the contract is too old to say.
    activation_bytes_per_pixel : float
        Most bytes of float32 tensors alive at once per input pixel, computed from the graph.
    normalisation : {"section-zscore", "section-robust"}
        Subtract the section's mean, divide by its standard deviation: of all pixels when a "section-zscore" model was
        trained, of its tissue alone (`isbi_infer.pixels.statistics`) for "section-robust". Both are run with those of
        the tissue, which are the same to the last bit for a section without canvas and hot pixels.
    polarity : {"cell"}
        An output of 1 means cell interior, 0 means membrane.
    pixel_size_nm : float or None
        Side of a pixel in the training data, in nanometres.
    threshold : float or None
        Probability above which a pixel counts as cell where segments are made, in (0, 1): the best of the challenge's
        on held-out sections. None where it is not known.
    familiar : mapping or None
        How the training data look, as `isbi_infer.pixels.texture.Familiar` reads it; None where it is not known.
    precision : {"float32", "float16", "int8"}
        Of the weights and the arithmetic.
    digest : str or None
        SHA-256 of the graph and all its weights, as `isbi_infer.model.file.read_model_file` computes it. None before a
        file is written, and where the contract is too old to say.
    runtimes : tuple of str
        Devices and precisions that passed their gate with this very graph when it was exported, such as
        "openvino bf16": names of `isbi_infer.model.devices`, each pair once. What is not listed failed, or was not
        measured: ``isbi-export`` measures what the exporting machine has. Empty where the contract is too old to say.
    provenance : mapping
        Where the model comes from, which no run depends on. ``isbi-export`` writes ``parity`` (how far this file is
        from its checkpoint: ``largest`` difference of a probability, ``changed`` fraction of pixels that change class
        at 0.5, and what else its gate looked at), ``training`` (``data_sha256``, ``sections``, ``checkpoint_sha256``,
        ``network``, ``epochs``; ``init_sha256`` and ``teaching_sha256`` where there was any; ``origins``, the models
        and data under whose terms the weights come: ``name``, ``licence``, ``terms``, ``citation``), ``scores`` (on
        sections held out from training: ``sections``, ``v_rand_thin``, ``v_info_thin``, ``loss``) and
        ``code_version``.
    """

    input_name: str
    input_dtype: Literal["float32", "uint8"]
    input_channels: int
    output_name: str
    output_dtype: Literal["float32", "uint8"]
    output_channels: int
    statistics_inputs: tuple[str, ...]
    stride: int
    halo: int
    border: int
    halo_error: Mapping[str, Any]
    exact: bool
    not_exact_because: tuple[str, ...]
    flops_per_pixel: float
    activation_bytes_per_pixel: float
    normalisation: Normalisation
    polarity: Literal["cell"]
    pixel_size_nm: float | None
    threshold: float | None
    familiar: Mapping[str, Any] | None
    precision: Literal["float32", "float16", "int8"]
    digest: str | None
    runtimes: tuple[str, ...]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name in ("not_exact_because", "statistics_inputs", "runtimes"):
            if isinstance(value := getattr(self, name), list):  # as it comes from JSON
                object.__setattr__(self, name, tuple(value))
        for name, annotation in _annotations().items():
            _check_value(name, getattr(self, name), annotation)
        _check(
            self.exact == (not self.not_exact_because), "exact and not_exact_because contradict each other"
        )
        _check(
            len(self.statistics_inputs) == (2 if self.input_dtype == "uint8" else 0),
            f"{self.input_dtype} input with statistics inputs {list(self.statistics_inputs)}",
        )
        _check(self.output_channels == 1, "the output must have one channel")
        _check(
            self.input_channels % 2 == 1 and 1 <= self.input_channels <= _MOST_CHANNELS,
            f"{self.input_channels} input channels; expected 1, or an odd number up to {_MOST_CHANNELS}",
        )
        _check(self.stride >= 1, f"stride {self.stride} is below 1")
        _check(self.halo >= 0, f"halo {self.halo} is negative")
        _check(self.halo % self.stride == 0, f"halo {self.halo} is not a multiple of stride {self.stride}")
        _check(self.border >= 0, f"border {self.border} is negative")
        for name in ("stride", "halo", "border"):
            pixels = getattr(self, name)
            _check(pixels <= _MOST_PIXELS, f"{name} {pixels} is beyond any network, at most {_MOST_PIXELS}")
        for name in ("flops_per_pixel", "activation_bytes_per_pixel"):
            _check(getattr(self, name) >= 0, f"{name} is negative")
        _check(self.pixel_size_nm is None or self.pixel_size_nm > 0, "pixel size is not positive")
        _check(
            self.threshold is None or 0 < self.threshold < 1, f"threshold {self.threshold} is not within 0..1"
        )
        if self.familiar is not None:
            try:
                Familiar.from_plain(self.familiar)
            except ValueError as error:
                _check(False, f"familiar: {error}")
        _check(
            self.digest is None or _DIGEST.fullmatch(self.digest) is not None,
            f"digest {self.digest!r} is no SHA-256 in hexadecimal",
        )
        for pair in self.runtimes:
            _check(
                _RUNTIME.fullmatch(pair) is not None,
                f"runtime {pair!r} is no device and precision, such as 'openvino bf16'",
            )
        _check(
            len(set(self.runtimes)) == len(self.runtimes), f"runtimes {list(self.runtimes)} hold one twice"
        )

    @property
    def neighbours(self) -> int:
        """How many sections on either side of one the network sees."""
        return self.input_channels // 2

    @property
    def trust_note(self) -> str | None:
        """What could not be checked when the contract's file was opened; None where everything was."""
        if self.digest is not None:
            return None
        return (
            "the model's contract is of an older version and has no digest of the weights, so damaged weights would "
            "not be noticed; export the model again with isbi-export"
        )

    def to_json(self) -> str:
        """Return the document in the newest schema, the same bytes for the same contract."""
        return _canonical({"schema": SCHEMA, "checksum": self._checksum(), **asdict(self)})

    def _checksum(self, schema: int = SCHEMA) -> str:
        plain = {name: value for name, value in asdict(self).items() if name in _fields_of(schema)}
        return hashlib.sha256(_canonical({"schema": schema, **plain}).encode()).hexdigest()


def read_contract(content: bytes) -> ModelContract:
    """Read the contract of a whole ONNX or TorchScript file, and check that it belongs to its graph and weights.

    Parameters
    ----------
    content : bytes
        The whole file, as ``Path.read_bytes`` returns it.

    Returns
    -------
    ModelContract

    Raises
    ------
    ModelError
        If the file is neither, has no contract, or either of them is damaged.
    UsageError
        If it is given as something other than bytes, such as its path.
    """
    if not isinstance(content, bytes):
        raise UsageError(
            f"a contract is read from the bytes of a model file, found {type(content).__name__}; "
            "pass Path(FILE).read_bytes()"
        )
    file = read_model_file(content)
    return contract_of(file.metadata, file.digest)


def contract_of(metadata: Mapping[str, str], digest: str) -> ModelContract:
    """Find and read the contract in a model's metadata, and check that it belongs to the model.

    Parameters
    ----------
    metadata : mapping of str to str
        From `isbi_infer.model.file.read_model_file`.
    digest : str
        Of the graph and its weights, from the same place.

    Raises
    ------
    ModelError
        If there is none, it is damaged, or it was made for another graph or other weights.
    """
    if CONTRACT_KEY not in metadata:
        raise ModelError(
            f"the model carries no contract (no {CONTRACT_KEY!r} in its metadata), so halo, stride and normalisation "
            "are unknown; export it with isbi-export"
        )
    schema, contract = _parse(metadata[CONTRACT_KEY])
    _check(schema < _WITH_DIGEST or contract.digest is not None, "digest is missing")
    if contract.digest not in (None, digest):
        raise ModelError(
            "the graph or its weights differ from what the contract was made for; the file is damaged or was changed: "
            "export it again"
        )
    return contract


def parse_contract(text: str) -> ModelContract:
    """Read and check a contract by itself.

    Parameters
    ----------
    text : str
        The JSON document, of any schema up to `SCHEMA`.

    Returns
    -------
    ModelContract

    Raises
    ------
    ModelError
        If the document is no JSON object, has doubled, missing or unknown fields, invalid values, or a newer schema.
    """
    return _parse(text)[1]


def _parse(text: str) -> tuple[int, ModelContract]:
    """Return the document's schema and the contract."""
    try:
        plain = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"damaged model contract: {error}; {_AGAIN}") from error
    if not isinstance(plain, dict):
        raise ModelError(
            f"damaged model contract: expected an object, found {type(plain).__name__}; {_AGAIN}"
        )
    schema = plain.pop("schema", None)
    known = type(schema) is int and 1 <= schema <= SCHEMA
    _check(known, f"schema is {schema!r}, this program reads 1 to {SCHEMA}", "update isbi-infer")
    checksum = plain.pop("checksum", None) if schema >= _WITH_DIGEST else None
    expected = _fields_of(schema)
    missing, unknown = sorted(expected - set(plain)), sorted(set(plain) - expected)
    _check(not missing and not unknown, f"missing fields {missing}, unknown fields {unknown}")
    if schema < 3:
        plain = {**_SCHEMA_1, **plain} if schema == 1 else plain
        provenance = {name: plain.pop(name) for name in _PROVENANCE}
        _check_provenance(provenance)
        plain |= {"digest": None, "runtimes": (), "provenance": provenance}
    contract = ModelContract(**{**(_SINCE_4 if schema < SCHEMA else {}), **plain})
    _check(schema < _WITH_DIGEST or checksum == contract._checksum(schema), "its checksum is another")
    return schema, contract


def _canonical(plain: dict[str, Any]) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _fields_of(schema: int) -> set[str]:
    found = {field.name for field in fields(ModelContract)}
    if schema == SCHEMA:
        return found
    found -= set(_SINCE_4)
    if schema == _WITH_DIGEST:
        return found
    older = found - {"digest", "runtimes", "provenance"} | set(_PROVENANCE)
    return older if schema == 2 else older - set(_SCHEMA_1)


def _check_provenance(provenance: Mapping[str, Any]) -> None:
    for name, value in provenance.items():
        _check_value(name, value, str if name == "code_version" else Mapping[str, Any])


def _check(condition: bool, message: str, remedy: str = _AGAIN) -> None:
    if not condition:
        raise ModelError(f"damaged model contract: {message}; {remedy}")


@cache
def _annotations() -> dict[str, Any]:
    return get_type_hints(ModelContract)


def _check_value(name: str, value: Any, annotation: Any) -> None:
    """Hold a value against its field's annotation, which is the only place that lists what is allowed."""
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        _check(
            type(value) is str and value in choices,
            f"unknown {name} {value!r}, expected one of {choices}",
            "if a newer isbi-export wrote it, update isbi-infer",
        )
        return
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    allowed = tuple(kind for one in kinds for kind in _PYTHON_TYPES.get(one, (one,)))
    # bool is a subclass of int, and "stride": true is no stride.
    fits = isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))
    if isinstance(value, tuple):
        fits = fits and all(isinstance(item, str) for item in value)
    expected = " or ".join("None" if kind is NoneType else kind.__name__ for kind in allowed)
    _check(fits, f"{name} is {value!r}, expected {expected}")


_PYTHON_TYPES: dict[Any, tuple[type, ...]] = {
    float: (float, int),
    Mapping[str, Any]: (dict,),
    tuple[str, ...]: (tuple,),
}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate field {next(n for n in names if names.count(n) > 1)!r}")
    return plain


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")
