"""What a process holds does not follow the size of the volume: peaks of real processes, as the kernel counts them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn import synthetic_stack
from volume_files import write_omezarr

from isbi_infer.backends.allocator import share_one_arena
from isbi_models import default_model

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux counts peaks")

FEW_PIXELS = ("--batch", "1", "--block", "1,256,256", "--pyramid")


# The kernel's ru_maxrss of a child would begin with what this process holds.
RUN = """
import sys
from isbi_infer.__main__ import main
try:
    main()
finally:
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(peak.split()[1])
"""


def peak_of(*arguments):
    """Run isbi-infer; return the most that it held, in KiB."""
    command = [sys.executable, "-c", RUN, *map(str, arguments), "--provider", "cpu", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.parametrize(
    ("model", "few", "many"),
    [("tiny", 150, 300), pytest.param("released", 100, 3000, marks=pytest.mark.more)],
)
def test_more_sections_take_no_more_memory(tmp_path, tiny, model, few, many):
    image_ZYX, _ = synthetic_stack(2, 256, 256)
    peaks = {}
    for sections in (few, many):
        volume = write_omezarr(
            tmp_path / f"{sections}.ome.zarr", [np.resize(image_ZYX, (sections, 256, 256))]
        )
        how = (*FEW_PIXELS, "--model", tiny if model == "tiny" else default_model().name)
        peaks[sections] = peak_of(volume, "-o", tmp_path / f"of-{sections}.ome.zarr", *how)
    assert peaks[many] < 1.05 * peaks[few]


@pytest.mark.more
def test_sections_of_thirty_times_the_area_take_little_more_memory(tmp_path):
    image_YX = synthetic_stack(1, 1024, 1024)[0][0]
    peaks = {}
    for side in (2048, 11218):
        tiles = -(-side // 1024)
        volume = write_omezarr(
            tmp_path / f"{side}.ome.zarr", [np.tile(image_YX, (1, tiles, tiles))[:, :side, :side]]
        )
        how = ("--model", "isbi2012-unet-b32", "--tile", "448", "--batch", "1", "--block", "1,512,512")
        peaks[side] = peak_of(volume, "-o", tmp_path / f"of-{side}.ome.zarr", *how)
    assert peaks[11218] < 1.1 * peaks[2048]  # 16 blocks, and 484


def test_what_the_user_says_of_arenas_is_kept(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert not share_one_arena()
