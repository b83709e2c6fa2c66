"""How far a file may be from its checkpoint: what is over a limit is not published, or not listed as a runtime."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from isbi_export.proof.parity import Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Limits of one precision in which a file is computed.

    Attributes
    ----------
    largest : float
        Largest difference of a probability on any input.
    changed : float
        Fraction of the pixels of tissue whose class at 0.5 differs.
    v_rand, v_info : float or None
        Change of a score, either way: on the user's labelled sections where there are some, else on synthetic ones.
    """

    largest: float = inf
    changed: float = 1.0
    v_rand: float | None = None
    v_info: float | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return the limits that there are."""
        return {name: limit for name, limit in asdict(self).items() if limit not in (None, inf)}


# float32 is the same arithmetic in another order. Eight bits move single probabilities by 0.1, on noise by more, and
# what counts is whether segments are split or merged. bfloat16 has the range of float32 and 8 bits of its 24.
GATES = {
    "fp32": Gate(largest=1e-5),
    "bf16": Gate(largest=3e-2, changed=1e-3, v_rand=1e-3, v_info=1e-3),
    "fp16": Gate(largest=2e-2, changed=1e-3),
    "int8": Gate(changed=1e-2, v_rand=2e-3),
}
_HALF_A_BYTE = 0.5 / 255
_TORCH_TILES = 1e-5  # torch convolves small images by other means than large ones on some processors


def largest_allowed(limit: float, io: str) -> float:
    """Return the largest difference that a gate allows: eight bits of output add half a step."""
    return limit + (_HALF_A_BYTE if io == "uint8" else 0)


def refusals(evidence: Evidence, arithmetic: str | None = None, *, on_gpu: bool = False) -> list[str]:
    """Return the reasons why a file is not published, or a runtime of it not listed.

    Parameters
    ----------
    evidence : Evidence
        What was measured.
    arithmetic : str, optional
        A key of `GATES`: what was computed in. The file's own precision when not given.
    on_gpu : bool
        Whether a GPU computed it, which may sum in another order for another shape of tile.

    Returns
    -------
    list of str
        Empty where it may be.
    """
    variant = evidence.variant
    gate = GATES[arithmetic or variant.arithmetic]
    reasons = []
    # Every comparison is such that a NaN is refused.
    largest = largest_allowed(gate.largest, variant.io)
    if not evidence.largest <= largest:
        reasons.append(f"differs from the checkpoint by {evidence.largest:.2e}, allowed are {largest:.2g}")
    if not evidence.changed <= gate.changed:
        reasons.append(
            f"changes the class of {evidence.changed:.2%} of pixels, allowed are {gate.changed:.1%}"
        )
    for name, change, limit in (
        ("V_rand", evidence.judged.v_rand, gate.v_rand),
        ("V_info", evidence.judged.v_info, gate.v_info),
    ):
        if limit is not None and not abs(change) <= limit:
            reasons.append(f"changes {name} by {change:+.4f}, allowed are {limit:g}")
    if evidence.misencoded:
        reasons.append(f"rounds {evidence.misencoded} pixels otherwise than isbi-infer")
    tiles = gate.largest if on_gpu else 0.0 if variant.file_format == "onnx" else _TORCH_TILES
    if evidence.tiles is not None and not evidence.tiles <= tiles:
        reasons.append(f"gives tiles that differ from the whole section by {evidence.tiles:.2e}")
    return reasons
