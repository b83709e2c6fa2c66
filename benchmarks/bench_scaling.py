"""How whole runs grow: with the size of a section, the number of sections, cores, and processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import pytest

from isbi_infer.backends.cores import available_cores
from isbi_infer.volumes import write_stack
from isbi_infer.volumes.protocol import StackInfo

from .measure import Sample, timed

SIDES = (512, 1024, 2048, 4096)  # up to --size
LONGEST_SIDE = 8192  # with --full
COUNTS, MOST_SECTIONS = (30, 300), 3000
COUNTED_SIDE = 256  # small sections: what a section costs beside its pixels shows most

# Opens the model, says so, and segments when it is told to; the cores are what `taskset` would set.
WORKER = """
import json, os, sys, time
cores, provider, precision, source, target = sys.argv[1:]
if cores:
    os.sched_setaffinity(0, map(int, cores.split(",")))
from isbi_infer import Segmenter
segmenter = Segmenter(provider=provider, precision=precision)
print("ready", flush=True)
sys.stdin.readline()
cpu = time.process_time()
summary = segmenter.segment_file(source, target)
cpu_s = time.process_time() - cpu
print(json.dumps({"cpu_s": cpu_s, "workers": segmenter.plan(summary.shape).workers}))
"""


@pytest.fixture
def target(tmp_path):
    yield tmp_path / "out.tif"
    for path in tmp_path.iterdir():
        path.unlink()  # hundreds of MB each


@pytest.fixture(scope="module")
def sides(options, request):
    if options.quick:
        return [options.size // 2, options.size]
    largest = request.config.option.size or (LONGEST_SIDE if options.full else SIDES[-1])
    return [side for side in (*SIDES, LONGEST_SIDE) if side <= largest] or [largest]


@pytest.fixture(scope="module")
def section_YX(large_YX):
    """Return what cuts the section of any size."""

    def cut(side):
        around = (0, max(0, side - len(large_YX)))
        return np.pad(large_YX, (around, around), mode="reflect")[:side, :side]

    return cut


def test_size_of_a_section_ratio(compare, keep, say, segmenter, sides, section_YX, write_sections, target):
    contenders, work = {}, {}
    for side in sides:
        source, plan = write_sections(section_YX(side)[None]), segmenter.plan((side, side)).section
        contenders[str(side)] = lambda source=source: segmenter.segment_file(source, target)
        work[str(side)] = {
            "pixels": side**2,
            "tiles": len(plan.tiles),
            "tile_shape": plan.tile_shape,
            "pixels_computed_per_pixel": plan.overhead,
        }
    found, _ = compare("scaling-size", contenders, str(sides[0]))
    report(say, "scaling-size", found, work)
    keep("scaling-size", found | {"work": work}, model_sha256=segmenter.model_sha256)


def test_number_of_sections_ratio(compare, keep, say, segmenter, drawn_ZYX, write_sections, target, options):
    side = 64 if options.quick else COUNTED_SIDE
    counts = (2, 8) if options.quick else (*COUNTS, MOST_SECTIONS) if options.full else COUNTS
    stack_ZYX = drawn_ZYX[:, :side, :side]
    sources = {str(count): write_sections(stack_ZYX, count) for count in counts}
    contenders = {
        count: lambda source=source: segmenter.segment_file(source, target)
        for count, source in sources.items()
    }
    work = {str(count): {"sections": count, "pixels": count * side**2} for count in counts}
    found, _ = compare("scaling-sections", contenders, str(counts[0]))
    report(say, "scaling-sections", found, work)
    keep("scaling-sections", found | {"work": work}, side=side, model_sha256=segmenter.model_sha256)


def report(say, title, found, work):
    """Return how fast each was, and how long it took per pixel against the first."""
    base = work[found["baseline"]]["pixels"]
    for name, times in found["contenders"].items():
        pixels = work[name]["pixels"]
        per_pixel = times["wall_ratio"]["median"] * base / pixels
        say(
            f"{title}: {name}: {pixels / times['wall_median_s'] / 1e6:.2f} Mpx/s, {per_pixel:.3f} as long per pixel"
        )


@dataclass(frozen=True, slots=True)
class Processes:
    """Processes at once, each on its own part of a stack.

    Attributes
    ----------
    parts : list of Path
        The stacks, one a process.
    cores : list of str
        What each may use, as a list of numbers; all that this process may use where it is empty.
    folder : Path
        For the results.
    asked : tuple of str
        Provider and precision.
    """

    parts: list[Path]
    cores: list[str]
    folder: Path
    asked: tuple[str, str]

    def run(self) -> tuple[Sample, list[int]]:
        """Return the time from when all have opened their models until the last is done, and each one's workers."""
        started = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    WORKER,
                    own,
                    *self.asked,
                    str(part),
                    str(self.folder / f"{number}.tif"),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number, (part, own) in enumerate(zip(self.parts, self.cores, strict=True))
        ]
        try:
            for process in started:
                if process.stdout.readline() != "ready\n":
                    raise RuntimeError("a process could not open its model; see above")
            sample, said = timed(lambda: self._segmented(started))
        finally:
            for process in started:
                process.kill()
                process.wait()
                process.stdout.close()
                process.stdin.close()
        return Sample(sample.wall_s, sum(each["cpu_s"] for each in said)), [each["workers"] for each in said]

    @staticmethod
    def _segmented(started):
        for process in started:
            process.stdin.write("\n")
            process.stdin.flush()
        said = [json.loads(process.stdout.readline() or "null") for process in started]
        if None in said:
            raise RuntimeError("a process failed; see above")
        return said


