"""Stored results: written with the machine, the versions and the load they were measured under; the newest read."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .limits import Limits, best_limits
from .machine import load_average, machine, slug, versions

RESULTS = Path(__file__).parent / "results"
SCHEMA = 1
LIMITS = "limits"  # begins the name of results that are nothing but the limits of their machine

Stored = dict[str, dict[str, Any]]


def newest(folder: Path = RESULTS, machine_slug: str = "") -> Stored:
    """Read the newest result of each name.

    Parameters
    ----------
    folder : Path
        Of the stored results.
    machine_slug : str
        Of one machine, as `machine.slug` returns it; all machines when empty.

    Returns
    -------
    dict of str to dict
        By name. Each also has its file's name as ``file``, and as ``best_limits`` the best of all limits in `folder`
        that were measured on its processor and GPU, in whatever run.
    """
    records = [_read(path) for path in sorted(folder.glob("*.json"))]
    found: Stored = {}
    for record in records:
        kept = found.get(record["name"])
        if record["file"].startswith(machine_slug) and (
            kept is None or record["measured_at"] > kept["measured_at"]
        ):
            found[record["name"]] = record
    for record in found.values():
        record["best_limits"] = _best_limits(records, record["machine"])
    return found


def _read(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record | {"file": path.name}


def _best_limits(records: list[dict[str, Any]], machine: Mapping[str, Any]) -> Limits:
    best: Limits = {}
    for device, key in (("cpu", "cpu"), ("cuda", "gpus")):
        same = [record for record in records if record["machine"].get(key) == machine.get(key)]
        measured = [record["limits"] for record in same if "limits" in record]
        measured += [record["measured"] for record in same if record["name"].partition("-")[0] == LIMITS]
        found = best_limits(measured)
        best |= {device: found[device]} if device in found else {}
    return best


def store(
    name: str,
    measured: Mapping[str, Any],
    settings: Mapping[str, Any],
    folder: Path = RESULTS,
    limits: Mapping[str, Any] | None = None,
) -> Path:
    """Write one result with the machine, the versions and the load it was measured under.

    Parameters
    ----------
    name : str
        Of the question, such as ``peers-4096``.
    measured : mapping
        The figures.
    settings : mapping
        What they were measured with.
    folder : Path
        Where to; the file is named by machine, date and `name`, and replaces one of the same day.
    limits : mapping, optional
        The machine's own, measured in the same run; see `limits.measure_limits`.

    Returns
    -------
    Path
    """
    now = datetime.datetime.now(datetime.UTC)
    record = {
        "schema": SCHEMA,
        "name": name,
        "measured_at": now.isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "load_average_after": load_average(),
        "settings": dict(settings),
        "measured": dict(measured),
    }
    if limits is not None:
        record["limits"] = dict(limits)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slug()}-{now:%Y-%m-%d}-{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path
