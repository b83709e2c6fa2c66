"""Volumes: what OME-Zarr adds to computing, what storing and reading it takes, and looking up a million blocks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from math import ceil

import numpy as np
import pytest

from isbi_infer import Segmenter
from isbi_infer.volumes.pixel_size import PixelSize
from isbi_infer.volumes.protocol import Block, StackInfo

from .child_process import run_script
from .machine import load_average
from .measure import timed

pytest.importorskip("tensorstore", reason="tensorstore is not installed")

SECTIONS, SIDE = 4, 2048  # SIDE unless --size says otherwise
IN_MEMORY, IN_BLOCKS = "in memory", "OME-Zarr to OME-Zarr, uint8, blocks of a quarter of a section"
SHARD, CHUNK = (16, 1024, 1024), (1, 256, 256)
REPEATS = 3  # a sample of a tenth of a second
COUNTS = (10_000, 1_000_000)
BLOCKS_OF_A_CLUSTER = (50, 550)
WORKERS = {"one worker of two threads": (2,), "two workers of one thread": (1, 1)}
WORKERS_STACKS = 4

# Asks the storage of an empty result for every block, as a run does before it begins.
LOOK_UP = """
import json, sys, time
from pathlib import Path
from isbi_infer.plan.blocks import Layout
from isbi_infer.volumes.protocol import StackInfo
from isbi_infer.volumes.zarr.writer import OmeZarrSink
folder, sections = Path(sys.argv[1]), int(sys.argv[2])
layout = Layout(shape=(sections, 102400, 102400), block=(1, 1024, 1024), shard=(1, 1024, 1024), chunk=(1, 256, 256))
info = StackInfo(shape=layout.shape)
with OmeZarrSink(folder, shape=layout.shape, dtype="uint8", shard=layout.shard, chunk=layout.chunk, like=info) as sink:
    wall, cpu = time.perf_counter(), time.process_time()
    missing = sum(not sink.done(block) for block in layout.blocks())
    found = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "missing": missing}
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def stack_ZYX(large_YX, options, request):
    """Sections that differ, of a size that makes several shards."""
    side = request.config.option.size or (options.size if options.quick else SIDE)
    section_YX = np.pad(large_YX, ((0, max(0, side - len(large_YX))),) * 2, mode="reflect")[:side, :side]
    turned = [np.rot90(section_YX, turns) for turns in range(2 if options.quick else SECTIONS)]
    return np.ascontiguousarray(np.stack(turned))


@pytest.fixture(scope="module")
def asked_for_nothing(stack_ZYX, options):
    """The default settings; on another provider than the processor, that one."""
    if options.provider != "cpu":
        return Segmenter(provider=options.provider, precision=options.precision)
    return Segmenter(pixels=stack_ZYX.size)


def write_volume(folder, stack_ZYX):
    """Write OME-Zarr with the product's own sink, in one piece, and return its path."""
    from isbi_infer.volumes.zarr.writer import OmeZarrSink

    info = StackInfo(shape=stack_ZYX.shape, pixel_size=PixelSize(y_nm=5.0, x_nm=5.0, z_nm=50.0))
    sink = OmeZarrSink(
        folder, shape=stack_ZYX.shape, dtype=stack_ZYX.dtype, shard=SHARD, chunk=CHUNK, like=info
    )
    with sink:
        sink.write(block_of(stack_ZYX.shape), stack_ZYX)
        sink.finish()
    return folder


def block_of(shape):
    return Block(0, *((0, size) for size in shape))


