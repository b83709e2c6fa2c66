"""The table of models on the held-out sections of several stacks."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.store import Stored

from .cells import MISSING, origin, table


def accuracy_table(stored: Stored) -> Iterator[str]:
    """Write the scores of every model on every stack: at the best threshold, and at 0.5."""
    if "accuracy" not in stored:
        yield MISSING
        return
    record = stored["accuracy"]
    stacks = record["measured"]["stacks"]

    def rows() -> Iterator[list[str]]:
        for model, by_stack in record["measured"]["by_model"].items():
            for name, found in by_stack.items():
                where = f"{name}, sections {stacks[name]['sections']}, {stacks[name]['pixel_size_nm']:g} nm"
                yield [
                    f"`{model}`",
                    where,
                    f"{found['v_rand']:.4f} ({found['best_threshold_rand']:.1f})",
                    f"{found['v_info']:.4f} ({found['best_threshold_info']:.1f})",
                    f"{found['v_rand_at_0.5']:.4f}",
                    f"{found['v_info_at_0.5']:.4f}",
                    found["precision"],
                ]

    header = [
        "model",
        "held out",
        "V_rand (threshold)",
        "V_info (threshold)",
        "V_rand at 0.5",
        "V_info at 0.5",
        "",
    ]
    yield from table(header, rows())
    yield ""
    yield origin(record)
