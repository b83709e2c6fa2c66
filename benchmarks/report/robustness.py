"""The table of sections that look different."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.store import Stored

from .cells import MISSING, origin, table

_SCORES = {"v_rand": "V_rand", "v_info": "V_info"}


def robustness_table(stored: Stored) -> Iterator[str]:
    """Write both scores of every change by model, and what each costs against the sections as they are."""
    if "robustness" not in stored:
        yield MISSING
        return
    record = stored["robustness"]
    by_model = {model: found["by_change"] for model, found in record["measured"]["by_model"].items()}
    plain = {model: next(iter(by_change.values())) for model, by_change in by_model.items()}
    yield from table(
        ["sections 25-29", *(f"`{model}`, {title}" for model in by_model for title in _SCORES.values())],
        (
            [
                name,
                *(
                    f"{by_model[model][name][score]:.4f} ({by_model[model][name][score] - plain[model][score]:+.4f})"
                    for model in by_model
                    for score in _SCORES
                ),
            ]
            for name in next(iter(by_model.values()))
        ),
    )
    yield ""
    yield "; ".join(
        f"`{model}`: {found['precision']} by {found['runtime']}, sha256 {found['model_sha256'][:12]}"
        for model, found in record["measured"]["by_model"].items()
    )
    yield ""
    yield origin(record)
