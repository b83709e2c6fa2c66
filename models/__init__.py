"""Released models: checkpoints and ONNX files in several precisions with their sha256, listed in ``registry.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class ReleasedFile:
    """One file.

    Attributes
    ----------
    path : Path
        Installed with the package.
    sha256 : str
        What the file must hash to.
    """

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class ReleasedModel:
    """One released network.

    Attributes
    ----------
    name : str
        What users call it.
    about : str
        What it finds, in what tissue.
    terms, licence, citation : str
        Under which its weights, and what grows from them, may be used: in words, and as an SPDX identifier; and what
        publications cite.
    card : Path
        Its model card, in Markdown.
    files : mapping of str to ReleasedFile
        Its ONNX files by precision: "float32", and those of "float16" and "int8" that passed their gates.
    checkpoint : ReleasedFile
        What they were exported from, and what fine-tuning starts from.
    """

    name: str
    about: str
    terms: str
    licence: str
    citation: str
    card: Path
    files: Mapping[str, ReleasedFile]
    checkpoint: ReleasedFile

    @property
    def path(self) -> Path:
        """The float32 file."""
        return self.files["float32"].path

    @property
    def sha256(self) -> str:
        """Hash of the float32 file."""
        return self.files["float32"].sha256


def released_models() -> dict[str, ReleasedModel]:
    """List the released models by name; the first one is the default.

    Returns
    -------
    dict of str to ReleasedModel
    """
    registry = json.loads((_FOLDER / "registry.json").read_text(encoding="utf-8"))
    return {
        entry["name"]: ReleasedModel(
            name=entry["name"],
            **{key: entry[key] for key in ("about", "terms", "licence", "citation")},
            card=_FOLDER / entry["card"],
            files={precision: _file(file) for precision, file in entry["files"].items()},
            checkpoint=_file(entry["checkpoint"]),
        )
        for entry in registry
    }


def _file(entry: Mapping[str, str]) -> ReleasedFile:
    return ReleasedFile(_FOLDER / entry["file"], entry["sha256"])


def default_model() -> ReleasedModel:
    """Give the model that `isbi_infer.Segmenter` loads when none is named."""
    return next(iter(released_models().values()))
