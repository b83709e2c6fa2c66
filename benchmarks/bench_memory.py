"""Peak memory and start-up time, each in a process of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from isbi_infer.backends.cores import available_cores
from isbi_infer.model.devices import rows
from isbi_models import default_model

from .child_process import run_command, run_script, timed_process
from .machine import load_average
from .measure import Spread

PROGRAM = str(Path(sys.executable).with_name("isbi-infer"))

WHOLE_RUN = """
from isbi_infer import Segmenter
source, target, provider, tile = sys.argv[1:]
segmenter = Segmenter(provider=provider, precision="fp32", tile=int(tile) or None)
segmenter.segment_file(source, target)
"""

# What the model takes when each worker computes a tile; the input is there before.
TILES_AT_ONCE = """
import json
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from isbi_infer.model.opening import open_model
provider, tile = sys.argv[1], int(sys.argv[2])
backend = open_model(None, provider, "fp32").backend
batch_NCYX = np.ones((1, 1, tile, tile), np.float32)
def field(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))
before = field("VmRSS")
with ThreadPoolExecutor(backend.workers) as pool:
    for _ in pool.map(lambda _: backend.run(batch_NCYX) is None, range(3 * backend.workers)):
        pass
print(json.dumps({"workers": backend.workers, "bytes": field("VmHWM") - before}))
"""

# The same for one precision of a device, and the probe's tile is there before.
TILES_IN_A_PRECISION = """
import json
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from isbi_infer.model.contract import contract_of
from isbi_infer.model.devices import open_backend, rows
from isbi_infer.model.file import read_model_file
from isbi_models import default_model
provider, precision, tile = sys.argv[1], sys.argv[2], int(sys.argv[3])
row = next(rows("onnx", provider))
arithmetic = next(a for a in row.arithmetic if a.name == precision)
content = default_model().files[arithmetic.file].path.read_bytes()
file = read_model_file(content)
contract = contract_of(file.metadata, file.digest)
backend = open_backend(content, row, arithmetic)
backend.run(np.ones((1, 1, contract.stride, 2 * contract.stride), np.float32))
batch_NCYX = np.ones((1, 1, tile, tile), np.float32)
out = [np.ones_like(batch_NCYX) for _ in range(backend.workers)]
def field(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))
before = field("VmRSS")
with ThreadPoolExecutor(backend.workers) as pool:
    for k in range(3):
        list(pool.map(lambda result: backend.run(batch_NCYX, out=result) is None, out))
per_pixel = (field("VmHWM") - before) / (tile**2 * backend.workers)
print(json.dumps({"workers": backend.workers, "bytes_per_pixel": per_pixel,
                  "of_activations": per_pixel / contract.activation_bytes_per_pixel}))
"""

FIRST_SECTION = """
import numpy as np
from isbi_infer import Segmenter
Segmenter(provider=sys.argv[1])(np.zeros((512, 512), np.uint8))
"""


def limit_bytes(contract):
    """Return the goal per tile pixel and worker for the model's network."""
    network = contract.provenance["training"]["network"]
    return 8.5 * network["base"] * 4 / network["unshuffle"] ** 2


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")


@linux_only
def test_peak_memory_whatever_the_number_of_sections(
    benchmark, small_ZYX, write_sections, tmp_path, options, keep, say
):
    counts = [2, 4] if options.quick else [30, 300, 3000] if options.full else [30, 300]
    measured = {}

    def run_all():
        for count in counts:
            source, target = write_sections(small_ZYX, count), tmp_path / "out.tif"
            # Whether two workers are at their peak together is chance; a long stack gives it many.
            runs = [
                run_script(WHOLE_RUN, str(source), str(target), options.provider, "0")
                for _ in range(options.rounds if count == counts[0] else 1)
            ]
            peaks, seconds = [run.peak_bytes for run in runs], [run.sample.wall_s for run in runs]
            measured[str(count)] = {"peak_bytes": peaks, "wall_s": seconds}
            source.unlink()
            target.unlink()
            say(f"{count} sections: peak {max(peaks) / 2**20:.0f} MiB, {min(seconds):.1f} s")

    benchmark.group = "memory"
    benchmark.pedantic(run_all, rounds=1, iterations=1)
    benchmark.extra_info.update(measured)
    keep("memory-sections", {"by_sections": measured}, shape=small_ZYX.shape[1:])


