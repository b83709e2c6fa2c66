"""Released models: ONNX files with their checkpoints' sha256, listed in ``registry.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class ReleasedModel:
    """One released file.

    Attributes
    ----------
    name : str
        What users call it.
    path : Path
        The ONNX file, installed with the package.
    sha256 : str
        What the file must hash to.
    """

    name: str
    path: Path
    sha256: str


def released_models() -> dict[str, ReleasedModel]:
    """List the released models by name; the first one is the default.

    Returns
    -------
    dict of str to ReleasedModel
    """
    registry = json.loads((_FOLDER / "registry.json").read_text(encoding="utf-8"))
    return {
        entry["name"]: ReleasedModel(entry["name"], _FOLDER / entry["file"], entry["sha256"])
        for entry in registry
    }


def default_model() -> ReleasedModel:
    """Give the model that `isbi_infer.Segmenter` loads when none is named."""
    return next(iter(released_models().values()))
