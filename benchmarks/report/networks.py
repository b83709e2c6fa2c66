"""The tables of networks by width."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.layerwise import Layer, layerwise_limits
from benchmarks.limits import device_of
from benchmarks.store import Stored

from .cells import MISSING, fair, origin, share_of_limit, spread, table

_NETWORKS = ("b16", "b32", "b64", "released")
_HEADER = ("times as long, largest batch", "of the fused limit", "of the limit with separate passes")
_LARGE = 10  # from so many sections a second on, decimals are noise


def networks_table(stored: Stored, provider: str) -> Iterable[str]:
    """Write sections per second of every network and contender, by batch.

    Parameters
    ----------
    stored : mapping
        Results by name.
    provider : str
        "cpu" or "cuda".

    Yields
    ------
    str
        Lines of Markdown.
    """
    suffix = "" if provider == "cpu" else f"-{provider}"
    records = [
        stored[name] for name in (f"networks-{network}{suffix}" for network in _NETWORKS) if name in stored
    ]
    if not records:
        yield MISSING
        return
    shown = [record for record in records if fair(record)]
    if shown:
        batches = sorted({int(batch) for record in shown for batch in record["measured"]["by_batch"]})
        header = ["network", "", *(f"batch {batch}" for batch in batches), *_HEADER]
        header += ["GPU busy"] if provider != "cpu" else []
        yield from table(header, (cells for record in shown for cells in _rows(record, batches)))
        yield ""
    for record in shown:
        yield from (f"{_title(record)}: {note}.\n" for note in record["measured"]["notes"])
    for record in records:
        busy = "" if fair(record) else "measured, but on too busy a machine to be shown here: "
        yield from (f"{_title(record)}: {busy}{origin(record)}", "")


def _rows(record: dict[str, Any], batches: list[int]) -> Iterable[list[str]]:
    measured = record["measured"]
    by_batch = {int(batch): found for batch, found in measured["by_batch"].items()}
    layers = [Layer(**layer) for layer in measured["layers"]]
    on, cores = device_of(record["settings"]["provider"]), record["machine"]["cores"]
    for name, precision in measured["precisions"].items():
        rates = {
            batch: _rate(found, name) for batch, found in by_batch.items() if name in found["contenders"]
        }
        if not rates:
            reason = next(iter(by_batch.values()))["skipped"].get(name, "left out")
            yield [_title(record), name, reason]
            continue
        last, best = by_batch[max(rates)], max(rates.values())
        limit = layerwise_limits(layers, record.get("best_limits"), precision, cores, on)
        yield [
            _title(record),
            name,
            *(_number(rates[batch]) if batch in rates else "-" for batch in batches),
            spread(last["contenders"][name]["wall_ratio"]),
            *(share_of_limit(best * limit[key] if limit else None) for key in ("fused_s", "separate_s")),
            *([_busy(last)] if on == "cuda" and name == last["baseline"] else []),
        ]


def _rate(found: dict[str, Any], name: str) -> float:
    return float(found["sections"] / found["contenders"][name]["wall_median_s"])


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= _LARGE else f"{rate:.1f}"


def _busy(found: dict[str, Any]) -> str:
    return "not measured" if found["busy_share"] is None else f"{found['busy_share']:.0%}"


def _title(record: dict[str, Any]) -> str:
    network, gflop = record["settings"]["network"], record["settings"]["flop_per_section"] / 1e9
    folded = f", unshuffle {network['unshuffle']}" if network["unshuffle"] > 1 else ""
    return f"base {network['base']}, {network['depth']} levels{folded} ({gflop:.1f} GFLOP)"


def network_runtimes_table(stored: Stored) -> Iterable[str]:
    """Write what a section costs each network of the study, by runtime and precision."""
    if "network-runtimes" not in stored:
        yield MISSING
        return
    record = stored["network-runtimes"]
    measured, sections = record["measured"], record["settings"]["shape"][0]
    times = measured["contenders"]
    settings = list(dict.fromkeys(title.partition(", ")[2] for title in times))

    def cells() -> Iterable[list[str]]:
        for name, network in measured["networks"].items():
            found = (times.get(f"{name}, {setting}") for setting in settings)
            yield [
                name,
                f"{network['flop'] / 1e9:.1f}",
                *(f"{1e3 * each['wall_median_s'] / sections:.1f}" if each else "-" for each in found),
            ]

    yield from table(["network", "GFLOP", *(f"ms, {setting}" for setting in settings)], cells())
    yield ""
    yield origin(record)
