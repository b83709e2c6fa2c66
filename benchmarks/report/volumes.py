"""The tables of volumes: what runs, blocks and storage take, what a teravoxel costs, and a petabyte in figures."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import ceil, prod

from benchmarks.layerwise import Layer, Peaks, seconds
from benchmarks.store import Stored
from isbi_infer.model.contract import read_contract
from isbi_infer.plan.blocks import Layout
from isbi_infer.plan.tiles import SectionPlan, plan_section
from isbi_models import released_models

from .cells import MEASURED, MISSING, Record, link, origin, spread, table

_TERA = 1e12
_HOUR = 3600.0
# Taken for the calculation, not measured by us.
_H100 = Peaks(flop_s=790e12, bytes_s=3.0e12, bytes_per_value=2)
_RUN, _ZARR = "volumes-run", "OME-Zarr to OME-Zarr, uint8"
_SIDE, _TILES, _BLOCKS = 32768, (1024, 2048, 3072), (4096, 8192, 16384, 32768)
# A petabyte: sections of 16 GiB.
_PETABYTE = Layout(
    shape=(58_208, 131_072, 131_072),
    block=(32, 16_384, 16_384),
    shard=(32, 1024, 1024),
    chunk=(1, 256, 256),
)
_PETABYTE_TILE = 2048


def volumes_run_table(stored: Stored) -> Iterator[str]:
    """Write whole runs into OME-Zarr against the same in memory."""
    if _RUN not in stored:
        yield MISSING
        return
    record = stored[_RUN]
    settings, measured = record["settings"], record["measured"]
    title = (
        f"{' x '.join(map(str, settings['shape']))} of uint8, {settings['provider']} {settings['precision']}"
    )

    def rows() -> Iterator[list[str]]:
        for name, times in measured["contenders"].items():
            work = measured["work"][name]
            stored_as = (
                [f"{work['bytes'] / work['pixels']:.2f}", str(work["files"])]
                if "bytes" in work
                else ["-", "-"]
            )
            yield [
                name,
                f"{times['wall_median_s']:.1f}",
                f"{times['cpu_median_s']:.1f}",
                spread(times["wall_ratio"]),
                spread(times["cpu_ratio"]),
                f"{work['halo_share']:.2f}",
                *stored_as,
            ]

    yield from table(
        [
            title,
            "seconds",
            "CPU seconds",
            "times as long (wall)",
            "times as long (CPU)",
            "tiles computed per tile",
            "bytes per voxel",
            "files",
        ],
        rows(),
    )
    yield ""
    yield origin(record)


def volumes_storage_table(stored: Stored) -> Iterator[str]:
    """Write what storing a block takes, and reading it."""
    if "volumes-storage" not in stored:
        yield MISSING
        return
    record = stored["volumes-storage"]
    measured = record["measured"]
    title = " x ".join(map(str, record["settings"]["shape"]))

    def rows() -> Iterator[list[str]]:
        for name, times in measured["contenders"].items():
            work = measured["work"][name.rpartition(" ")[2]]
            voxels = work["pixels"] * measured["repeats"]
            yield [
                name,
                f"{voxels / times['wall_median_s'] / 1e6:.0f}",
                f"{times['cpu_median_s'] / voxels * _TERA / _HOUR:.1f}",
                f"{work['bytes'] / work['pixels']:.2f}",
            ]

    yield from table([title, "Mvoxel/s", "CPU hours per teravoxel", "bytes per voxel"], rows())
    yield ""
    yield origin(record)


def volumes_workers_table(stored: Stored) -> Iterator[str]:
    """Write how threads are best shared out among workers of a cluster."""
    if "volumes-workers" not in stored:
        yield MISSING
        return
    record = stored["volumes-workers"]
    settings = record["settings"]
    title = (
        f"{' x '.join(map(str, settings['shape']))} of uint8, {settings['provider']} {settings['precision']}"
    )
    rows = (
        [name, f"{times['wall_median_s']:.1f}", spread(times["wall_ratio"])]
        for name, times in record["measured"]["contenders"].items()
    )
    yield from table([title, "seconds", "times as long"], rows)
    yield ""
    yield origin(record)


def volumes_blocks_table(stored: Stored) -> Iterator[str]:
    """Write what blocks take by themselves: looked up, and handed out by a cluster."""
    names = [name for name in ("volumes-blocks", "volumes-cluster") if name in stored]
    if not names:
        yield MISSING
        return

    def rows() -> Iterator[list[str]]:
        if "volumes-blocks" in stored:
            for count, found in stored["volumes-blocks"]["measured"]["by_count"].items():
                each, peak = (found[key] / int(count) for key in ("wall_s", "cpu_s")), found["peak_bytes"]
                yield [
                    f"looking up {int(count):,} blocks that are missing",
                    *(f"{1e3 * seconds:.3f} ms" for seconds in each),
                    f"{peak / 2**20:.0f} MiB",
                ]
        if "volumes-cluster" in stored:
            each = stored["volumes-cluster"]["measured"]["each"]
            for whose in ("scheduler", "client"):
                yield [
                    f"a blank block on a cluster of one worker: the {whose}",
                    *(f"{1e3 * each[key]:.1f} ms" for key in ("wall_s", f"{whose}_cpu_s")),
                    "-",
                ]

    yield from table(["", "a block takes", "CPU", "peak of memory"], rows())
    for name in names:
        yield ""
        yield origin(stored[name])


def halo_share_table(_: Stored) -> Iterator[str]:
    """Write what blocks smaller than a section compute and read, by the planner that runs use."""
    title = f"one section of {_SIDE} x {_SIDE}"

    def rows() -> Iterator[list[str]]:
        for tile in _TILES:
            section = _planned(_SIDE, tile)
            for side in _BLOCKS:
                layout = Layout(
                    shape=(1, _SIDE, _SIDE),
                    block=(1, side, side),
                    shard=(1, 1024, 1024),
                    chunk=(1, 256, 256),
                )
                share = layout.halo_share(section)
                yield [
                    f"`--tile {tile}`, blocks of {side} x {side}",
                    f"{section.overhead:.2f}",
                    f"{share:.2f}",
                    f"{section.overhead * share:.2f}",
                    f"{_read_share(layout, section):.2f}",
                ]

    yield from table(
        [
            title,
            "by halos of tiles",
            "by tiles of several blocks",
            "pixels computed per pixel",
            "pixels read per pixel",
        ],
        rows(),
    )


def volume_costs_table(stored: Stored) -> Iterator[str]:
    """Write what a teravoxel costs, and how many of them make a petabyte: measured, and where marked a limit."""
    costs = list(_costs(stored))
    if not costs:
        yield MISSING
        return
    section, share = _planned(_PETABYTE.shape[1], _PETABYTE_TILE), _petabyte_share()
    voxels = prod(_PETABYTE.shape)

    def rows() -> Iterator[list[str]]:
        for name, unit, least, most, source in costs:
            total = [part * voxels / _TERA * share for part in (least, most)]
            count = 1000 if unit == "core" else 8
            read = sorted(_read_share(_PETABYTE, section) * voxels / (hours * _HOUR) / 1e6 for hours in total)
            yield [
                name,
                f"{_span(least, most)} {unit} hours",
                f"{_span(*(hours / 1e3 for hours in total))} thousand {unit} hours",
                f"{_span(*(hours / 24 / count for hours in total))} days on {count:,} {unit}s",
                f"{_span(*read)} MB/s",
                source,
            ]

    yield from table(
        ["", "a teravoxel computed once", f"a petabyte, {share:.2f} times", "that is", "each reads", "from"],
        rows(),
    )


def petabyte_table(stored: Stored) -> Iterator[str]:
    """Write the worked plan of a petabyte: blocks, files, and what is read and written."""
    section, layout = _planned(_PETABYTE.shape[1], _PETABYTE_TILE), _PETABYTE
    voxels = prod(layout.shape)
    shards = prod(ceil(size / side) for size, side in zip(layout.shape, layout.shard, strict=True))
    reads = _read_share(layout, section)

    def rows() -> Iterator[list[str]]:
        yield [
            "volume",
            f"{' x '.join(f'{size:,}' for size in layout.shape)} of uint8, {voxels / 1e15:.2f} PB",
        ]
        yield ["blocks", f"{layout.count:,} of {' x '.join(f'{side:,}' for side in layout.block)}"]
        yield ["held by a worker for its block", f"{prod(layout.block) / 2**30:.0f} GiB of uint8"]
        yield ["files", f"{shards:,} shards of {' x '.join(f'{side:,}' for side in layout.shard)}"]
        yield [
            "pixels computed per pixel",
            f"{_petabyte_share():.2f} by `--tile {_PETABYTE_TILE}`",
        ]
        yield [
            "read",
            f"{(1 + reads) * voxels / 1e15:.2f} PB of pixels: {reads:.2f} times for the blocks, once to measure",
        ]
        if _RUN in stored:
            work = stored[_RUN]["measured"]["work"][_ZARR]
            each = work["bytes"] / work["pixels"]
            yield [
                "written",
                f"{each * voxels / 1e15:.2f} PB at the {each:.2f} bytes per voxel of the synthetic sample",
            ]
        if "volumes-blocks" in stored:
            count, found = list(stored["volumes-blocks"]["measured"]["by_count"].items())[-1]
            minutes = found["cpu_s"] / int(count) * shards / 60
            yield ["looking up what is done", f"{minutes:.0f} minutes of a processor, on a local disk"]

    yield from table(["", ""], rows())


def _costs(stored: Stored) -> Iterator[tuple[str, str, float, float, str]]:
    """Yield name, unit, and the least and most hours for a teravoxel of which each pixel is computed once."""
    for name, contender in (
        (_RUN, _ZARR),
        ("default-4096", "isbi-infer"),
        ("default-30x512x512", "isbi-infer"),
    ):
        if name not in stored or contender not in stored[name]["measured"]["contenders"]:
            continue
        record = stored[name]
        settings = record["settings"]
        pixels = prod(settings["shape"]) * settings["pixels_computed_per_pixel"]
        times = record["measured"]["contenders"][contender]["cpu_s"]
        hours = [time / pixels * _TERA / _HOUR for time in times]
        model = f"{settings['flops_per_pixel'] / 1e3:.0f} thousand operations a pixel"
        what = f"{record['machine']['cpu']}, {settings['provider']} {settings['precision']}, {model}"
        yield what, "core", min(hours), max(hours), link(record)
    if "networks-released" in stored:
        yield _limit_of_h100(stored["networks-released"])


def _limit_of_h100(record: Record) -> tuple[str, str, float, float, str]:
    layers = [Layer(**layer) for layer in record["measured"]["layers"]]
    pixels = record["settings"]["side"] ** 2
    fused, separate = (
        seconds(layers, _H100, fused=fused) / pixels * _TERA / _HOUR for fused in (True, False)
    )
    return "H100 in float16, **calculated, not measured**: its limits", "GPU", fused, separate, link(record)


@cache
def _petabyte_share() -> float:
    """Return the pixels computed per pixel of the petabyte."""
    section = _planned(_PETABYTE.shape[1], _PETABYTE_TILE)
    return section.overhead * _PETABYTE.halo_share(section)


@cache
def _planned(side: int, tile: int) -> SectionPlan:
    contract = read_contract(next(iter(released_models()[MEASURED].files.values())).path.read_bytes())
    return plan_section(
        (side, side), stride=contract.stride, halo=contract.halo, border=contract.border, tile=tile
    )


@cache
def _read_share(layout: Layout, section: SectionPlan) -> float:
    """Return the pixels that all blocks of a section read, per pixel of it."""
    read = 0
    for index in range(layout.grid[1] * layout.grid[2]):
        block = layout.at(index)
        tiles = section.touching((slice(*block.y), slice(*block.x)))
        sides = [
            min(size, max(tile.reads[axis].stop for tile in tiles) - section.border)
            - max(0, min(tile.reads[axis].start for tile in tiles) - section.border)
            for axis, size in enumerate(section.shape)
        ]
        read += prod(sides)
    return read / prod(section.shape)


def _span(least: float, most: float) -> str:
    digits = 2 if least < 1 else 1 if least < 10 else 0
    low, high = f"{least:,.{digits}f}", f"{most:,.{digits}f}"
    return low if low == high else f"{low} to {high}"
