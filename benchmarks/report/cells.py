"""What tables are made of: spreads, and where a figure comes from."""

from __future__ import annotations

from typing import Any


def spread(ratio: dict[str, float], digits: int = 2) -> str:
    """Write a median with its quartiles."""
    return "{median:.{n}f} ({q1:.{n}f} to {q3:.{n}f})".format(**ratio, n=digits)


def link(record: dict[str, Any]) -> str:
    """Link to a stored result, from a page of docs/."""
    return f"[{record['name']}](../benchmarks/results/{record['file']})"


def origin(record: dict[str, Any]) -> str:
    """Say on what, with what and when a result was measured."""
    machine, versions = record["machine"], record["versions"]
    load = record["measured"].get("load_average")
    busy = f", load average {min(load):.1f} to {max(load):.1f}" if load else ""
    cores = f"{machine['cores']} core{'s' if machine['cores'] > 1 else ''}"
    return (
        f"{machine['cpu']}, {cores}, {machine['memory_gib']} GiB{busy}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f"; {record['measured_at'][:10]}; {link(record)}"
    )
