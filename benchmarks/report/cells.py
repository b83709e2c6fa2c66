"""What tables are made of: spreads, and where a figure comes from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.limits import device_of, fraction_of_limit


def row(cells: Iterable[str]) -> str:
    """Write a row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def spread(ratio: dict[str, float], digits: int = 2) -> str:
    """Write a median with its quartiles."""
    return "{median:.{n}f} ({q1:.{n}f} to {q3:.{n}f})".format(**ratio, n=digits)


def link(record: dict[str, Any]) -> str:
    """Link to a stored result, from a page of docs/."""
    return f"[{record['name']}](../benchmarks/results/{record['file']})"


def origin(record: dict[str, Any]) -> str:
    """Say on what, with what and when a result was measured."""
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


def of_limit(flop: float, seconds: float, record: dict[str, Any], precision: str = "fp32") -> str:
    """Write a rate in GFLOP/s and the part of its run's own limit; "-" where either is not stored.

    Parameters
    ----------
    flop : float
        Of the work; 0 where it is not known.
    seconds : float
        Wall time.
    record : dict
        The stored result; it says where that was computed, on how many cores, and what the limits were.
    precision : str
        Of the limit to compare with.
    """
    on = device_of(record["settings"].get("provider", "cpu"))
    cores = record["machine"]["cores"]
    fraction = fraction_of_limit(flop, seconds, record.get("limits"), precision, cores, on)
    return f"{flop / seconds / 1e9:.0f} ({fraction:.0%})" if flop and fraction is not None else "-"
