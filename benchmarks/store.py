"""Stored results: written with the machine, the versions and the load they were measured under; the newest read."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .machine import load_average, machine, slug, versions

RESULTS = Path(__file__).parent / "results"
SCHEMA = 1

Stored = dict[str, dict[str, Any]]


def newest(folder: Path = RESULTS, machine_slug: str = "") -> Stored:
    """Read the newest result of each name, of one machine or of all; each knows its file as ``file``."""
    found: Stored = {}
    for path in sorted(folder.glob(f"{machine_slug}*.json")):
        record = json.loads(path.read_text(encoding="utf-8")) | {"file": path.name}
        kept = found.get(record["name"])
        if kept is None or record["measured_at"] > kept["measured_at"]:
            found[record["name"]] = record
    return found


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