def allotments() -> dict[str, list[str]]:
    """Name what is compared: the cores of each process."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system does not let a process choose its cores")
    usable = sorted(os.sched_getaffinity(0))
    first, second = (str(core) for core in (*usable, *usable)[:2])
    found = {"1 process, 1 core": [first]}
    if available_cores() > 1:
        found |= {
            "1 process, 2 cores": [f"{first},{second}"],
            "2 processes, 1 core each": [first, second],
            "2 processes, both on 2 cores": [f"{first},{second}"] * 2,
        }
    return found


@pytest.fixture
def build(small_ZYX, tmp_path, options):
    """Build the processes of an allotment; each gets its part of the 30 sections."""
    asked = (options.provider, options.precision)

    def built(allotted):
        paths = []
        for number, part_ZYX in enumerate(np.array_split(small_ZYX, len(allotted))):
            paths.append(tmp_path / f"part{number}of{len(allotted)}.tif")
            write_stack(paths[-1], part_ZYX, like=StackInfo(shape=part_ZYX.shape), dtype=part_ZYX.dtype)
        return Processes(paths, allotted, tmp_path, asked)

    yield built
    for path in tmp_path.iterdir():
        path.unlink()


def test_cores_and_processes_ratio(compare, keep, say, build, small_ZYX, options):
    allotted = allotments()
    if len(allotted) == 1:
        say("scaling-cores: skipped two cores and two processes: there is one core")
    if options.quick:
        allotted = dict([max(allotted.items(), key=lambda item: len(item[1]))])
    baseline = next(iter(allotted))
    processes = {name: build(own) for name, own in allotted.items()}
    found, workers = compare(
        "scaling-cores",
        {name: each.run for name, each in processes.items()},
        baseline,
        timer=lambda work: work(),
    )
    pixels = prod(small_ZYX.shape)
    work = {name: {"pixels": pixels, "workers": workers[name]} for name in processes}
    for name, times in found["contenders"].items():
        say(f"scaling-cores: {name}: {1 / times['wall_ratio']['median']:.2f} times as fast as {baseline}")
        if options.provider == "cpu":
            assert workers[name] == [len(own.split(",")) for own in allotted[name]]
    keep("scaling-cores", found | {"work": work}, shape=small_ZYX.shape)


def test_section(benchmark, segmenter, sides, section_YX, write_sections, target, options):
    """The middle size alone, for `pytest-benchmark compare`."""
    side = sides[len(sides) // 2]
    source = write_sections(section_YX(side)[None])
    benchmark.group = f"one section of {side} x {side}, TIFF to TIFF"
    summary = benchmark.pedantic(
        segmenter.segment_file, (source, target), rounds=options.rounds, iterations=1
    )
    assert summary.shape[-2:] == (side, side)