@linux_only
def test_memory_of_a_tile(benchmark, drawn_ZYX, write_sections, segmenter, tmp_path, options, keep, say):
    tiles = [448] if options.quick else [512, 1024, 1536, 2048]
    halo, limit, measured = segmenter.contract.halo, limit_bytes(segmenter.contract), {}

    def run_all():
        idle = run_script(
            "import isbi_infer\nisbi_infer.Segmenter(provider=sys.argv[1], precision='fp32')",
            options.provider,
        )
        for tile in tiles:
            alone = json.loads(run_script(TILES_AT_ONCE, options.provider, str(tile)).output)
            side = 2 * tile - 2 * halo  # of a section that is cut into 2 x 2 such tiles
            around = (0, max(0, side - drawn_ZYX.shape[1]))
            section_YX = np.pad(drawn_ZYX[0], (around, around), mode="reflect")[:side, :side]
            source = write_sections(section_YX[None])
            whole = run_script(WHOLE_RUN, str(source), str(tmp_path / "out.tif"), options.provider, str(tile))
            pixels = tile**2 * alone["workers"]
            measured[str(tile)] = {
                "workers": alone["workers"],
                "model_bytes_per_pixel": alone["bytes"] / pixels,
                "run_bytes_per_pixel": (whole.peak_bytes - idle.peak_bytes) / pixels,
                "run_peak_bytes": whole.peak_bytes,
            }
            say(
                f"tile {tile}: {alone['bytes'] / pixels:.0f} bytes per tile pixel and worker for the model, "
                f"{measured[str(tile)]['run_bytes_per_pixel']:.0f} for a whole run; limit {limit:.0f}"
            )

    benchmark.group = "memory"
    benchmark.pedantic(run_all, rounds=1, iterations=1)
    benchmark.extra_info.update(measured)
    keep("memory-tiles", {"by_tile": measured, "limit_bytes_per_pixel": limit})


@linux_only
def test_memory_of_a_tile_in_every_precision(benchmark, options, keep, say):
    """What the table of devices says of each precision: bytes per byte of live float32 activations."""
    tiles, row, measured = (
        [64, 128] if options.quick else [1024, 2048],
        next(rows("onnx", options.provider)),
        {},
    )

    def run_all():
        for arithmetic in (a for a in row.arithmetic if a.file in default_model().files):
            found = {
                str(tile): json.loads(
                    run_script(TILES_IN_A_PRECISION, options.provider, arithmetic.name, str(tile)).output
                )
                for tile in tiles
            }
            measured[arithmetic.name] = found
            factors = ", ".join(f"{at['of_activations']:.2f} at {tile}" for tile, at in found.items())
            say(f"{row.name} {arithmetic.name}: {factors}; the table says {arithmetic.memory}")

    benchmark.group = "memory"
    benchmark.pedantic(run_all, rounds=1, iterations=1)
    benchmark.extra_info.update(measured)
    keep("memory-precisions", {"by_precision": measured})


def test_start_up_ratio(compare, keep, options):
    python = [sys.executable, "-c"]
    contenders = {
        "python, nothing": lambda: run_command(*python, "pass"),
        "isbi-infer --help": lambda: run_command(PROGRAM, "--help"),
        "from isbi_infer import Segmenter": lambda: run_command(*python, "from isbi_infer import Segmenter"),
        "first section of 512 x 512": lambda: run_command(
            *python, "import sys" + FIRST_SECTION, options.provider
        ),
    }
    found, _ = compare("start-up", contenders, "python, nothing", timer=timed_process)
    keep("start-up", found)


def test_command_line_from_file_to_file(benchmark, small_ZYX, write_sections, tmp_path, options, keep, say):
    """30 sections of 512 x 512 with the released model (--precision), from starting the program to its end."""
    source, samples, loads = write_sections(small_ZYX), [], []
    command = [
        PROGRAM,
        str(source),
        "-o",
        str(tmp_path / "out.tif"),
        "--quiet",
        "--provider",
        options.provider,
        "--precision",
        options.precision,
    ]

    def run():
        loads.append(load_average())
        samples.append(run_command(*command).sample)

    benchmark.group = "command line, file to file"
    benchmark.pedantic(run, rounds=options.rounds, warmup_rounds=not options.quick, iterations=1)
    counted = samples[-options.rounds :]
    measured = {"wall_s": [s.wall_s for s in counted], "cpu_s": [s.cpu_s for s in counted]}
    spread, cores = {key: Spread.of(values) for key, values in measured.items()}, available_cores()
    say(
        f"isbi-infer, {len(small_ZYX)} sections: {spread['wall_s'].median:.2f} s wall, "
        f"{spread['cpu_s'].median:.2f} s CPU, {spread['cpu_s'].median / cores:.2f} s were {cores} cores idle"
    )
    keep(
        "command-line",
        measured | {"load_average": loads[-options.rounds :]},
        shape=small_ZYX.shape,
    )
