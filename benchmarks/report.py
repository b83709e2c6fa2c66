"""Draw the tables of docs/performance.md from the stored results: `python benchmarks/report.py [--check]`.

What stands between ``<!-- table: NAME -->`` and ``<!-- end -->`` is replaced; nothing else is touched. The newest
result of each name is shown.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = Path(__file__).parent / "results"

Stored = dict[str, dict[str, Any]]


def newest(folder: Path = RESULTS) -> Stored:
    """Read the newest result of each name; each knows its file as ``file``."""
    found: Stored = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8")) | {"file": path.name}
        kept = found.get(record["name"])
        if kept is None or record["measured_at"] > kept["measured_at"]:
            found[record["name"]] = record
    return found


# The table of what is to be reached

Reading = tuple[str, bool]  # the figure as text, and whether it reaches the goal
Read = Callable[[dict[str, Any]], Reading]


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the table: what, how far it has to go, which stored result says so, and how to read it there."""

    what: str
    reach: str
    source: str
    read: Read | None
    missing: str = "not measured yet"


def _spread(ratio: dict[str, float], digits: int = 2) -> str:
    return "{median:.{n}f} ({q1:.{n}f} to {q3:.{n}f})".format(**ratio, n=digits)


def _at_most(limit: float, contender: str) -> Read:
    def read(record: dict[str, Any]) -> Reading:
        times = record["measured"]["contenders"][contender]
        wall, cpu = times["wall_ratio"], times["cpu_ratio"]
        text = f"{_spread(wall, 3)} wall, {_spread(cpu, 3)} CPU"
        return text, max(wall["median"], cpu["median"]) <= limit

    return read


def _as_fast(factor: float, contender: str) -> Read:
    """Read how many times as long a peer takes, which is how many times as fast this project is."""

    def read(record: dict[str, Any]) -> Reading:
        measured = record["measured"]
        if contender not in measured["contenders"]:
            return f"not measured: {measured['skipped'].get(contender, 'left out')}", False
        times = measured["contenders"][contender]
        wall, cpu = times["wall_ratio"], times["cpu_ratio"]
        return f"{_spread(wall)} wall, {_spread(cpu)} CPU", min(wall["median"], cpu["median"]) >= factor

    return read


def _outside(record: dict[str, Any]) -> Reading:
    shares = record["measured"]
    cpu, wall, system = (median(shares[key]) for key in ("cpu_share", "wall_share", "system_share"))
    text = (
        f"{cpu:.1%} of CPU time (kernel: {system:.1%} of it all); no model running in {wall:.1%} of wall time"
    )
    return text, max(cpu, wall) <= 0.03


def _tile_memory(record: dict[str, Any]) -> Reading:
    measured = record["measured"]
    figures = [entry["model_bytes_per_pixel"] for entry in measured["by_tile"].values()]
    limit = measured["limit_bytes_per_pixel"]
    return f"{min(figures):.0f} to {max(figures):.0f} bytes, limit {limit:.0f}", max(figures) <= limit


def _flat(record: dict[str, Any]) -> Reading:
    peaks = {int(n): max(entry["peak_bytes"]) for n, entry in record["measured"]["by_sections"].items()}
    text = ", ".join(f"{count:,}: {peak / 2**20:.0f} MiB" for count, peak in sorted(peaks.items()))
    return text, peaks[max(peaks)] <= 1.03 * peaks[min(peaks)]


def _file_to_file(record: dict[str, Any]) -> Reading:
    wall, cpu = median(record["measured"]["wall_s"]), median(record["measured"]["cpu_s"])
    precision = record["settings"]["precision"]
    met = precision == "int8" and wall <= 1.5
    return f"{wall:.2f} s wall, {cpu:.2f} s CPU, with the {precision} model", met


def _overhead(record: dict[str, Any]) -> Reading:
    overhead, tiles = record["settings"]["pixels_computed_per_pixel"], record["settings"]["tiles"]
    return f"{overhead:.4f} with {tiles} tiles", overhead <= 1.10


_OURS = "Segmenter"
_PEERS = "peers-4096-one-core"  # threads that wait for each other make the ratios of a busy machine too good
_MONAI = {
    "MONAI, roi 256, overlap 0.25": 1.4,
    "MONAI, roi 256, overlap 0.5": 2.5,
    "MONAI, roi 512, overlap 0.5": 3.5,
}
_FASTER = ("bioimageio.core, block 704", "bioimageio.core, block 1216", "torch eager, whole image")
_MEMORY = "8.5 * base * 4 / unshuffle^2 bytes"
GOALS = [
    Goal("whole run minus model time, 30x512x512", "at most 3 %", "outside-30x512x512", _outside),
    Goal("whole run minus model time, 4096x4096", "at most 3 %", "outside-4096", _outside),
    Goal("against raw ONNX Runtime, 30x512x512", "at most 1.03x", "raw-30x512x512", _at_most(1.03, _OURS)),
    Goal("against raw ONNX Runtime, 4096x4096", "at most 1.03x", "raw-4096", _at_most(1.03, _OURS)),
    *(
        Goal(f"4096x4096 against {name}", f"{factor}x as fast", _PEERS, _as_fast(factor, name))
        for name, factor in _MONAI.items()
    ),
    *(Goal(f"4096x4096 against {name}", "faster", _PEERS, _as_fast(1, name)) for name in _FASTER),
    Goal("CPU peak memory of the model, per tile pixel and lane", _MEMORY, "memory-tiles", _tile_memory),
    Goal("peak memory of a run, by number of sections", "flat", "memory-sections", _flat),
    Goal("pixels computed per pixel at 4096x4096, halo 96", "at most 1.10", "raw-4096", _overhead),
    Goal(
        "int8, 30x512x512 file to file, start included", "1.5 s; aim 1 s", "command-line-int8", _file_to_file
    ),
    Goal(
        "H100, base 64, fp16, uint8 to uint8",
        "1000 sections/s, GPU busy above 95 %",
        "throughput-h100",
        None,
        missing="no stored result of a CUDA GPU",
    ),
]


