"""The table of goals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.store import Stored
from isbi_infer.model.devices import rows

from .cells import link, spread, table

Reading = tuple[str, bool]  # the figure as text, and whether it meets the goal
Read = Callable[[dict[str, Any]], Reading]


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the table: what, how far it has to go, the stored result that tells, and how to read it there."""

    what: str
    goal: str
    source: str
    read: Read | None
    missing: str = "not measured yet"


def _at_most(limit: float, contender: str) -> Read:
    def read(record: dict[str, Any]) -> Reading:
        times = record["measured"]["contenders"][contender]
        wall, cpu = times["wall_ratio"], times["cpu_ratio"]
        text = f"{spread(wall, 3)} wall, {spread(cpu, 3)} CPU"
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
        return f"{spread(wall)} wall, {spread(cpu)} CPU", min(wall["median"], cpu["median"]) >= factor

    return read


def _no_slower(limit: float, contender: str) -> Read:
    """Read how many times as long this project takes as a contender that is compared to it."""

    def read(record: dict[str, Any]) -> Reading:
        measured = record["measured"]
        if contender not in measured["contenders"]:
            return f"not measured: {measured['skipped'].get(contender, 'left out')}", False
        times = measured["contenders"][contender]
        wall, cpu = (_inverse(times[key]) for key in ("wall_ratio", "cpu_ratio"))
        settings = record["settings"]
        text = f"{spread(wall, 3)} wall, {spread(cpu, 3)} CPU, {settings['precision']}"
        return text, wall["median"] <= limit

    return read


def _inverse(ratio: dict[str, float]) -> dict[str, float]:
    return {"q1": 1 / ratio["q3"], "median": 1 / ratio["median"], "q3": 1 / ratio["q1"]}


def _second_start(record: dict[str, Any]) -> Reading:
    times = record["measured"]["contenders"][_OURS_BY_DEFAULT]
    return f"{times['wall_median_s']:.2f} s wall, {times['cpu_median_s']:.2f} s CPU", times[
        "wall_median_s"
    ] <= 1.0


def _precision_memory(record: dict[str, Any]) -> Reading:
    """Read bytes per byte of live float32 activations, the unit of the table of devices."""
    device = next(rows("onnx", record["settings"]["provider"]))
    assumed = {arithmetic.name: arithmetic.memory for arithmetic in device.arithmetic}
    found = {
        name: max(at["of_activations"] for at in tiles.values())
        for name, tiles in record["measured"]["by_precision"].items()
    }
    text = ", ".join(f"{name} {factor:.2f} (planned {assumed[name]:.2f})" for name, factor in found.items())
    return text, all(factor <= assumed[name] for name, factor in found.items())


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


def _on_gpu(record: dict[str, Any]) -> Reading:
    found = record["measured"]["by_batch"].values()
    rates = {
        each["sections"] / each["contenders"][_FP16]["wall_median_s"]: each["busy_share"] for each in found
    }
    rate = max(rates)
    busy = rates[rate]
    device = ", ".join(record["machine"].get("gpus", ["an unknown GPU"]))
    text = (
        f"{rate:,.0f} sections/s on {device}, busy {'not measured' if busy is None else format(busy, '.0%')}"
    )
    return text, "H100" in device and rate >= 1000 and (busy or 0) > 0.95