def stored(folder):
    """Return the bytes and the number of files below a folder."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return {"bytes": sum(sizes), "files": len(sizes)}


def test_whole_volume_ratio(compare, keep, stack_ZYX, asked_for_nothing, write_sections, tmp_path, options):
    """From grey values to probabilities with the default settings, the model opened before."""
    from isbi_infer.run.volume import VolumeOptions

    segmenter = asked_for_nothing
    tiff = write_sections(stack_ZYX)
    volume = write_volume(tmp_path / "volume.ome.zarr", stack_ZYX)
    again = VolumeOptions(overwrite=True)
    small = (SHARD[0], *(ceil(side / 2 / 256) * 256 for side in stack_ZYX.shape[1:]))
    in_blocks = VolumeOptions(overwrite=True, block=small)
    zarrs = {
        "OME-Zarr to OME-Zarr, uint8": ("uint8", again),
        "OME-Zarr to OME-Zarr, float32": ("float32", again),
        IN_BLOCKS: ("uint8", in_blocks),
    }
    targets = {name: tmp_path / f"{number}.ome.zarr" for number, name in enumerate(zarrs)}
    contenders = {
        IN_MEMORY: partial(segmenter, stack_ZYX, dtype="uint8"),
        "TIFF to TIFF, uint8": partial(segmenter.segment_file, tiff, tmp_path / "out.tif", dtype="uint8"),
    }
    for name, (dtype, how) in zarrs.items():
        contenders[name] = partial(segmenter.segment_file, volume, targets[name], dtype=dtype, options=how)
    found, results = compare("volumes-run", contenders, IN_MEMORY)

    plan = segmenter.plan(stack_ZYX.shape).section
    whole_ZYX = results[IN_MEMORY]
    work = {name: {"pixels": stack_ZYX.size, "halo_share": 1.0} for name in contenders}
    for name, target in targets.items():
        work[name] |= stored(target)
    work[IN_BLOCKS]["halo_share"] = halo_share(stack_ZYX.shape, small, plan)
    from isbi_infer.volumes import open_source

    for name in ("OME-Zarr to OME-Zarr, uint8", IN_BLOCKS):
        with open_source(targets[name]) as result:
            assert all(np.array_equal(result.read(z), whole_ZYX[z]) for z in range(len(whole_ZYX)))
    keep(
        "volumes-run",
        found | {"work": work},
        provider=segmenter.provider,
        precision=segmenter.precision,
        shape=stack_ZYX.shape,
        tile_shape=plan.tile_shape,
        pixels_computed_per_pixel=plan.overhead,
        flops_per_pixel=segmenter.contract.flops_per_pixel,
        model_sha256=segmenter.model_sha256,
    )
    for path in tmp_path.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def halo_share(shape, block, plan):
    from isbi_infer.plan.blocks import Layout

    return Layout(shape=shape, block=block, shard=block, chunk=(1, *block[1:])).halo_share(plan)


def test_storage_ratio(compare, keep, stack_ZYX, asked_for_nothing, tmp_path, options):
    """A block of probabilities onto the disk, and back out of the page cache; grey values are read alike."""
    from isbi_infer.volumes.zarr.writer import OmeZarrSink

    sides = [min(side, 1024) for side in stack_ZYX.shape[1:]]
    part_ZYX = np.ascontiguousarray(stack_ZYX[:, : sides[0], : sides[1]])
    found_ZYX = asked_for_nothing(part_ZYX)
    deep = 2 if options.quick else SHARD[0]
    data = {
        "float32": np.resize(found_ZYX, (deep, *sides)),
        "uint8": np.resize(np.rint(255 * found_ZYX).astype(np.uint8), (deep, *sides)),
    }
    block, sinks, contenders, work = block_of(data["uint8"].shape), {}, {}, {}
    for dtype, values_ZYX in data.items():
        info = StackInfo(shape=values_ZYX.shape)
        sinks[dtype] = OmeZarrSink(
            tmp_path / dtype,
            shape=values_ZYX.shape,
            dtype=dtype,
            shard=(deep, *SHARD[1:]),
            chunk=CHUNK,
            like=info,
        )
        sinks[dtype].__enter__()
        sinks[dtype].write(block, values_ZYX)
        work[dtype] = {"pixels": values_ZYX.size, **stored(tmp_path / dtype)}
        contenders[f"write {dtype}"] = partial(repeated, partial(sinks[dtype].write, block, values_ZYX))
        contenders[f"read {dtype}"] = partial(repeated, partial(sinks[dtype].read, block))
    found, results = compare("volumes-storage", contenders, "write uint8")
    for dtype, values_ZYX in data.items():
        assert np.array_equal(results[f"read {dtype}"], values_ZYX)
        sinks[dtype].__exit__(None, None, None)
    keep("volumes-storage", found | {"work": work, "repeats": REPEATS}, shape=data["uint8"].shape)


def repeated(work):
    for _ in range(REPEATS):
        result = work()
    return result


def test_looking_up_a_million_blocks(benchmark, keep, say, tmp_path, options):
    """What is missing of a result, and what the looking takes; blocks are never all held."""
    counts = (10_000, 20_000) if options.quick else COUNTS
    by_count = {}

    def run():
        for count in counts:
            sections = count // 10_000
            done = run_script(LOOK_UP, str(tmp_path / str(count)), str(sections))
            by_count[str(count)] = json.loads(done.output) | {"peak_bytes": done.peak_bytes}

    benchmark.group = "volumes: looking up blocks"
    benchmark.pedantic(run, rounds=1, iterations=1)
    for count, found in by_count.items():
        assert found["missing"] == int(count)
        say(
            f"volumes-blocks: {count}: CPU {found['cpu_s']:.2f} s, peak {found['peak_bytes'] / 2**20:.0f} MiB"
        )
    keep("volumes-blocks", {"by_count": by_count, "load_average": [load_average()]})


def write_blank(folder, sections):
    """Write OME-Zarr without a single chunk: all of it is the fill value, which no model is asked about."""
    from isbi_infer.volumes.zarr.writer import OmeZarrSink

    shape = (sections, *CHUNK[1:])
    with OmeZarrSink(
        folder, shape=shape, dtype="uint8", shard=CHUNK, chunk=CHUNK, like=StackInfo(shape=shape)
    ) as sink:
        sink.finish()
    return folder


@contextmanager
def cluster(folder, threads=(1,)):
    """Start a scheduler and workers of so many threads; yield the scheduler's file, and it as psutil sees it."""
    import psutil
    from distributed import Client

    folder.mkdir(exist_ok=True)

    address = folder / "scheduler.json"
    program, where = (sys.executable, "-m"), ("--scheduler-file", str(address))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    worker = ("dask_worker", "--no-dashboard", "--no-nanny", "--local-directory", str(folder))
    with ExitStack() as started:
        scheduler, *_ = (
            started.enter_context(
                ended(subprocess.Popen([*program, f"distributed.cli.{command}", *options], **quiet))
            )
            for command, *options in (
                ("dask_scheduler", "--port", "0", "--no-dashboard", *where),
                *((*worker, "--nthreads", str(count), *where) for count in threads),
            )
        )
        while not (address.exists() and address.read_text(encoding="utf-8").strip()):
            assert scheduler.poll() is None
            time.sleep(0.1)
        with Client(scheduler_file=str(address), set_as_default=False) as client:
            client.wait_for_workers(len(threads), timeout=60)
        yield address, psutil.Process(scheduler.pid)


