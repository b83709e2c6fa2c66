"""One file on every runtime and precision of this machine that can compute it, held against the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from isbi_export.proof.gates import GATES, refusals
from isbi_export.proof.parity import Evidence, Scores, compare
from isbi_export.proof.probes import Probe
from isbi_export.proof.runners import Runner, backend_runner
from isbi_export.proof.seams import tile_error
from isbi_infer.backends.base import Arithmetic, Device
from isbi_infer.errors import DependencyError, ModelError, ResourceError
from isbi_infer.model import devices

OWN_DEVICE = "cpu"  # whose results decide whether a file is published


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeProof:
    """A file on one device in one precision.

    Attributes
    ----------
    device, precision : str
        Names of the table of devices: "openvino", "bf16".
    on_gpu : bool
        Whether a GPU computes.
    version : str or None
        Name and version of the runtime; None where it was not measured.
    evidence : Evidence or None
        What was measured; None where it was not, or the runtime failed.
    failed : tuple of str
        Why it did not pass its gate.
    not_measured : str or None
        Why it could not be measured here: the runtime, the hardware or the memory is missing.
    milliseconds : float or None
        For a section of 512 x 512 pixels; see `isbi_export.proof.timing`.
    """

    device: str
    precision: str
    on_gpu: bool = False
    version: str | None = None
    evidence: Evidence | None = None
    failed: tuple[str, ...] = ()
    not_measured: str | None = None
    milliseconds: float | None = None

    @property
    def pair(self) -> str:
        """Device and precision as a contract lists them."""
        return f"{self.device} {self.precision}"

    @property
    def verdict(self) -> str:
        """Return "passed", "failed" or "not measured"."""
        return "not measured" if self.not_measured is not None else "failed" if self.failed else "passed"

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain types."""
        plain = {
            "device": self.device,
            "precision": self.precision,
            "runtime": self.version,
            "verdict": self.verdict,
            "because": [self.not_measured] if self.not_measured is not None else list(self.failed),
            "gate": GATES[self.precision].to_plain(),
            "milliseconds_per_section": self.milliseconds,
        }
        if found := self.evidence:
            plain |= {
                "largest": found.largest,
                "mean": found.mean,
                "changed": found.changed,
                "scores": {data: asdict(scores) for data, scores in found.scores.items()},
                "score_changes": {data: asdict(change) for data, change in found.changes.items()},
                "tiles_differ_by": found.tiles,
            }
        return plain


def prove_runtimes(
    content: bytes,
    own: Evidence,
    probes: Sequence[Probe],
    reference: Mapping[str, Scores],
    tiles: Mapping[str, int] | None,
    stage: Callable[[str], None],
) -> Iterator[tuple[RuntimeProof, Runner | None]]:
    """Run a file on every row of the table of devices, in each of its precisions that is computed from such a file.

    Parameters
    ----------
    content : bytes
        The whole file.
    own : Evidence
        Of the file on the CPU, by which it was let through: that runtime is not measured again.
    probes, reference
        As for `isbi_export.proof.parity.compare`.
    tiles : mapping of str to int or None
        Stride, halo, border and channels, to hold tiles against the whole section; None where the graph is not exact.
    stage : callable
        Called with each device and precision before it is tried.

    Yields
    ------
    (RuntimeProof, callable or None)
        In the order of the table. With it what computes, for measuring times; None where nothing does.
    """
    variant = own.variant

    def measure(run: Runner) -> Evidence:
        found = compare(variant, run, probes, reference)
        return found if tiles is None else replace(found, seams={tiles["halo"]: tile_error(run, **tiles)})

    for row in devices.DEVICES:
        for arithmetic in row.arithmetic:
            if variant.file_format in row.formats and arithmetic.file == variant.precision:
                stage(f"on {row.name} in {arithmetic.name}")
                yield _proof(content, own, row, arithmetic, measure)


def _proof(
    content: bytes,
    own: Evidence,
    row: Device,
    arithmetic: Arithmetic,
    measure: Callable[[Runner], Evidence],
) -> tuple[RuntimeProof, Runner | None]:
    proof = RuntimeProof(device=row.name, precision=arithmetic.name, on_gpu=row.kind == "gpu")
    try:
        backend = devices.open_backend(content, row, arithmetic)
        proof = replace(proof, version=backend.version)
        run = backend_runner(backend, own.variant)
        is_own = (row.name, arithmetic.name) == (OWN_DEVICE, own.variant.arithmetic)
        evidence = own if is_own else measure(run)
    except (DependencyError, ResourceError) as error:
        return replace(proof, not_measured=str(error)), None
    except ModelError as error:
        return replace(proof, failed=(str(error),)), None
    failed = () if is_own else tuple(refusals(evidence, arithmetic.name, on_gpu=proof.on_gpu))
    return replace(proof, evidence=evidence, failed=failed), run