_FP16 = "isbi-infer fp16"
_OURS = "Segmenter"
PEERS = "peers-4096-one-core"  # threads that wait for each other make the ratios of a busy machine too good
_MONAI = {
    "MONAI, roi 256, overlap 0.25": 1.4,
    "MONAI, roi 256, overlap 0.5": 2.5,
    "MONAI, roi 512, overlap 0.5": 3.5,
}
_OURS_BY_DEFAULT = "isbi-infer"
_INT8 = "isbi-infer, int8 on ONNX Runtime"
_BY_HAND = "OpenVINO by hand"
DEFAULT, _SECTION, _START = "default-30x512x512", "default-4096", "second-start"
_PEERS_OF_DEFAULT = {
    "MONAI, roi 256, overlap 0.25": 3,
    "MONAI, roi 256, overlap 0.5": 6,
    "torch bf16, whole image": 1.5,
}
_FASTER = ("bioimageio.core, block 704", "bioimageio.core, block 1216", "torch eager, whole image")
_MEMORY = "8.5 * base * 4 / unshuffle^2 bytes"
GOALS = [
    *(
        Goal(
            f"default settings, {shape}, against int8 on ONNX Runtime", "2x as fast", name, _as_fast(2, _INT8)
        )
        for shape, name in (("30x512x512", DEFAULT), ("4096x4096", _SECTION))
    ),
    Goal(
        "default settings, 30x512x512, against OpenVINO by hand in its throughput mode",
        "at most 1.05x",
        DEFAULT,
        _no_slower(1.05, _BY_HAND),
    ),
    Goal(
        "default settings, 4096x4096, against OpenVINO by hand on as many pixels in sections of 512x512",
        "at most 1.10x",
        _SECTION,
        _no_slower(1.10, _BY_HAND),
    ),
    *(
        Goal(f"default settings, {shape}, against {peer}", f"{factor}x as fast", name, _as_fast(factor, peer))
        for shape, name in (("30x512x512", DEFAULT), ("4096x4096", _SECTION))
        for peer, factor in _PEERS_OF_DEFAULT.items()
    ),
    Goal("`isbi-infer` on 30x512x512, whole process, second start", "1.0 s", _START, _second_start),
    Goal(
        "OpenVINO's memory, bytes per byte of live float32 activations",
        "as planned at most",
        "memory-precisions-openvino",
        _precision_memory,
    ),
    Goal("whole run minus model time, 30x512x512", "at most 3 %", "outside-30x512x512", _outside),
    Goal("whole run minus model time, 4096x4096", "at most 3 %", "outside-4096", _outside),
    Goal("against raw ONNX Runtime, 30x512x512", "at most 1.03x", "raw-30x512x512", _at_most(1.03, _OURS)),
    Goal("against raw ONNX Runtime, 4096x4096", "at most 1.03x", "raw-4096", _at_most(1.03, _OURS)),
    *(
        Goal(f"4096x4096 against {name}", f"{factor}x as fast", PEERS, _as_fast(factor, name))
        for name, factor in _MONAI.items()
    ),
    *(Goal(f"4096x4096 against {name}", "faster", PEERS, _as_fast(1, name)) for name in _FASTER),
    Goal("CPU peak memory of the model, per tile pixel and worker", _MEMORY, "memory-tiles", _tile_memory),
    Goal("peak memory of a run, by number of sections", "flat", "memory-sections", _flat),
    Goal("pixels computed per pixel at 4096x4096, halo 96", "at most 1.10", "raw-4096", _overhead),
    Goal(
        "int8, 30x512x512 file to file, start included", "1.5 s; aim 1 s", "command-line-int8", _file_to_file
    ),
    Goal(
        "H100, base 64, fp16, uint8 to uint8",
        "1000 sections/s, GPU busy above 95 %",
        "networks-b64-cuda",
        _on_gpu,
        missing="no stored result of a CUDA GPU",
    ),
]


def goals_table(stored: Stored) -> Iterator[str]:
    """Write the table of goals."""
    return table(
        ["what", "goal", "measured: median (quartiles)", "", "from"], (_cells(goal, stored) for goal in GOALS)
    )


def _cells(goal: Goal, stored: Stored) -> list[str]:
    record = stored.get(goal.source)
    if record is None or goal.read is None:
        return [goal.what, goal.goal, goal.missing, "open", ""]
    text, met = goal.read(record)
    return [goal.what, goal.goal, text, "met" if met else "**unmet**", link(record)]
