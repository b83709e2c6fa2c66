"""What a process holds does not follow the size of the volume: peaks of real processes, as the kernel counts them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from volume_files import write_omezarr

from isbi_infer.sample import synthetic_stack

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux counts peaks")

PEAK = """
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
SEGMENT = (
    PEAK
    + """
import sys
from isbi_infer import Segmenter
from isbi_infer.run.volume import VolumeOptions
model = Segmenter("isbi2012-unet-b32", provider="cpu", tile=256, batch=1, precision="int8")
model.segment_file(sys.argv[1], sys.argv[2], options=VolumeOptions(block=(1, 256, 256), pyramid=True))
print(peak())
"""
)


def peak_of(script, *arguments):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.parametrize(
    ("few", "many", "factor"),
    [
        (10, 100, 1.15),
        pytest.param(300, 1200, 1.05, marks=pytest.mark.more),
    ],  # at first the allocator fills its arenas
)
def test_more_sections_take_no_more_memory(tmp_path, few, many, factor):
    image_ZYX, _ = synthetic_stack(2, 256, 256)
    peaks = {}
    for sections in (few, many):
        volume = write_omezarr(
            tmp_path / f"{sections}.ome.zarr", [np.resize(image_ZYX, (sections, 256, 256))]
        )
        peaks[sections] = peak_of(SEGMENT, volume, tmp_path / f"of-{sections}.ome.zarr")
    assert peaks[many] < factor * peaks[few]
