"""How far a file may be from its checkpoint: what is over a limit is not published."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from isbi_export.proof.parity import Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Limits of one precision.

    Attributes
    ----------
    largest : float
        Largest difference of a probability on any input.
    changed : float
        Fraction of the pixels of tissue whose class at 0.5 differs.
    v_rand : float or None
        Change of V_rand, either way: on the user's labelled sections where there are some, else on synthetic ones.
    """

    largest: float = inf
    changed: float = 1.0
    v_rand: float | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return the limits that there are."""
        return {name: limit for name, limit in asdict(self).items() if limit not in (None, inf)}


# float32 is the same arithmetic in another order. Eight bits move single probabilities by 0.1, on noise by more, and
# what counts is whether segments are split or merged.
GATES = {
    "float32": Gate(largest=1e-5),
    "float16": Gate(largest=2e-2, changed=1e-3),
    "int8": Gate(changed=1e-2, v_rand=2e-3),
}
_HALF_A_BYTE = 0.5 / 255
_TORCH_TILES = 1e-5  # torch convolves small images by other means than large ones on some processors


def refusals(evidence: Evidence) -> list[str]:
    """Return the reasons why a file is not published.

    Parameters
    ----------
    evidence : Evidence
        What was measured.

    Returns
    -------
    list of str
        Empty where it may be.
    """
    variant, gate = evidence.variant, GATES[evidence.variant.precision]
    reasons = []
    # Every comparison is such that a NaN is refused.
    largest = gate.largest + (_HALF_A_BYTE if variant.io == "uint8" else 0)
    if not evidence.largest <= largest:
        reasons.append(f"differs from the checkpoint by {evidence.largest:.2e}, allowed are {largest:.2g}")
    if not evidence.changed <= gate.changed:
        reasons.append(
            f"changes the class of {evidence.changed:.2%} of pixels, allowed are {gate.changed:.1%}"
        )
    if gate.v_rand is not None and not abs(evidence.v_rand_change) <= gate.v_rand:
        reasons.append(f"changes V_rand by {evidence.v_rand_change:+.4f}, allowed are {gate.v_rand:g}")
    if evidence.misencoded:
        reasons.append(f"rounds {evidence.misencoded} pixels otherwise than isbi-infer")
    tiles = 0.0 if variant.file_format == "onnx" else _TORCH_TILES
    if evidence.tiles is not None and not evidence.tiles <= tiles:
        reasons.append(f"gives tiles that differ from the whole section by {evidence.tiles:.2e}")
    return reasons
