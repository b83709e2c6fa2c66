"""What a process holds does not follow the size of the volume: peaks of real processes, as the kernel counts them."""

import os
import subprocess
import sys

import numpy as np
import pytest
from volume_files import write_omezarr

from isbi_infer.backends.allocator import share_one_arena
from isbi_infer.sample import synthetic_stack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts peaks in kilobytes")

FEW_PIXELS = ("--batch", "1", "--block", "1,256,256", "--pyramid")


def peak_of(*arguments):
    """Run isbi-infer; return the most that it held, in KiB."""
    command = [sys.executable, "-m", "isbi_infer", *map(str, arguments), "--provider", "cpu", "--quiet"]
    with subprocess.Popen(command) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_maxrss


@pytest.mark.parametrize(("few", "many"), [(30, 120), pytest.param(30, 900, marks=pytest.mark.more)])
def test_more_sections_take_no_more_memory(tmp_path, few, many):
    image_ZYX, _ = synthetic_stack(2, 256, 256)
    peaks = {}
    for sections in (few, many):
        volume = write_omezarr(
            tmp_path / f"{sections}.ome.zarr", [np.resize(image_ZYX, (sections, 256, 256))]
        )
        peaks[sections] = peak_of(volume, "-o", tmp_path / f"of-{sections}.ome.zarr", *FEW_PIXELS)
    assert peaks[many] < 1.05 * peaks[few]


@pytest.mark.more
def test_sections_of_thirty_times_the_area_take_no_more_memory(tmp_path):
    image_YX = synthetic_stack(1, 1024, 1024)[0][0]
    peaks = {}
    for side in (2048, 11218):
        tiles = -(-side // 1024)
        volume = write_omezarr(
            tmp_path / f"{side}.ome.zarr", [np.tile(image_YX, (1, tiles, tiles))[:, :side, :side]]
        )
        how = ("--tile", "1024", "--batch", "1", "--block", "1,2048,2048")
        peaks[side] = peak_of(volume, "-o", tmp_path / f"of-{side}.ome.zarr", *how)
    assert peaks[11218] < 1.05 * peaks[2048]


def test_what_the_user_says_of_arenas_is_kept(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert not share_one_arena()
