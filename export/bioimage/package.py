"""The bioimage.io package: one zip that ilastik, deepImageJ, QuPath and bioimageio.core open."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import tifffile
import torch
import yaml

from isbi_export.bioimage.cover_image import SIDE, cover_png
from isbi_export.bioimage.description import (
    COVER,
    ONNX,
    README,
    SAMPLE_INPUT,
    SAMPLE_OUTPUT,
    TEST_INPUT,
    TEST_OUTPUT,
    TORCHSCRIPT,
    Terms,
    description,
    smallest_input,
)
from isbi_export.bioimage.readme import readme
from isbi_infer.errors import ModelError, UsageError
from isbi_infer.files import replacing
from isbi_infer.model.contract import ModelContract
from isbi_infer.model.devices import open_backend, rows
from isbi_infer.pixels.mending import normalising_section
from isbi_infer.pixels.normalise import normalise
from isbi_infer.sample import synthetic_stack
from isbi_train.networks.origins import Origin, allows_commercial_use, origins_of_contract

SUFFIX = ".bioimage.zip"
AUTHORS = ("isbi-infer",)
TOLERANCE = 1e-5
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_package(
    target: Path,
    *,
    onnx: Path,
    torchscript: Path | None,
    contract: ModelContract,
    name: str | None = None,
    licence: str | None = None,
    authors: Sequence[str] = AUTHORS,
) -> None:
    """Write a bioimage.io package, the same bytes for the same model and terms.

    Parameters
    ----------
    target : Path
        The zip, ``NAME.bioimage.zip`` by custom; replaced only when whole.
    onnx : Path
        ONNX file with float32 input and output.
    torchscript : Path or None
        TorchScript file of the same checkpoint; it must return the same probabilities.
    contract : ModelContract
        Of the ONNX file.
    name : str, optional
        Of the package; from the target's name when not given.
    licence : str, optional
        SPDX identifier for the weights; may only be left out where what they grew from has one and is not for
        commercial use, as the released model.
    authors : sequence of str
        Who answers for the package.

    Raises
    ------
    ModelError
        If a file cannot be read, takes or returns something else than float32, or the two differ by more than 1e-5.
    OutputError
        If the package cannot be written.
    UsageError
        If the licence is missing or contradicts the terms of what the weights grew from, or name, licence or authors
        are not what bioimage.io takes.
    """
    origins = origins_of_contract(contract)
    terms = package_terms(target, origins, name=name, licence=licence, authors=authors)
    if (contract.input_dtype, contract.output_dtype) != ("float32", "float32"):
        raise ModelError(
            f"{onnx}: from {contract.input_dtype} to {contract.output_dtype}, but other programs "
            "normalise by themselves, so that a bioimage.io package needs the float32 file; export with --io float32"
        )
    if contract.input_channels > 1:
        raise ModelError(
            f"{onnx}: sees {contract.neighbours} sections on either side of one, which other programs do not show it; "
            "a bioimage.io package needs a model of single sections"
        )
    weights = {ONNX: _read(onnx)} | ({} if torchscript is None else {TORCHSCRIPT: _read(torchscript)})
    section_YX, probability_YX = _example(contract, weights)
    entries = _weight_entries(weights)
    content = {
        "rdf.yaml": _yaml(description(contract, terms, entries, origins)),
        README: readme(contract, terms, origins).encode(),
        COVER: cover_png(section_YX, probability_YX),
        TEST_INPUT: _npy(section_YX),
        TEST_OUTPUT: _npy(probability_YX),
        SAMPLE_INPUT: _tiff(section_YX),
        SAMPLE_OUTPUT: _tiff(probability_YX),
        **weights,
    }
    with replacing(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for file, data in content.items():
            member = zipfile.ZipInfo(file, _EPOCH)
            member.create_system, member.external_attr = 3, 0o644 << 16
            archive.writestr(member, data)


def package_terms(
    target: Path,
    origins: Sequence[Origin],
    *,
    name: str | None = None,
    licence: str | None = None,
    authors: Sequence[str] = AUTHORS,
) -> Terms:
    """Settle a package's name, licence and authors, which can be done before the long work of an export.

    Parameters
    ----------
    target : Path
        The zip, after which the package is named when `name` is not given.
    origins : sequence of Origin
        What the weights grew from, which brings its terms along; see `isbi_train.networks.origins.origins_of`.
    name, licence, authors
        As for `write_package`.

    Returns
    -------
    Terms

    Raises
    ------
    UsageError
        If the licence is missing or contradicts the terms of an origin, or one of them is not what bioimage.io takes.
    """
    terms = Terms(
        name=_name(target) if name is None else name,
        licence=_licence(origins) if licence is None else licence,
        authors=tuple(authors),
    )
    bound = next((origin for origin in origins if origin.non_commercial), None)
    if bound and allows_commercial_use(terms.licence):
        raise UsageError(
            f"licence {terms.licence} allows commercial use, but the weights grew from {bound.named}; give --licence "
            f"{bound.licence or 'CC-BY-NC-4.0'}, or another that excludes it"
        )
    return terms


def _example(
    contract: ModelContract, weights: dict[str, bytes]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Run the network once on a whole synthetic section, and hold all weights against the result.

    Without the contract's border, which nobody who reads the package would add.
    """
    least = max(SIDE, smallest_input(contract))
    side = -(-least // contract.stride) * contract.stride
    section_YX = synthetic_stack(1, side, side)[0][0]
    image_NCYX = normalise(section_YX, normalising_section(section_YX))[None, None]
    expected_NCYX = open_backend(weights[ONNX], "cpu").run(image_NCYX)
    if TORCHSCRIPT in weights:
        found_NCYX = open_backend(weights[TORCHSCRIPT], next(rows("torchscript", "cpu"))).run(image_NCYX)
        difference = float(np.abs(found_NCYX - expected_NCYX).max())
        if not difference <= TOLERANCE:  # NaN too
            raise ModelError(
                f"the ONNX and the TorchScript file differ by {difference:.1e}, allowed are {TOLERANCE:.0e}; "
                "export both from one checkpoint. No package was written"
            )
    return section_YX, expected_NCYX[0, 0]


def _weight_entries(weights: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    def file(name: str) -> dict[str, Any]:
        return {"source": name, "sha256": hashlib.sha256(weights[name]).hexdigest()}

    opsets = onnx.load_model_from_string(weights[ONNX]).opset_import
    opset = next(entry.version for entry in opsets if entry.domain in ("", "ai.onnx"))
    entries: dict[str, dict[str, Any]] = {"onnx": {**file(ONNX), "opset_version": opset}}
    if TORCHSCRIPT in weights:
        # Both come from a checkpoint that is not in the package, but all entries except one must name a parent.
        version = torch.__version__.split("+")[0]
        entries["torchscript"] = {**file(TORCHSCRIPT), "pytorch_version": version, "parent": "onnx"}
    return entries


def _name(target: Path) -> str:
    stem = re.sub(r"[^A-Za-z0-9_+\- ()]", "-", target.name.removesuffix(SUFFIX).removesuffix(".zip"))
    return stem if len(stem) >= 5 else f"isbi-infer {stem}"


def _licence(origins: Sequence[Origin]) -> str:
    bound = {origin.licence for origin in origins if origin.non_commercial} - {""}
    if len(bound) == 1:
        return bound.pop()
    raise UsageError(
        "a package says under which licence its weights may be used; give --licence with an SPDX identifier, e.g. "
        "CC-BY-4.0, or CC-BY-NC-4.0 for weights trained on the ISBI 2012 data, which is for non-commercial software"
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot read the model ({error.strerror}); export it again") from error


def _yaml(plain: dict[str, Any]) -> bytes:
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)
    return text.encode()


def _npy(image_YX: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, image_YX[None, None].astype(np.float32))
    return buffer.getvalue()


def _tiff(image_YX: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image_YX, photometric="minisblack", metadata=None)
    return buffer.getvalue()
