"""The description in a bioimage.io package: ``rdf.yaml``, model specification 0.5.

https://bioimage-io.github.io/spec-bioimage-io lists the fields. Readers of 0.5 take any later patch of it; the lowest
one that has all fields used here is written, so that older programs read it too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from isbi_infer.errors import UsageError
from isbi_infer.model.contract import ModelContract
from isbi_train.networks.origins import Origin

FORMAT_VERSION = "0.5.3"
README, COVER = "README.md", "cover.png"
ONNX, TORCHSCRIPT = "model.onnx", "model.pt"
TEST_INPUT, TEST_OUTPUT = "test_input.npy", "test_output.npy"
SAMPLE_INPUT, SAMPLE_OUTPUT = "sample_input.tif", "sample_output.tif"
# In the units of the image, which may be scaled to [0, 1]; the smallest that float32 readers still tell from 0.
EPSILON = 1e-12
_NAME = re.compile(r"[A-Za-z0-9_+\- ()]{5,128}")
_UNET = {
    "text": "Ronneberger, Fischer & Brox 2015, U-Net: Convolutional Networks for Biomedical Image Segmentation",
    "doi": "10.1007/978-3-319-24574-4_28",
}
_CHALLENGE = {
    "text": "Arganda-Carreras et al. 2015, Crowdsourcing the creation of image segmentation algorithms for "
    "connectomics",
    "doi": "10.3389/fnana.2015.00142",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a model file does not hold.

    Attributes
    ----------
    name : str
        5 to 128 letters, digits, spaces and ``_+-()``.
    licence : str
        SPDX identifier of the licence of the weights.
    authors : tuple of str
        Who answers for the package; no slashes.

    Raises
    ------
    UsageError
        If one of them is not what bioimage.io takes.
    """

    name: str
    licence: str
    authors: tuple[str, ...]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"package name {self.name!r}: bioimage.io takes 5 to 128 letters, digits, spaces and _+-()"
            )
        if not self.authors or any(not author.strip() or set("/\\") & set(author) for author in self.authors):
            raise UsageError(
                f"authors {list(self.authors)}: give at least one name, none empty or with a slash"
            )
        try:
            canonical = canonicalize_license_expression(self.licence)
        except InvalidLicenseExpression as error:
            raise UsageError(
                f"licence {self.licence!r} is not in the SPDX list; examples are CC-BY-4.0, CC-BY-NC-4.0 and MIT"
            ) from error
        if " " in canonical or canonical.startswith("LicenseRef-"):
            raise UsageError(f"licence {self.licence!r}: bioimage.io takes one identifier of the SPDX list")
        object.__setattr__(self, "licence", str(canonical))


def description(
    contract: ModelContract,
    terms: Terms,
    weights: Mapping[str, Mapping[str, Any]],
    origins: Sequence[Origin] = (),
) -> dict[str, Any]:
    """Describe a model to bioimage.io.

    Parameters
    ----------
    contract : ModelContract
        With float32 input and output.
    terms : Terms
        Name, licence and authors.
    weights : mapping
        Entries of the ``weights`` field by format.
    origins : sequence of Origin
        What the weights grew from, which is cited where a DOI is known.

    Returns
    -------
    dict
        The content of ``rdf.yaml``.
    """
    return {
        "type": "model",
        "format_version": FORMAT_VERSION,
        "name": terms.name,
        "description": "Membranes in electron-microscopy sections: the probability that a pixel is cell interior",
        "authors": [{"name": author} for author in terms.authors],
        "license": terms.licence,
        "cite": [_UNET, _CHALLENGE, *_cites(origins)],
        "tags": _tags(weights),
        "documentation": README,
        "covers": [COVER],
        "inputs": [_input(contract)],
        "outputs": [_output(contract)],
        "weights": {name: dict(entry) for name, entry in weights.items()},
    }


def smallest_input(contract: ModelContract) -> int:
    """Return the smallest side in pixels that leaves something when the halo is cropped from both ends."""
    return 2 * contract.halo + contract.stride


def _tags(weights: Mapping[str, Any]) -> Sequence[str]:
    tags = ["electron-microscopy", "ssTEM", "2d", "neurons", "cell-membrane", "brain", "unet"]
    tags += ["semantic-segmentation", "onnx", "fiji", "deepimagej"]
    return tags + (["torchscript", "pytorch", "ilastik"] if "torchscript" in weights else [])


def _input(contract: ModelContract) -> dict[str, Any]:
    size = {"min": smallest_input(contract), "step": contract.stride}
    statistics = {"axes": ["channel", "y", "x"], "eps": EPSILON}
    return {
        "id": contract.input_name,
        "description": "sections, grey values as stored",
        "axes": [
            *_batch_and_channel("grey"),
            *({"type": "space", "id": axis, "size": dict(size), **_scale(contract)} for axis in "yx"),
        ],
        "data": {"type": "float32"},
        "preprocessing": [
            {"id": "zero_mean_unit_variance", "kwargs": statistics},
            {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
        ],
        "test_tensor": {"source": TEST_INPUT},
        "sample_tensor": {"source": SAMPLE_INPUT},
    }


def _output(contract: ModelContract) -> dict[str, Any]:
    def axis(name: str) -> dict[str, Any]:
        size = {"tensor_id": contract.input_name, "axis_id": name}
        halo = {"halo": contract.halo} if contract.halo else {}
        return {"type": "space", "id": name, "size": size, **halo, **_scale(contract)}

    return {
        "id": contract.output_name,
        "description": "1 = cell interior, 0 = membrane",
        "axes": [*_batch_and_channel("cell_interior"), axis("y"), axis("x")],
        "data": {"type": "float32", "range": [0.0, 1.0]},
        "test_tensor": {"source": TEST_OUTPUT},
        "sample_tensor": {"source": SAMPLE_OUTPUT},
    }


def _batch_and_channel(channel: str) -> list[dict[str, Any]]:
    # With their ids, which the specification lets out and the preprocessing refers to.
    return [
        {"type": "batch", "id": "batch"},
        {"type": "channel", "id": "channel", "channel_names": [channel]},
    ]


def _scale(contract: ModelContract) -> dict[str, Any]:
    if contract.pixel_size_nm is None:
        return {}
    return {"unit": "nanometer", "scale": float(contract.pixel_size_nm)}


def _cites(origins: Sequence[Origin]) -> list[dict[str, str]]:
    """List what the origins name with a DOI, each once."""
    by_doi = {doi: text for origin in origins for text, doi in origin.cites}
    return [{"text": text, "doi": doi} for doi, text in by_doi.items()]
