"""The parity report: what was exported, how far it is from its checkpoint, and what it costs, as JSON and as a page."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from isbi_export.proof.gates import GATES
from isbi_export.proof.parity import Evidence, Scores
from isbi_export.proof.runtimes import RuntimeProof
from isbi_export.variants import Variant
from isbi_infer import __version__
from isbi_infer.backends.cores import processor_name
from isbi_infer.backends.onnxruntime import import_onnxruntime
from isbi_infer.model.devices import rows
from isbi_train.evaluation.evaluate import without_nan


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """One file, published or not.

    Attributes
    ----------
    path : Path
        Where it is, or would be.
    variant : Variant
        What it is.
    refused : tuple of str
        Why it was not published; empty where it was.
    evidence : Evidence or None
        What was measured; None where it could not be run.
    runtimes : tuple of RuntimeProof
        The file on every runtime and precision; empty where it was not published or nothing but torch runs it.
    bytes, sha256 : int, str or None
        Of the file.
    milliseconds : float or None
        Processor time for a section of 512 x 512 pixels in one thread of this machine.
    """

    path: Path
    variant: Variant
    refused: tuple[str, ...] = ()
    evidence: Evidence | None = None
    runtimes: tuple[RuntimeProof, ...] = ()
    bytes: int | None = None
    sha256: str | None = None
    milliseconds: float | None = None

    @property
    def published(self) -> bool:
        """Whether it passed its gate."""
        return not self.refused

    @property
    def refusal(self) -> str:
        """One line that says why it was not published."""
        return f"{self.path}: the {self.variant} file {', '.join(self.refused)}; it was not published"

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain types, sizes in bytes and times in milliseconds."""
        plain = {
            "file": self.path.name,
            "path": str(self.path),
            **asdict(self.variant),
            "published": self.published,
            "refused": list(self.refused),
            "gate": GATES[self.variant.arithmetic].to_plain(),
            "bytes": self.bytes,
            "sha256": self.sha256,
            "milliseconds_per_section": self.milliseconds,
            "runtimes": [proof.to_plain() for proof in self.runtimes],
        }
        if found := self.evidence:
            plain |= {
                "largest": found.largest,
                "mean": found.mean,
                "changed": found.changed,
                "scores": {data: asdict(scores) for data, scores in found.scores.items()},
                "score_changes": {data: asdict(change) for data, change in found.changes.items()},
                "tiles_differ_by": found.tiles,
                "error_by_halo": {str(halo): error for halo, error in found.seams.items()},
                "misencoded": found.misencoded,
                "comparisons": [asdict(comparison) for comparison in found.comparisons],
            }
        return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All files of one export.

    Attributes
    ----------
    checkpoint, checkpoint_sha256 : str
        The name and the hash of what they were made from.
    notes : tuple of str
        What was assumed about it.
    scored_on, calibrated_on : dict or None
        Which sections of the user's were looked at, and which int8 was calibrated on.
    scores : dict of str to Scores
        Of the checkpoint itself, by the kind of sections.
    files : tuple of FileReport
        In the order asked for.
    """

    checkpoint: str
    checkpoint_sha256: str
    notes: tuple[str, ...]
    scored_on: dict[str, Any] | None
    calibrated_on: dict[str, Any] | None
    scores: dict[str, Scores]
    files: tuple[FileReport, ...]

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain types without NaN."""
        versions = {name: metadata.version(name) for name in ("torch", "onnx", "numpy")}
        plain: dict[str, Any] = without_nan(
            {
                "checkpoint": {"file": self.checkpoint, "sha256": self.checkpoint_sha256},
                "notes": list(self.notes),
                "made_by": {
                    "isbi-export": __version__,
                    **versions,
                    "onnxruntime": import_onnxruntime(next(rows("onnx", "cpu")).clashes).__version__,
                },
                "timed_on": f"{processor_name()}, one thread",
                "scored_on": self.scored_on,
                "calibrated_on": self.calibrated_on,
                "checkpoint_scores": {data: asdict(scores) for data, scores in self.scores.items()},
                "files": [file.to_plain() for file in self.files],
            }
        )
        return plain


def write_json(path: Path, report: Report) -> None:
    """Write the report for programs."""
    plain = report.to_plain()
    for file in plain["files"]:
        del file["path"]  # where it lay is no news to who moves it together with the report
    path.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write_html(path: Path, report: Report) -> None:
    """Write the report for people, as one page that needs no other file."""
    from isbi_export.report.page import page  # matplotlib takes its time

    path.write_text(page(report.to_plain()), encoding="utf-8", errors="backslashreplace")
