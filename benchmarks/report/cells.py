"""What tables are made of: rows, spreads, parts of a limit, and where a figure comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks.limits import device_of, fraction_of_limit
from benchmarks.machine import OTHERS

MISSING = "Not measured yet."
MEASURED = "isbi2012-unet-b32"  # the released model of the stored times, which was the default then
_BUSY = "Measured, but on too busy a machine to be shown here: "

Record = dict[str, Any]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Write a Markdown table; a row that is shorter than the header is filled up with empty cells."""
    yield _row(header)
    yield _row(["---"] * len(header))
    for row in rows:
        yield _row([*row, *[""] * (len(header) - len(row))])


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def spread(ratio: dict[str, float], digits: int = 2) -> str:
    """Write a median with its quartiles."""
    return "{median:.{n}f} ({q1:.{n}f} to {q3:.{n}f})".format(**ratio, n=digits)


def link(record: Record) -> str:
    """Link to a stored result, from a page of docs/."""
    return f"[{record['name']}](../benchmarks/results/{record['file']})"


def origin(record: Record) -> str:
    """Write on what, with what and when a result was measured."""
    machine, versions = record["machine"], record["versions"]
    found = record["measured"].get("load_average")
    load = [found] if isinstance(found, float) else found
    busy = f", load average {min(load):.1f} to {max(load):.1f}" if load else ""
    cores = f"{machine['cores']} core{'s' if machine['cores'] > 1 else ''}"
    return (
        f"{', '.join([*machine.get('gpus', []), machine['cpu']])}, {cores}, {machine['memory_gib']} GiB{busy}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f"; {record['measured_at'][:10]}; {link(record)}"
    )


def fair(record: Record) -> bool:
    """Return whether the machine was idle enough for threads that wait for each other; on one core none do."""
    cores = record["machine"]["cores"]
    return cores == 1 or max(record["measured"]["load_average"]) <= cores + OTHERS


def too_busy(record: Record) -> str:
    """Write what stands in place of a result that is not `fair`."""
    return _BUSY + origin(record)


def share_of_limit(fraction: float | None) -> str:
    """Write what part of a limit was reached; more than the limit is marked, since it contradicts the limit."""
    if fraction is None:
        return "-"
    percent = f"{fraction:.0%}"
    return f"{percent}, unexplained" if int(percent.rstrip("%")) > 100 else percent


def of_limit(flop: float, seconds: float, record: Record, precision: str) -> str:
    """Write the part that some work reached of the best limit that was ever measured on its processor or GPU.

    Parameters
    ----------
    flop : float
        Of the work; 0 where it is not known.
    seconds : float
        Wall time.
    record : dict
        The stored result, as `benchmarks.store.newest` returns it: it has where that was computed, on how many cores,
        and what the best limits are.
    precision : str
        Of the limit to compare with.
    """
    on = device_of(record["settings"].get("provider", "cpu"))
    cores = record["machine"]["cores"]
    fraction = fraction_of_limit(flop, seconds, record.get("best_limits"), precision, cores, on)
    return share_of_limit(fraction if flop else None)
