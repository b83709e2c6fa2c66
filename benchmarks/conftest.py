"""Options, data and the comparison that all benchmarks share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isbi_infer import Segmenter
from isbi_infer.errors import IsbiError
from isbi_infer.sample import synthetic_stack
from isbi_infer.volumes import write_stack
from isbi_infer.volumes.protocol import StackInfo

from . import limits as limits_of_machine
from . import measure, store

_DRAWN = 1024  # drawing neuropil is slow; larger sections are mirrored out of one of this size
COMPARISONS = "comparisons: all rounds together"
_LINES = pytest.StashKey[list[str]]()


@dataclass(frozen=True, slots=True)
class Options:
    """What this run of the benchmarks was asked for."""

    provider: str
    precision: str
    size: int
    rounds: int
    store: bool
    results: Path
    full: bool
    one_core: bool
    quick: bool  # a smoke run (--benchmark-disable): everything once, on as little as possible

    @property
    def table_rounds(self) -> int:
        """Rounds of a contender's own row in pytest-benchmark's table; large ones take seconds each."""
        return 1 if self.size > 1024 else self.rounds

    def named(self, name: str) -> str:
        """Name a stored result; what is not usual (another provider or precision, --one-core) is part of it."""
        provider = "" if self.provider == "cpu" else f"-{self.provider}"
        precision = "" if self.precision == "fp32" else f"-{self.precision}"
        return f"{name}{provider}{precision}{'-one-core' if self.one_core else ''}"


def pytest_addoption(parser):
    group = parser.getgroup("isbi-infer benchmarks")
    group.addoption("--provider", default="cpu", help="where Segmenter computes; torch follows [cpu]")
    group.addoption("--precision", default="fp32", help="of the released model; peers run float32 [fp32]")
    group.addoption("--size", type=int, help="side of the large section in pixels [2048; 4096 with --full]")
    group.addoption("--rounds", type=int, default=5, help="interleaved rounds of a comparison [5]")
    group.addoption("--store", action="store_true", help="write benchmarks/results/MACHINE-DATE-NAME.json")
    group.addoption("--results", type=Path, default=store.RESULTS, help="where to write them")
    group.addoption(
        "--full", action="store_true", help="also what takes long: sections of 4096, 3,000 sections"
    )
    group.addoption(
        "--one-core",
        action="store_true",
        help="compute on one core: no threads wait for each other, so that CPU times hold on a busy machine",
    )


def pytest_configure(config):
    config.stash[_LINES] = []
    if config.option.one_core:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def pytest_benchmark_update_machine_info(config, machine_info):
    """Keep what tells machines apart; the machine's own name is nobody's business."""
    cpu = machine_info["cpu"]
    machine_info["cpu"] = {key: cpu[key] for key in ("brand_raw", "count") if key in cpu}
    for key in ("node", "python_build", "python_compiler", "release"):
        machine_info.pop(key, None)


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """Keep what `pytest-benchmark compare` reads; comparisons are stored by `keep`, with their rounds."""
    kept = [found for found in output_json["benchmarks"] if found["group"] != COMPARISONS]
    if not config.option.benchmark_save_data:
        for found in kept:
            found["stats"].pop("data", None)
    output_json["benchmarks"] = kept
    for key in ("project", "branch"):  # names of folders here
        output_json["commit_info"].pop(key, None)


def pytest_terminal_summary(terminalreporter, config):
    lines = config.stash[_LINES]
    if lines:
        terminalreporter.section("ratios of interleaved rounds: median (quartiles)")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def options(request):
    asked = request.config.option
    quick = asked.benchmark_disable
    return Options(
        provider=asked.provider,
        precision=asked.precision,
        size=asked.size or (320 if quick else 4096 if asked.full else 2048),
        rounds=1 if quick else asked.rounds,
        store=asked.store and not quick,
        results=asked.results,
        full=asked.full,
        one_core=asked.one_core,
        quick=quick,
    )


@pytest.fixture(scope="session")
def say(request) -> Callable[[str], None]:
    """Print a line at the end of the run."""
    return request.config.stash[_LINES].append


@pytest.fixture(scope="session")
def limits(options) -> dict[str, Any]:
    """Measure the machine's own limits once in this run, in a few seconds; see `limits.measure_limits`."""
    if options.quick:
        return limits_of_machine.measure_limits(options.provider, 0.0, [64], 2**20)
    return limits_of_machine.measured_apart(options.provider)


