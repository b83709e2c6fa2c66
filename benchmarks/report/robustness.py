"""The table of sections that look different."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.store import Stored

from .cells import MISSING, origin, table

_SCORES = ("v_rand", "v_info")


def robustness_table(stored: Stored) -> Iterator[str]:
    """Write the scores of every change, and what each costs against the sections as they are."""
    if "robustness" not in stored:
        yield MISSING
        return
    record = stored["robustness"]
    by_change = record["measured"]["by_change"]
    plain = next(iter(by_change.values()))
    yield from table(
        ["sections 25-29", "V_rand", "V_info", "V_rand, difference", "V_info, difference"],
        (
            [
                name,
                *(f"{scores[score]:.4f}" for score in _SCORES),
                *(f"{scores[score] - plain[score]:+.4f}" for score in _SCORES),
            ]
            for name, scores in by_change.items()
        ),
    )
    yield ""
    yield f"{record['settings']['precision']} model, sha256 {record['settings']['model_sha256'][:12]}; {origin(record)}"