def reach_table(stored: Stored) -> Iterable[str]:
    """Give the table of goals."""
    yield from ("| what | reach | measured: median (quartiles) | | from |", "| --- | --- | --- | --- | --- |")
    for goal in GOALS:
        record = stored.get(goal.source)
        if record is None or goal.read is None:
            yield f"| {goal.what} | {goal.reach} | {goal.missing} | open | |"
            continue
        text, met = goal.read(record)
        yield f"| {goal.what} | {goal.reach} | {text} | {'met' if met else '**unmet**'} | {_link(record)} |"


def _link(record: dict[str, Any]) -> str:
    return f"[{record['name']}](../benchmarks/results/{record['file']})"


# The other tables

_OTHERS = 0.5  # load average beyond our own threads, up to which a comparison of waiting threads is fair


def peers_table(stored: Stored, name: str) -> Iterable[str]:
    """Give time and accuracy of every peer."""
    if name not in stored:
        yield "Not measured yet."
        return
    record = stored[name]
    measured, cores = record["measured"], record["machine"]["cores"]
    if cores > 1 and max(measured["load_average"]) > cores + _OTHERS:
        yield f"Measured, but on too busy a machine to be shown here: {_origin(record)}"
        return
    yield (
        "| | seconds (wall) | times as long (wall) | times as long (CPU) | largest difference | "
        "away from the edges | pixels that change class |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for peer, times in measured["contenders"].items():
        error = measured["differences"][peer]
        yield (
            f"| {peer} | {times['wall_median_s']:.2f} | {_spread(times['wall_ratio'])} "
            f"| {_spread(times['cpu_ratio'])} | {error['largest']:.2g} | {error['largest_inside']:.2g} "
            f"| {error['changed_class']:.3%} |"
        )
    for peer, reason in measured["skipped"].items():
        yield f"| {peer} | {reason} | | | | | |"
    yield ""
    yield _origin(record)


def memory_table(stored: Stored) -> Iterable[str]:
    """Give the memory of tiles."""
    if "memory-tiles" not in stored:
        yield "Not measured yet."
        return
    record = stored["memory-tiles"]
    yield "| tile | the model, bytes per tile pixel and lane | a whole run, likewise | peak of the whole run |"
    yield "| --- | --- | --- | --- |"
    for tile, entry in record["measured"]["by_tile"].items():
        yield (
            f"| {tile} x {tile} | {entry['model_bytes_per_pixel']:.0f} | {entry['run_bytes_per_pixel']:.0f} "
            f"| {entry['run_peak_bytes'] / 2**20:.0f} MiB |"
        )
    yield ""
    yield _origin(record)


def start_up_table(stored: Stored) -> Iterable[str]:
    """Give the times of fresh processes."""
    if "start-up" not in stored:
        yield "Not measured yet."
        return
    record = stored["start-up"]
    yield from ("| a fresh process | wall | CPU |", "| --- | --- | --- |")
    for name, times in record["measured"]["contenders"].items():
        yield f"| {name} | {times['wall_median_s']:.2f} s | {times['cpu_median_s']:.2f} s |"
    yield ""
    yield _origin(record)


def _origin(record: dict[str, Any]) -> str:
    machine, versions = record["machine"], record["versions"]
    load = record["measured"].get("load_average")
    busy = f", load average {min(load):.1f} to {max(load):.1f}" if load else ""
    cores = f"{machine['cores']} core{'s' if machine['cores'] > 1 else ''}"
    return (
        f"{machine['cpu']}, {cores}, {machine['memory_gib']} GiB{busy}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f"; {record['measured_at'][:10]}; {_link(record)}"
    )


TABLES: dict[str, Callable[[Stored], Iterable[str]]] = {
    "reach": reach_table,
    "peers-one-core": lambda stored: peers_table(stored, _PEERS),
    "peers": lambda stored: peers_table(stored, "peers-4096"),
    "memory": memory_table,
    "start-up": start_up_table,
}


def drawn(page: str, stored: Stored) -> str:
    """Give the page with its tables drawn anew."""

    def replace(match: re.Match[str]) -> str:
        table = "\n".join(TABLES[match["name"]](stored))
        return f"<!-- table: {match['name']} -->\n\n{table}\n\n<!-- end -->"

    return re.sub(r"<!-- table: (?P<name>[\w-]+) -->.*?<!-- end -->", replace, page, flags=re.DOTALL)


def main(argv: list[str] | None = None) -> int:
    """Write the page, or with --check say whether that would change it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if the page is out of date"
    )
    asked = parser.parse_args(argv)
    page = PAGE.read_text(encoding="utf-8")
    now = drawn(page, newest())
    if asked.check:
        lines = difflib.unified_diff(page.splitlines(), now.splitlines(), "stored", "drawn", lineterm="")
        sys.stdout.writelines(f"{line}\n" for line in lines)
        return int(page != now)
    PAGE.write_text(now, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
