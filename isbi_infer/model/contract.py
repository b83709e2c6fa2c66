"""What a model file says about itself: one JSON document, strict in both directions.

The document stands under `CONTRACT_KEY` in an ONNX file's ``metadata_props``, and under the same name in a
TorchScript file's extra files. Nothing in it has a default: a missing, unknown, doubled or ill-typed field makes the
model unusable, because a guess here would be a silent error in every pixel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from isbi_infer.backends.base import CONTRACT_KEY
from isbi_infer.errors import ModelError

__all__ = ["CONTRACT_KEY", "PRECISIONS", "SCHEMA", "ModelContract", "contract_of", "parse_contract"]

SCHEMA = 2
PRECISIONS = {"float32": "fp32", "float16": "fp16", "int8": "int8"}  # of files, and what users call them


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelContract:
    """A model's promises about its input, its output and its tiling.

    Attributes
    ----------
    schema : int
        Version of this document; other versions are refused.
    input_name, output_name : str
        Tensors of the graph, both of shape (N, channels, Y, X).
    input_dtype : {"float32", "uint8"}
        "float32" takes normalised grey values, "uint8" grey values as stored, which the graph normalises.
    output_dtype : {"float32", "uint8"}
        "float32" gives probabilities p in [0, 1], "uint8" gives round(255 p).
    statistics_inputs : tuple of str
        Where the graph normalises: its inputs for each section's mean and inverse standard deviation, both float32 of
        shape (N, 1, 1, 1). Empty otherwise.
    input_channels, output_channels : int
        1 each.
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
    flops_per_pixel, activation_bytes_per_pixel : float
        Of the network in float32, read off its graph; see `isbi_export.graph.analysis.analyse.GraphAnalysis`.
    normalisation : {"section-zscore"}
        Subtract the section's mean, divide by its standard deviation.
    polarity : {"cell"}
        An output of 1 means cell interior, 0 means membrane.
    pixel_size_nm : float or None
        Side of a pixel in the training data.
    precision : {"float32", "float16", "int8"}
        Of the weights and the arithmetic.
    parity : mapping
        How far this file is from its checkpoint, as measured when it was exported: ``largest`` (difference of a
        probability), ``changed`` (fraction of pixels that change class at 0.5), and what else its gate looked at.
    training : mapping
        Provenance: ``data_sha256`` (of images and labels), ``sections``, ``checkpoint_sha256``, ``network``;
        where there was any, ``init_sha256`` (of the weights it began with) and ``teaching_sha256`` (of what taught it).
    scores : mapping
        On the sections held out from training: ``sections``, ``v_rand_thin``, ``v_info_thin``, ``loss``.
    code_version : str
        Version of this project that exported the model.
    """

    schema: int
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
    normalisation: Literal["section-zscore"]
    polarity: Literal["cell"]
    pixel_size_nm: float | None
    precision: Literal["float32", "float16", "int8"]
    parity: Mapping[str, Any]
    training: Mapping[str, Any]
    scores: Mapping[str, Any]
    code_version: str

    def __post_init__(self) -> None:
        for name in ("not_exact_because", "statistics_inputs"):
            if isinstance(value := getattr(self, name), list):  # as JSON gives it
                object.__setattr__(self, name, tuple(value))
        _check_types(self)
        _check(
            self.exact == (not self.not_exact_because), "exact and not_exact_because contradict each other"
        )
        _check(
            self.schema == SCHEMA, f"schema is {self.schema}, this program reads {SCHEMA}; update isbi-infer"
        )
        _check(self.input_dtype in ("float32", "uint8"), f"unknown input dtype {self.input_dtype!r}")
        _check(self.output_dtype in ("float32", "uint8"), f"unknown output dtype {self.output_dtype!r}")
        _check(
            len(self.statistics_inputs) == (2 if self.input_dtype == "uint8" else 0),
            f"{self.input_dtype} input with statistics inputs {list(self.statistics_inputs)}",
        )
        _check(self.input_channels == self.output_channels == 1, "input and output must have one channel")
        _check(self.stride >= 1, f"stride {self.stride} is below 1")
        _check(self.halo >= 0, f"halo {self.halo} is negative")
        _check(self.halo % self.stride == 0, f"halo {self.halo} is not a multiple of stride {self.stride}")
        _check(self.border >= 0, f"border {self.border} is negative")
        for name in ("flops_per_pixel", "activation_bytes_per_pixel"):
            _check(getattr(self, name) >= 0, f"{name} is negative")
        _check(self.normalisation == "section-zscore", f"unknown normalisation {self.normalisation!r}")
        _check(self.polarity == "cell", f"unknown polarity {self.polarity!r}")
        _check(self.precision in PRECISIONS, f"unknown precision {self.precision!r}")
        _check(self.pixel_size_nm is None or self.pixel_size_nm > 0, "pixel size is not positive")

    def to_json(self) -> str:
        """Give the document, the same bytes for the same contract."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse_contract(text: str) -> ModelContract:
    """Read and check a contract.

    Parameters
    ----------
    text : str
        The JSON document.

    Returns
    -------
    ModelContract

    Raises
    ------
    ModelError
        If the document is no JSON object, has doubled, missing or unknown fields, values of the wrong type or
        meaning, or another schema version.
    """
    try:
        plain = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"damaged model contract: {error}") from error
    if not isinstance(plain, dict):
        raise ModelError(f"damaged model contract: expected an object, found {type(plain).__name__}")
    _check(plain.get("schema") == SCHEMA, f"schema is {plain.get('schema')!r}, this program reads {SCHEMA}")
    expected = {field.name for field in fields(ModelContract)}
    missing, unknown = sorted(expected - set(plain)), sorted(set(plain) - expected)
    _check(not missing and not unknown, f"missing fields {missing}, unknown fields {unknown}")
    return ModelContract(**plain)


def contract_of(metadata: Mapping[str, str], digest: str) -> ModelContract:
    """Find and read the contract in a model's metadata.

    Parameters
    ----------
    metadata : mapping of str to str
        From `isbi_infer.model.file.read_model_file`.
    digest : str
        Of the graph and its weights, from the same place.

    Raises
    ------
    ModelError
        If there is none, or it is damaged.
    """
    if CONTRACT_KEY not in metadata:
        raise ModelError(
            f"the model carries no contract (no {CONTRACT_KEY!r} in its metadata), so halo, stride and normalisation "
            "are unknown; export it with isbi-export"
        )
    return parse_contract(metadata[CONTRACT_KEY])


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ModelError(f"damaged model contract: {message}")


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "float": (float, int),
    "float | None": (float, int, type(None)),
    "Mapping[str, Any]": (dict,),
    "tuple[str, ...]": (tuple,),
}


def _check_types(contract: ModelContract) -> None:
    for field in fields(contract):
        value = getattr(contract, field.name)
        allowed = _TYPES.get(str(field.type), (str,))
        # bool is a subclass of int, and "stride": true is no stride.
        fits = isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))
        _check(fits, f"{field.name} is {value!r}, expected {field.type}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate field {next(n for n in names if names.count(n) > 1)!r}")
    return plain


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")
