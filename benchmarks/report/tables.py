"""The tables of peers, memory and start-up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.machine import OTHERS
from benchmarks.store import Stored

from .cells import of_limit, origin, row, spread


def fair(record: dict[str, Any]) -> bool:
    """Say whether the machine was idle enough for threads that wait for each other; on one core none do."""
    cores = record["machine"]["cores"]
    return cores == 1 or max(record["measured"]["load_average"]) <= cores + OTHERS


def limits_table(stored: Stored) -> Iterable[str]:
    """Give the machine's own limits."""
    if "limits" not in stored:
        yield "Not measured yet."
        return
    record = stored["limits"]
    if record["measured"]["busy"]:
        yield f"Measured, but on too busy a machine to be shown here: {origin(record)}"
        return
    cpu, cuda = record["measured"]["cpu"], record["measured"].get("cuda")
    counts = list(cpu["copy_gb_s"])
    yield "| limit | " + " | ".join("1 core" if n == "1" else f"{n} cores" for n in counts) + " | how |"
    yield "| --- |" + " --- |" * (len(counts) + 1)
    for precision in ("fp32", "bf16", "int8"):
        if precision in cpu["missing"]:
            yield f"| {precision} product |" + " - |" * len(counts) + f" {cpu['missing'][precision]} |"
            continue
        cells = " | ".join(f"{cpu['gflop_s'][precision][n]:.0f} GFLOP/s" for n in counts)
        yield f"| {precision} product | {cells} | {' / '.join(dict.fromkeys(cpu['how'][precision].values()))} |"
    cells = " | ".join(f"{cpu['copy_gb_s'][n]:.1f} GB/s" for n in counts)
    yield f"| copy, read + written | {cells} | NumPy |"
    yield ""
    if cuda and cuda["gflop_s"]:
        products = ", ".join(f"{name} {rate / 1e3:.0f} TFLOP/s" for name, rate in cuda["gflop_s"].items())
        yield (
            f"{cuda['name']}: {products}; copy {cuda['copy_gb_s']:.0f} GB/s, to the device "
            f"{cuda['to_device_gb_s']:.1f} GB/s, from it {cuda['from_device_gb_s']:.1f} GB/s (pinned)."
        )
        yield ""
    elif cuda:
        yield f"CUDA: {cuda['missing']['cuda']}."
        yield ""
    yield origin(record)


_PLAIN = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def peers_table(stored: Stored, name: str) -> Iterable[str]:
    """Give time, use of the machine and accuracy of every peer."""
    if name not in stored:
        yield "Not measured yet."
        return
    record = stored[name]
    measured, settings = record["measured"], record["settings"]
    if not fair(record):
        yield f"Measured, but on too busy a machine to be shown here: {origin(record)}"
        return
    computes = measured.get("computes", {})
    header = [
        "",
        *(["computes", "precision"] if computes else []),
        "seconds (wall)",
        "times as long (wall)",
        "times as long (CPU)",
        "GFLOP/s (of the limit)",
        "largest difference",
        "away from the edges",
        "pixels that change class",
    ]
    yield from (row(header), row(["---"] * len(header)))
    for peer, times in measured["contenders"].items():
        error, work = measured["differences"][peer], computes.get(peer, {})
        precision = work.get("precision", "fp32").split(" and ")[0]
        pixels = settings["size"] ** 2 * work.get("pixels_computed_per_pixel", 0)
        flop = settings.get("flops_per_pixel", 0) * pixels
        yield row(
            [
                peer,
                *([work["does"], work["precision"]] if computes else []),
                f"{times['wall_median_s']:.2f}",
                spread(times["wall_ratio"]),
                spread(times["cpu_ratio"]),
                of_limit(flop, times["wall_median_s"], record, _PLAIN.get(precision, precision)),
                f"{error['largest']:.2g}",
                f"{error['largest_inside']:.2g}",
                f"{error['changed_class']:.3%}",
            ]
        )
    for peer, reason in measured["skipped"].items():
        yield row([peer, reason] + [""] * (len(header) - 2))
    yield ""
    yield origin(record)


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
    yield origin(record)


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
    yield origin(record)
