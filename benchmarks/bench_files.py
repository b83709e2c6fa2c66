"""Reading and writing stacks: what it costs to be strict, and to finish a file under another name."""

from __future__ import annotations

import os
import shutil
from math import prod

import numpy as np
import pytest
import tifffile

from isbi_infer.files import replacing
from isbi_infer.volumes import open_stack, write_stack
from isbi_infer.volumes.protocol import StackInfo

STACKS = ["30x512x512", "large"]
LARGE_SIDE = 4096  # unless --size says otherwise
REPEATS = {
    "files-read-tiff": 50,
    "files-write-tiff": 2,
    "files-read-zarr": 5,
}  # a sample of a tenth of a second
READ_TIFF, WRITE_TIFF, READ_ZARR = REPEATS
OURS_READ, OURS_WRITTEN, OURS_ZARR = (
    "open_stack, section by section",
    "write_stack, replaced when whole",
    "read_omezarr",
)
PLAIN_READ, PLAIN_WRITTEN, PLAIN_ZARR = "tifffile.imread", "tifffile.imwrite", "zarr.Array"
SYNCED = "tifffile.imwrite, then fsync"


@pytest.fixture(params=STACKS)
def stack_ZYX(request, small_ZYX, large_YX, options):
    if request.param == "30x512x512":
        return small_ZYX
    side = request.config.option.size or (options.size if options.quick else LARGE_SIDE)
    around = (0, max(0, side - len(large_YX)))
    return np.ascontiguousarray(np.pad(large_YX, (around, around), mode="reflect")[None, :side, :side])


@pytest.fixture
def measured(compare, keep, say, stack_ZYX, options):
    """Compare, say how fast each contender was, and store that; return each one's last result."""

    def run(work, contenders, baseline, dtype):
        repeats = 1 if options.quick else REPEATS[work]
        size = repeats * prod(stack_ZYX.shape) * np.dtype(dtype).itemsize
        title = name_of(work, stack_ZYX)
        found, results = compare(
            title, {name: repeated(run_once, repeats) for name, run_once in contenders.items()}, baseline
        )
        for name, times in found["contenders"].items():
            say(f"{title}: {name}: {size / times['wall_median_s'] / 1e6:.0f} MB/s")
        keep(
            title,
            found | {"bytes": size, "repeats": repeats},
            shape=stack_ZYX.shape,
            dtype=np.dtype(dtype).name,
        )
        return results

    return run


def repeated(work, times):
    def run():
        for _ in range(times):
            result = work()
        return result

    return run


def name_of(work, stack_ZYX):
    return f"{work}-{'x'.join(map(str, stack_ZYX.shape)) if len(stack_ZYX) > 1 else stack_ZYX.shape[1]}"


def test_reading_tiff_ratio(measured, stack_ZYX, write_sections):
    """Grey values as they come from a microscope, from the page cache."""
    path = write_sections(stack_ZYX)

    def ours():
        with open_stack(path) as reader:
            return [section_YX.shape for section_YX in reader]

    contenders = {PLAIN_READ: lambda: tifffile.imread(path).shape, OURS_READ: ours}
    results = measured(READ_TIFF, contenders, PLAIN_READ, stack_ZYX.dtype)
    assert len(results[OURS_READ]) == len(stack_ZYX)


def test_writing_tiff_ratio(measured, stack_ZYX, tmp_path):
    """Probabilities, 4 bytes a pixel; ours is on the disk when it returns."""
    result_ZYX = (stack_ZYX / 255).astype(np.float32)
    target, info = tmp_path / "out.tif", StackInfo(shape=stack_ZYX.shape)

    def plain():
        tifffile.imwrite(target, result_ZYX, photometric="minisblack")

    def synced():
        plain()
        with target.open("rb") as file:
            os.fsync(file.fileno())

    def ours():
        with replacing(target) as temporary:
            write_stack(temporary, result_ZYX, like=info, dtype=np.float32)

    contenders = {PLAIN_WRITTEN: plain, SYNCED: synced, OURS_WRITTEN: ours}
    measured(WRITE_TIFF, contenders, PLAIN_WRITTEN, np.float32)
    ours()
    assert np.array_equal(tifffile.imread(target).reshape(stack_ZYX.shape), result_ZYX)
    target.unlink()


def test_reading_zarr_ratio(measured, stack_ZYX, tmp_path):
    """OME-Zarr with zarr's own compression, in chunks of a section or 512 x 512 of it."""
    zarr = pytest.importorskip("zarr")
    from isbi_train.data.omezarr import read_omezarr

    path = tmp_path / "stack.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=3)
    chunks = (1, *(min(side, 512) for side in stack_ZYX.shape[1:]))
    group.create_array("0", data=stack_ZYX, chunks=chunks)
    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    scale = [{"type": "scale", "scale": [50.0, 4.0, 4.0]}]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    group.attrs.put({"ome": {"version": "0.5", "multiscales": [image]}})

    contenders = {
        PLAIN_ZARR: lambda: zarr.open_array(path / "0", mode="r")[...],
        OURS_ZARR: lambda: read_omezarr(path)[0],
    }
    results = measured(READ_ZARR, contenders, PLAIN_ZARR, stack_ZYX.dtype)
    assert np.array_equal(results[OURS_ZARR], stack_ZYX)
    shutil.rmtree(path)


def test_reading_tiff(benchmark, stack_ZYX, write_sections, options):
    path = write_sections(stack_ZYX)

    def read():
        with open_stack(path) as reader:
            for _ in reader:
                pass

    benchmark.group = f"files {name_of('stack', stack_ZYX)}"
    benchmark.pedantic(read, rounds=options.rounds, warmup_rounds=1, iterations=1)


def test_writing_tiff(benchmark, stack_ZYX, tmp_path, options):
    result_ZYX = (stack_ZYX / 255).astype(np.float32)
    target = tmp_path / "out.tif"

    def write():
        with replacing(target) as temporary:
            write_stack(temporary, result_ZYX, like=StackInfo(shape=stack_ZYX.shape), dtype=np.float32)

    benchmark.group = f"files {name_of('stack', stack_ZYX)}"
    benchmark.pedantic(write, rounds=options.rounds, warmup_rounds=1, iterations=1)
    target.unlink()
