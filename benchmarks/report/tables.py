"""The tables of limits, peers, memory and start-up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from typing import Any

from benchmarks.store import LIMITS, Stored

from .cells import MISSING, Record, fair, of_limit, origin, spread, table, too_busy

_PLAIN = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def limits_table(stored: Stored) -> Iterator[str]:
    """Write the best limits of every machine whose limits were measured by themselves."""
    records = [record for name, record in stored.items() if name.partition("-")[0] == LIMITS]
    if not records:
        yield MISSING
    for number, record in enumerate(records):
        yield from [""] if number else []
        best = record["best_limits"]
        if not best:
            yield too_busy(record)
            continue
        yield from _products_and_copies(best["cpu"])
        yield ""
        if "cuda" in best:
            yield _on_device(best["cuda"])
            yield ""
        yield origin(record)


def _products_and_copies(cpu: dict[str, Any]) -> Iterator[str]:
    counts = list(cpu["copy_gb_s"])

    def rows() -> Iterator[list[str]]:
        for precision in ("fp32", "bf16", "int8"):
            rates = cpu["gflop_s"].get(precision)
            if rates is None:
                yield [f"{precision} product", *["-"] * len(counts), cpu["missing"].get(precision, "")]
                continue
            how = dict.fromkeys(cpu["how"][precision][n] for n in counts)
            yield [f"{precision} product", *(f"{rates[n]:.0f} GFLOP/s" for n in counts), " / ".join(how)]
        yield ["copy, read + written", *(f"{cpu['copy_gb_s'][n]:.1f} GB/s" for n in counts), "NumPy"]

    return table(["limit", *("1 core" if n == "1" else f"{n} cores" for n in counts), "how"], rows())


def _on_device(cuda: dict[str, Any]) -> str:
    if not cuda["gflop_s"]:
        return f"CUDA: {cuda['missing']['cuda']}."
    products = ", ".join(f"{name} {rate / 1e3:.0f} TFLOP/s" for name, rate in cuda["gflop_s"].items())
    return (
        f"{cuda['name']}: {products}; copy {cuda['copy_gb_s']:.0f} GB/s, to the device "
        f"{cuda['to_device_gb_s']:.1f} GB/s, from it {cuda['from_device_gb_s']:.1f} GB/s (pinned)."
    )


def peers_table(stored: Stored, name: str) -> Iterator[str]:
    """Write time, use of the machine and accuracy of every peer."""
    if name not in stored:
        yield MISSING
        return
    record = stored[name]
    if not fair(record):
        yield too_busy(record)
        return
    columns = ["computes", "precision"] if "computes" in record["measured"] else []
    columns += ["seconds (wall)", "times as long (wall)", "times as long (CPU)", "GFLOP/s", "of the limit"]
    columns += ["largest difference", "away from the edges", "pixels that change class"]
    yield from table(["", *columns], _peers(record))
    yield ""
    yield origin(record)


def _peers(record: Record) -> Iterator[list[str]]:
    measured, settings = record["measured"], record["settings"]
    computes = measured.get("computes", {})
    for peer, times in measured["contenders"].items():
        error, work = measured["differences"].get(peer), computes.get(peer, {})
        precision = work.get("precision", "fp32").split(" and ")[0]
        pixels = _pixels(settings) * work.get("pixels_computed_per_pixel", 0)
        flop, seconds = settings.get("flops_per_pixel", 0) * pixels, times["wall_median_s"]
        yield [
            peer,
            *([work.get("does", "-"), work.get("precision", "-")] if computes else []),
            f"{seconds:.2f}",
            spread(times["wall_ratio"]),
            spread(times["cpu_ratio"]),
            f"{flop / seconds / 1e9:.0f}" if flop else "-",
            of_limit(flop, seconds, record, _PLAIN.get(precision, precision)),
            *(
                (
                    f"{error['largest']:.2g}",
                    f"{error['largest_inside']:.2g}",
                    f"{error['changed_class']:.3%}",
                )
                if error
                else ("-", "-", "-")
            ),
        ]
    for peer, reason in measured["skipped"].items():
        yield [peer, reason]


def _pixels(settings: dict[str, Any]) -> int:
    return prod(settings["shape"]) if "shape" in settings else settings["size"] ** 2


def memory_table(stored: Stored) -> Iterable[str]:
    """Write the memory of tiles."""
    if "memory-tiles" not in stored:
        yield MISSING
        return
    record = stored["memory-tiles"]
    yield from table(
        [
            "tile",
            "the model, bytes per tile pixel and worker",
            "a whole run, likewise",
            "peak of the whole run",
        ],
        (
            [
                f"{tile} x {tile}",
                f"{entry['model_bytes_per_pixel']:.0f}",
                f"{entry['run_bytes_per_pixel']:.0f}",
                f"{entry['run_peak_bytes'] / 2**20:.0f} MiB",
            ]
            for tile, entry in record["measured"]["by_tile"].items()
        ),
    )
    yield ""
    yield origin(record)


def start_up_table(stored: Stored) -> Iterable[str]:
    """Write the times of processes that are started anew."""
    if "start-up" not in stored:
        yield MISSING
        return
    record = stored["start-up"]
    yield from table(
        ["a new process", "wall", "CPU"],
        (
            [name, f"{times['wall_median_s']:.2f} s", f"{times['cpu_median_s']:.2f} s"]
            for name, times in record["measured"]["contenders"].items()
        ),
    )
    yield ""
    yield origin(record)


def ratios_table(stored: Stored, name: str, digits: int = 2) -> Iterable[str]:
    """Write a comparison as it was stored: the time of each contender, and how many times as long it takes."""
    if name not in stored:
        yield MISSING
        return
    record = stored[name]
    yield from table(
        ["", "seconds (wall)", "times as long (wall)", "times as long (CPU)"],
        (
            [
                contender,
                f"{times['wall_median_s']:.3f}",
                spread(times["wall_ratio"], digits),
                spread(times["cpu_ratio"], digits),
            ]
            for contender, times in record["measured"]["contenders"].items()
        ),
    )
    yield ""
    yield origin(record)
