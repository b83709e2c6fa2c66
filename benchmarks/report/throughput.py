"""The tables of whole runs, scaling, files, export and training."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from benchmarks.limits import limit_of
from benchmarks.store import Stored

from .cells import MISSING, Record, of_limit, origin, share_of_limit, spread, table

_UNUSUAL = re.compile(r"(-(cuda|tensorrt|openvino))?(-(fp16|int8))?(-one-core)?")
Times = dict[str, Any]
Draw = Callable[[Record], Iterator[str]]


def throughput_table(stored: Stored) -> Iterable[str]:
    """Write whole runs by setting, on every provider and precision that was measured."""
    names = ("throughput", "throughput-more-work")
    yield from _drawn((_runs, record) for name in names for record in _of(stored, name))


def _runs(record: Record) -> Iterator[str]:
    header = [_title(record), "seconds", "Mpx/s", "sections/s", "GFLOP/s", "of the limit"]
    yield from table(
        [*header, "pixels computed per pixel", "times as long (wall)", "times as long (CPU)"],
        (
            [
                name,
                f"{times['wall_median_s']:.2f}",
                f"{work['pixels'] / times['wall_median_s'] / 1e6:.2f}",
                f"{work['sections'] / times['wall_median_s']:.1f}",
                f"{work['gflop'] / times['wall_median_s']:.0f}",
                of_limit(work["gflop"] * 1e9, times["wall_median_s"], record, work["precision"]),
                f"{work['pixels_computed_per_pixel']:.2f}",
                spread(times["wall_ratio"]),
                spread(times["cpu_ratio"]),
            ]
            for name, times, work in _with_work(record["measured"])
        ),
    )


def scaling_table(stored: Stored) -> Iterable[str]:
    """Write time against size, number of sections, and cores."""
    tables = {"scaling-size": _sizes, "scaling-sections": _sections, "scaling-cores": _cores}
    yield from _drawn((draw, record) for name, draw in tables.items() for record in _of(stored, name))


def _sizes(record: Record) -> Iterator[str]:
    measured = record["measured"]
    first = measured["baseline"]
    header = [f"one section, {_asked(record)}", "seconds", "Mpx/s", "tiles", "pixels computed per pixel"]
    yield from table(
        [*header, f"time per pixel against {first} x {first}"],
        (
            [
                f"{side} x {side}",
                f"{times['wall_median_s']:.3f}",
                f"{work['pixels'] / times['wall_median_s'] / 1e6:.2f}",
                str(work["tiles"]),
                f"{work['pixels_computed_per_pixel']:.3f}",
                _scaled(times["wall_ratio"], measured["work"][first]["pixels"] / work["pixels"]),
            ]
            for side, times, work in _with_work(measured)
        ),
    )


def _sections(record: Record) -> Iterator[str]:
    measured, side = record["measured"], record["settings"]["side"]
    first = measured["baseline"]
    header = [f"sections of {side} x {side}, {_asked(record)}", "seconds", "sections/s", "Mpx/s"]
    yield from table(
        [*header, f"time per section against {first}"],
        (
            [
                f"{work['sections']:,}",
                f"{times['wall_median_s']:.2f}",
                f"{work['sections'] / times['wall_median_s']:.1f}",
                f"{work['pixels'] / times['wall_median_s'] / 1e6:.2f}",
                _scaled(times["wall_ratio"], measured["work"][first]["sections"] / work["sections"]),
            ]
            for _, times, work in _with_work(measured)
        ),
    )


def _cores(record: Record) -> Iterator[str]:
    measured = record["measured"]
    yield from table(
        [
            _title(record),
            "workers",
            "seconds",
            "Mpx/s",
            f"times as fast as {measured['baseline']}",
            "CPU time against it",
        ],
        (
            [
                name,
                " + ".join(map(str, work["workers"])),
                f"{times['wall_median_s']:.2f}",
                f"{work['pixels'] / times['wall_median_s'] / 1e6:.2f}",
                spread(_inverse(times["wall_ratio"])),
                spread(times["cpu_ratio"]),
            ]
            for name, times, work in _with_work(measured)
        ),
    )


def files_table(stored: Stored) -> Iterable[str]:
    """Write reading and writing against what the libraries do by themselves."""
    titles = {
        "files-read-tiff-": "read TIFF",
        "files-write-tiff-": "write TIFF",
        "files-read-zarr-": "read OME-Zarr",
    }
    found = [
        (title, record)
        for start, title in titles.items()
        for name, record in stored.items()
        if name.startswith(start)
    ]
    if not found:
        yield MISSING
        return
    yield from table(
        ["", "by", "milliseconds", "MB/s", "of copying", "times as long (wall)", "times as long (CPU)"],
        (
            [
                f"{title}, {_shape(record)} of {record['settings']['dtype']}",
                name,
                f"{times['wall_median_s'] * 1e3 / record['measured']['repeats']:.1f}",
                f"{record['measured']['bytes'] / times['wall_median_s'] / 1e6:.0f}",
                _of_copying(record["measured"]["bytes"], times["wall_median_s"], record),
                spread(times["wall_ratio"]),
                spread(times["cpu_ratio"]),
            ]
            for title, record in found
            for name, times in record["measured"]["contenders"].items()
        ),
    )
    yield ""
    yield "What reading and writing OME-Zarr costs a run stands in [Scale](scale.md#what-ome-zarr-costs)."
    yield ""
    yield origin(found[-1][1])


def export_table(stored: Stored) -> Iterable[str]:
    """Write how long publishing and opening take, and the size of each file."""
    yield from _drawn((_published, record) for record in _of(stored, "export"))


def _published(record: Record) -> Iterator[str]:
    measured = record["measured"]
    opening = f"opening, times as long as {measured['baseline']}"
    yield from table(
        ["", "published in", "CPU", "MB", "opened in", opening],
        (
            [
                name,
                f"{file['publishing']['wall_s']:.1f} s",
                f"{file['publishing']['cpu_s']:.1f} s",
                f"{file['bytes'] / 1e6:.2f}",
                f"{measured['contenders'][name]['wall_median_s'] * 1e3:.0f} ms",
                spread(measured["contenders"][name]["wall_ratio"]),
            ]
            for name, file in measured["files"].items()
        ),
    )


def training_table(stored: Stored) -> Iterable[str]:
    """Write steps of the released recipe, of other networks, and drawing crops."""
    names = ("training-step", "training-networks")
    yield from _drawn((_steps, record) for name in names for record in _of(stored, name))


def _steps(record: Record) -> Iterator[str]:
    measured, asked = record["measured"], record["settings"]
    parameters = measured.get("parameters")
    batch = f"{asked['batch']} crops of {asked['crop']} x {asked['crop']} in {asked['dtype']} on {asked['device']}"
    yield from table(
        [
            batch,
            *(["parameters"] if parameters else []),
            "ms a batch",
            "crops/s",
            "times as long (wall)",
            "times as long (CPU)",
        ],
        (
            [
                name,
                *([f"{parameters[name]:,}"] if parameters else []),
                f"{times['wall_median_s'] * 1e3 * asked['batch'] / measured['crops']:.1f}",
                f"{measured['crops'] / times['wall_median_s']:.1f}",
                spread(times["wall_ratio"]),
                spread(times["cpu_ratio"]),
            ]
            for name, times in measured["contenders"].items()
        ),
    )


def _drawn(tables: Iterable[tuple[Draw, Record]]) -> Iterator[str]:
    """Write tables one below the other, each with where it comes from."""
    found = list(tables)
    if not found:
        yield MISSING
    for number, (draw, record) in enumerate(found):
        yield from [""] if number else []
        yield from draw(record)
        yield ""
        yield origin(record)


def _of(stored: Stored, name: str) -> list[Record]:
    """Return the results of a name on every provider, in every precision."""
    return [
        record
        for title, record in stored.items()
        if title.startswith(name) and _UNUSUAL.fullmatch(title[len(name) :])
    ]


def _with_work(measured: dict[str, Any]) -> Iterator[tuple[str, Times, dict[str, Any]]]:
    for name, times in measured["contenders"].items():
        yield name, times, measured["work"][name]


def _shape(record: Record) -> str:
    return " x ".join(map(str, record["settings"]["shape"]))


def _asked(record: Record) -> str:
    return f"{record['settings']['provider']} {record['settings']['precision']}"


def _title(record: Record) -> str:
    return f"{_shape(record)}, {record['settings']['provider']}"


def _scaled(ratio: dict[str, float], factor: float) -> str:
    return spread({key: value * factor for key, value in ratio.items()})


def _inverse(ratio: dict[str, float]) -> dict[str, float]:
    return {"q1": 1 / ratio["q3"], "median": 1 / ratio["median"], "q3": 1 / ratio["q1"]}


def _of_copying(size: float, seconds: float, record: Record) -> str:
    """Compare with one core that copies memory, which counts what it reads and what it writes."""
    copied = limit_of(record.get("best_limits"), "", rate="copy_gb_s")
    return share_of_limit(None if copied is None else 2e-9 * size / seconds / copied)
