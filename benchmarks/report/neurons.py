"""The table of neurons in three dimensions, with and without links."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.store import Stored

from .cells import MISSING, origin, table

_PREFIX = "neurons-"


def neurons_table(stored: Stored) -> Iterator[str]:
    """Write the scores of every tissue and link."""
    records = {
        name.removeprefix(_PREFIX): stored[name] for name in sorted(stored) if name.startswith(_PREFIX)
    }
    if not records:
        yield MISSING
        return

    def rows() -> Iterator[list[str]]:
        for tissue, record in records.items():
            for link, found in record["measured"]["by_link"].items():
                yield [
                    f"{tissue}, sections {record['settings']['score']}",
                    link,
                    f"{found['error']:.3f}",
                    f"{found['splits']:.2f} + {found['mergers']:.2f}",
                    f"{found['found']} / {found['truth']}",
                    f"{found['threshold']:g}",
                ]

    header = [
        "tissue",
        "link",
        "adapted Rand error",
        "bits: splits + mergers",
        "ids: found / in the labels",
        "threshold",
    ]
    yield from table(header, rows())
    for record in records.values():
        yield ""
        yield origin(record)
