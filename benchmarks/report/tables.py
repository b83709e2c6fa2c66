"""The tables of peers, memory and start-up."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.store import Stored

from .cells import origin, spread

_OTHERS = 0.5  # load average beyond our own threads, up to which a comparison of waiting threads is fair


def peers_table(stored: Stored, name: str) -> Iterable[str]:
    """Give time and accuracy of every peer."""
    if name not in stored:
        yield "Not measured yet."
        return
    record = stored[name]
    measured, cores = record["measured"], record["machine"]["cores"]
    if cores > 1 and max(measured["load_average"]) > cores + _OTHERS:
        yield f"Measured, but on too busy a machine to be shown here: {origin(record)}"
        return
    yield (
        "| | seconds (wall) | times as long (wall) | times as long (CPU) | largest difference | "
        "away from the edges | pixels that change class |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for peer, times in measured["contenders"].items():
        error = measured["differences"][peer]
        yield (
            f"| {peer} | {times['wall_median_s']:.2f} | {spread(times['wall_ratio'])} "
            f"| {spread(times['cpu_ratio'])} | {error['largest']:.2g} | {error['largest_inside']:.2g} "
            f"| {error['changed_class']:.3%} |"
        )
    for peer, reason in measured["skipped"].items():
        yield f"| {peer} | {reason} | | | | | |"
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