@pytest.fixture(scope="session")
def keep(options, say, request) -> Callable[..., None]:
    """Store a result where that was asked for, with the limits of the machine."""

    def kept(name: str, measured: Mapping[str, Any], **settings: Any) -> None:
        if options.store:
            asked = {
                "provider": options.provider,
                "precision": options.precision,
                "rounds": options.rounds,
            } | settings
            found = request.getfixturevalue("limits")
            path = store.store(options.named(name), measured, asked, options.results, found)
            say(f"stored {os.path.relpath(path)}")

    return kept


@pytest.fixture
def compare(benchmark, options, say) -> Callable[..., tuple[dict[str, Any], dict[str, Any]]]:
    """Run contenders in interleaved rounds; return the comparison, and each contender's last result."""

    def run(
        title: str, contenders: Mapping[str, measure.Work], baseline: str, timer: Any = measure.timed
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        benchmark.group = COMPARISONS
        rounds = benchmark.pedantic(
            measure.interleaved,
            (contenders, options.rounds, timer, not options.quick),
            rounds=1,
            iterations=1,
        )
        found = measure.compared(rounds, baseline)
        benchmark.extra_info.update(found)
        say(f"{title}: {baseline}: {found['contenders'][baseline]['wall_median_s']:.3f} s")
        for name, times in found["contenders"].items():
            if name == baseline:
                continue
            wall, cpu = (
                "{median:.3f} ({q1:.3f} to {q3:.3f})".format(**times[key])
                for key in ("wall_ratio", "cpu_ratio")
            )
            say(f"{title}: {name}: {times['wall_median_s']:.3f} s, times as long: wall {wall}, CPU {cpu}")
        return found, rounds.results

    return run


@pytest.fixture(scope="session", autouse=True)
def provider_is_there(options):
    """End the run at once, in one line, where it is not: before sections are drawn and networks exported."""
    reason = ""
    try:
        Segmenter(provider=options.provider, precision="fp32")
    except IsbiError as error:
        reason, code = str(error), error.exit_code
    if reason:
        pytest.exit(reason, returncode=code)


@pytest.fixture(scope="session")
def segmenter(options):
    return Segmenter(provider=options.provider, precision=options.precision)


@pytest.fixture(scope="session")
def drawn_ZYX(options):
    """A few synthetic sections, of which all others are made."""
    side = min(_DRAWN, options.size)
    return synthetic_stack(2 if options.quick else 4, side, side)[0]


@pytest.fixture(scope="session")
def large_YX(drawn_ZYX, options):
    """One section of the size asked for."""
    around = (0, options.size - drawn_ZYX.shape[1])
    return np.ascontiguousarray(np.pad(drawn_ZYX[0], (around, around), mode="reflect"))


@pytest.fixture(scope="session")
def small_ZYX(drawn_ZYX, options):
    """The challenge's shape: 30 sections of 512 x 512."""
    sections, side = (4, 64) if options.quick else (30, 512)
    corners = [drawn_ZYX[:, y : y + side, x : x + side] for y in (0, side) for x in (0, side)]
    found_ZYX = np.concatenate([corner for corner in corners if corner.shape[1:] == (side, side)])
    return np.ascontiguousarray(np.resize(found_ZYX, (sections, side, side)))


@pytest.fixture(scope="session")
def write_sections(tmp_path_factory) -> Callable[[Any], Path]:
    """Write a stack as TIFF and return its path; the folder goes at the end of the run."""
    folders = []

    def write(stack_ZYX: Any, sections: int | None = None) -> Path:
        count = sections or len(stack_ZYX)
        folders.append(tmp_path_factory.mktemp("stack"))
        path = folders[-1] / "stack.tif"
        shape = (count, *stack_ZYX.shape[1:])
        pages = (stack_ZYX[z % len(stack_ZYX)] for z in range(count))
        write_stack(path, pages, like=StackInfo(shape=shape), dtype=stack_ZYX.dtype)
        return path

    yield write
    for folder in folders:
        shutil.rmtree(folder)