@contextmanager
def ended(process):
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def test_two_workers_ratio(compare, keep, stack_ZYX, asked_for_nothing, tmp_path, options):
    """Two workers of one thread against one of two; the clusters are there, the workers open the model each time."""
    pytest.importorskip("distributed", reason="distributed is not installed")
    pytest.importorskip("psutil", reason="psutil is not installed")
    from isbi_infer.run.volume import VolumeOptions

    longer_ZYX = np.concatenate([stack_ZYX] * (1 if options.quick else WORKERS_STACKS))
    volume = write_volume(tmp_path / "volume.ome.zarr", longer_ZYX)
    with ExitStack() as running:
        contenders = {}
        for name, threads in WORKERS.items():
            address, _ = running.enter_context(cluster(tmp_path / name, threads))
            how = VolumeOptions(overwrite=True, block=(1, *longer_ZYX.shape[1:]), cluster=str(address))
            target = tmp_path / f"of {name}.ome.zarr"
            contenders[name] = partial(
                asked_for_nothing.segment_file, volume, target, dtype="uint8", options=how
            )
        found, _ = compare("volumes-workers", contenders, next(iter(WORKERS)))
    keep(
        "volumes-workers",
        found,
        provider=asked_for_nothing.provider,
        precision=asked_for_nothing.precision,
        shape=longer_ZYX.shape,
        model_sha256=asked_for_nothing.model_sha256,
    )


def test_what_a_cluster_takes_for_a_block(benchmark, keep, say, tmp_path, options):
    """Processor time of the scheduler and of the client, each a process, for blocks that cost next to nothing."""
    pytest.importorskip("distributed", reason="distributed is not installed")
    pytest.importorskip("psutil", reason="psutil is not installed")
    from isbi_infer.run.volume import VolumeOptions

    segmenter = Segmenter(provider="cpu")
    counts, by_count = (4, 8) if options.quick else BLOCKS_OF_A_CLUSTER, {}

    def run():
        with cluster(tmp_path) as (address, scheduler):
            for count in (2, *counts):  # at first all is loaded
                volume = write_blank(tmp_path / f"{count}.ome.zarr", count)
                how = VolumeOptions(block=CHUNK, cluster=str(address))
                before = sum(scheduler.cpu_times()[:2])
                sample, _ = timed(
                    partial(segmenter.segment_file, volume, tmp_path / f"of-{count}.ome.zarr", options=how)
                )
                by_count[str(count)] = {
                    "wall_s": sample.wall_s,
                    "client_cpu_s": sample.cpu_s,
                    "scheduler_cpu_s": sum(scheduler.cpu_times()[:2]) - before,
                }

    benchmark.group = "volumes: blocks of a cluster"
    benchmark.pedantic(run, rounds=1, iterations=1)
    fewer, more = (by_count[str(count)] for count in counts)
    each = {key: (more[key] - fewer[key]) / (counts[1] - counts[0]) for key in more}
    say(
        "volumes-cluster: a block: "
        + ", ".join(f"{key} {1000 * value:.1f} ms" for key, value in each.items())
    )
    keep("volumes-cluster", {"by_count": by_count, "each": each, "load_average": [load_average()]})
