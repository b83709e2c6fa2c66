"""What this project adds to the runtime: Segmenter against raw ONNX Runtime, and a whole run against its model time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from isbi_infer import Segmenter
from isbi_infer.backends.base import Backend
from isbi_infer.model.opening import open_model
from isbi_infer.pixels.normalise import intensity_statistics, normalise
from isbi_infer.pixels.texture import texture_of
from isbi_infer.plan.tiles import read_mirrored
from isbi_infer.run.findings import LOOKED_AT

from .machine import load_average
from .measure import Spread, timed

STACKS = ["30x512x512", "large"]


@pytest.fixture(params=STACKS)
def stack_ZYX(request, small_ZYX, large_YX):
    return small_ZYX if request.param == "30x512x512" else large_YX[None]


def named(stack_ZYX):
    return "x".join(map(str, stack_ZYX.shape)) if len(stack_ZYX) > 1 else str(stack_ZYX.shape[1])


class RawRuntime:
    """The same model, threads, tiles and batches as Segmenter, but nothing else: tiles ready, results dropped."""

    def __init__(self, segmenter, stack_ZYX):
        run_plan = segmenter.plan(stack_ZYX.shape)
        backend = open_model(None, segmenter.provider, segmenter.precision).backend
        self.backend = backend.on_all_cores() if run_plan.all_cores else backend
        self.workers = run_plan.workers
        plan = run_plan.section
        statistics = [intensity_statistics(section_YX) for section_YX in stack_ZYX]
        tiles = [
            normalise(read_mirrored(section_YX, plan.pad, tile.reads), found)
            for section_YX, found in zip(stack_ZYX, statistics, strict=True)
            for tile in plan.tiles
        ]
        size = run_plan.batch
        self.batches = [np.stack(tiles[i : i + size])[:, None] for i in range(0, len(tiles), size)]

    def __call__(self):
        with ThreadPoolExecutor(self.workers) as pool:
            for done in [pool.submit(self._run, batch_NCYX) for batch_NCYX in self.batches]:
                done.result()

    def _run(self, batch_NCYX):
        self.backend.run(batch_NCYX)


def test_segmenter(benchmark, segmenter, stack_ZYX, options):
    benchmark.group = f"overhead {named(stack_ZYX)}"
    benchmark.pedantic(
        segmenter, (stack_ZYX,), rounds=options.rounds, warmup_rounds=not options.quick, iterations=1
    )


def test_raw_onnxruntime(benchmark, segmenter, stack_ZYX, options):
    benchmark.group = f"overhead {named(stack_ZYX)}"
    raw = RawRuntime(segmenter, stack_ZYX)
    benchmark.pedantic(raw, rounds=options.rounds, warmup_rounds=not options.quick, iterations=1)


def test_segmenter_against_raw_onnxruntime_ratio(compare, keep, segmenter, stack_ZYX):
    contenders = {
        "raw ONNX Runtime": RawRuntime(segmenter, stack_ZYX),
        "Segmenter": lambda: segmenter(stack_ZYX),
    }
    name = f"raw-{named(stack_ZYX)}"
    found, _ = compare(name, contenders, "raw ONNX Runtime")
    plan = segmenter.plan(stack_ZYX.shape).section
    keep(
        name,
        found,
        shape=stack_ZYX.shape,
        tile_shape=plan.tile_shape,
        tiles=len(plan.tiles),
        pixels_computed_per_pixel=plan.overhead,
        workers=contenders["raw ONNX Runtime"].workers,
        model_sha256=segmenter.model_sha256,
    )


def test_looking_at_sections_against_a_run_ratio(compare, keep, small_ZYX, options):
    """What it takes to see whether tissue looks unlike the training data, of as many sections as a run looks at."""
    if options.provider != "cpu":
        pytest.skip("the default is timed on the processor")
    segmenter = Segmenter()
    looked_at = small_ZYX[:: max(1, len(small_ZYX) // LOOKED_AT)][:LOOKED_AT]
    known = [(section_YX, intensity_statistics(section_YX)) for section_YX in looked_at]

    def look():
        return [texture_of(section_YX, statistics) for section_YX, statistics in known]

    run, looking = f"a run of {len(small_ZYX)} sections", f"looking at {len(looked_at)} of them"
    found, results = compare("looks", {run: lambda: segmenter(small_ZYX), looking: look}, run)
    assert options.quick or None not in results[looking]
    keep(
        "looks",
        found,
        shape=small_ZYX.shape,
        model_sha256=segmenter.model_sha256,
        runtime=segmenter.provider,
        computed_in=segmenter.precision,
    )


@dataclass
class ModelTime:
    """Time inside the model: of all calls together, and their processor time."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    spans: list[tuple[float, float]] = field(default_factory=list)
    cpu_s: float = 0.0

    @property
    def wall_s(self):
        return sum(stop - start for start, stop in self.spans)

    @property
    def any_wall_s(self):
        """Time in which at least one call ran."""
        covered, until = 0.0, -np.inf
        for start, stop in sorted(self.spans):
            covered += max(0.0, stop - max(start, until))
            until = max(until, stop)
        return covered


