"""The table of sections that look different."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.store import Stored

from .cells import origin


def robustness_table(stored: Stored) -> Iterable[str]:
    """Give the scores of every change, and what each costs against the sections as they are."""
    if "robustness" not in stored:
        yield "Not measured yet."
        return
    record = stored["robustness"]
    by_change = record["measured"]["by_change"]
    plain = next(iter(by_change.values()))
    yield "| sections 25-29 | V_rand | V_info | V_rand, difference | V_info, difference |"
    yield "| --- | --- | --- | --- | --- |"
    for name, scores in by_change.items():
        away = " | ".join(f"{scores[score] - plain[score]:+.4f}" for score in ("v_rand", "v_info"))
        yield f"| {name} | {scores['v_rand']:.4f} | {scores['v_info']:.4f} | {away} |"
    yield ""
    yield f"{record['settings']['precision']} model, sha256 {record['settings']['model_sha256'][:12]}; {origin(record)}"