@contextmanager
def model_timed(workers) -> Iterator[ModelTime]:
    """Time every `Backend.run`; a call that is alone computes in threads that only the process's clock sees."""
    found, run = ModelTime(), Backend.run
    cpu_clock = time.thread_time if workers > 1 else time.process_time

    def timed_run(self, *tensors, **options):
        cpu, start = cpu_clock(), time.perf_counter()
        result = run(self, *tensors, **options)
        stop, cpu = time.perf_counter(), cpu_clock() - cpu
        with found.lock:
            found.spans.append((start, stop))
            found.cpu_s += cpu
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backend, "run", timed_run)
        yield found


def test_whole_run_outside_the_model(
    benchmark, segmenter, stack_ZYX, write_sections, tmp_path, options, keep, say
):
    """File to file; the shares of time in which the model does not compute."""
    source, workers = write_sections(stack_ZYX), segmenter.plan(stack_ZYX.shape).workers
    keys = ("wall_s", "cpu_s", "worker_share", "wall_share", "cpu_share", "system_share", "load_average")
    measured = {key: [] for key in keys}

    def whole_run():
        with model_timed(workers) as model:
            load, system = load_average(), os.times().system
            sample, _ = timed(lambda: segmenter.segment_file(source, tmp_path / "out.tif"))
        measured["load_average"].append(load)
        measured["system_share"].append((os.times().system - system) / sample.cpu_s)
        measured["wall_s"].append(sample.wall_s)
        measured["cpu_s"].append(sample.cpu_s)
        measured["worker_share"].append(1 - model.wall_s / (workers * sample.wall_s))
        measured["wall_share"].append(1 - model.any_wall_s / sample.wall_s)
        measured["cpu_share"].append(1 - model.cpu_s / sample.cpu_s)

    benchmark.group = f"file to file {named(stack_ZYX)}"
    segmenter.segment_file(source, tmp_path / "out.tif")
    benchmark.pedantic(whole_run, rounds=options.rounds, iterations=1)
    shares = {key: Spread.of(measured[key]) for key in keys if key.endswith("share")}
    benchmark.extra_info.update({key: spread.median for key, spread in shares.items()})
    name = f"outside-{named(stack_ZYX)}"
    say(
        f"{name}: outside the model {shares['cpu_share'].median:.1%} of CPU time, {shares['worker_share'].median:.1%} "
        f"of the workers' wall time; no model running in {shares['wall_share'].median:.1%} of wall time; "
        f"the kernel {shares['system_share'].median:.1%} of CPU time"
    )
    keep(name, measured, shape=stack_ZYX.shape, workers=workers, model_sha256=segmenter.model_sha256)
