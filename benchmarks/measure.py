"""Measurement that holds on a noisy machine: interleaved rounds, CPU time beside wall time, results with their origin.

A comparison is a ratio with its spread, taken round by round, and never two numbers from two runs: what disturbs
one contender of a round disturbs its neighbours too.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SCHEMA = 1
_DISTRIBUTIONS = ("isbi-infer", "numpy", "tifffile", "onnxruntime", "torch", "monai", "bioimageio.core")

Work = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: wall time, and processor time of the whole process (all threads), in seconds."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles."""

    q1: float
    median: float
    q3: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise values; the quartiles of a single one are that one."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


def timed(work: Work) -> tuple[Sample, Any]:
    """Run once; give the times and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return Sample(time.perf_counter() - wall, time.process_time() - cpu), result


@dataclass(slots=True)
class Rounds:
    """What interleaved rounds gave: the samples of each contender, its last result, the load before each round."""

    samples: dict[str, list[Sample]]
    results: dict[str, Any] = field(default_factory=dict)
    load: list[float] = field(default_factory=list)


def interleaved(
    contenders: Mapping[str, Work],
    rounds: int,
    timer: Callable[[Work], tuple[Sample, Any]] = timed,
    warm_up: bool = True,
) -> Rounds:
    """Run every contender once a round, after one round that does not count.

    Each round starts with the next contender, so that none always comes first or after the same one.

    Parameters
    ----------
    contenders : mapping of str to callable
        What to run.
    rounds : int
        Rounds that count.
    timer : callable, optional
        Runs one; `fresh_timed` where each run is a process of its own.
    warm_up : bool
        Whether to run the round that does not count.

    Returns
    -------
    Rounds
    """
    names = list(contenders)
    done = Rounds({name: [] for name in names})
    for number in range(-1 if warm_up else 0, rounds):
        load = load_average()
        turn = max(number, 0) % len(names)
        for name in names[turn:] + names[:turn]:
            sample, done.results[name] = timer(contenders[name])
            if number >= 0:
                done.samples[name].append(sample)
        if number >= 0:
            done.load.append(load)
    return done


def compared(rounds: Rounds, baseline: str) -> dict[str, Any]:
    """Summarise rounds: times of each contender, and its ratio to the baseline's, round by round."""
    base = rounds.samples[baseline]
    contenders = {}
    for name, samples in rounds.samples.items():
        times = {"wall_s": [s.wall_s for s in samples], "cpu_s": [s.cpu_s for s in samples]}
        wall = [s.wall_s / b.wall_s for s, b in zip(samples, base, strict=True)]
        cpu = [s.cpu_s / b.cpu_s for s, b in zip(samples, base, strict=True)]
        contenders[name] = times | {
            "wall_median_s": statistics.median(times["wall_s"]),
            "cpu_median_s": statistics.median(times["cpu_s"]),
            "wall_ratio": asdict(Spread.of(wall)),
            "cpu_ratio": asdict(Spread.of(cpu)),
        }
    return {"baseline": baseline, "load_average": rounds.load, "contenders": contenders}


# Fresh processes


@dataclass(frozen=True, slots=True)
class Fresh:
    """A finished process: its times, its peak of resident memory where it was asked for, and what it printed."""

    sample: Sample
    peak_bytes: int | None
    output: str


# A child's ru_maxrss starts at what its parent held when it forked; VmHWM is the child's own.
_WATCHED = """
import atexit, os, resource, sys
def _peak():
    try:
        with open("/proc/self/status") as status:
            peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open(os.environ["BENCH_PEAK"], "w") as file:
        file.write(str(peak))
atexit.register(_peak)
"""


def fresh(script: str, *arguments: str) -> Fresh:
    """Run a Python script in a process of its own and record its peak of resident memory."""
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "peak"
        command = [sys.executable, "-c", _WATCHED + script, *arguments]
        sample, output = _process(command, os.environ | {"BENCH_PEAK": str(note)})
        return Fresh(sample, int(note.read_text()), output)


def fresh_command(*command: str) -> Fresh:
    """Run a program as a user does; unwatched."""
    sample, output = _process(list(command), dict(os.environ))
    return Fresh(sample, None, output)


def fresh_timed(work: Callable[[], Fresh]) -> tuple[Sample, Fresh]:
    """Time what starts a process by that process; for `interleaved`."""
    result = work()
    return result.sample, result


def _process(command: list[str], environment: dict[str, str]) -> tuple[Sample, str]:
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Sample(wall, cpu), done.stdout


# What is stored


def store(
    name: str, measured: Mapping[str, Any], settings: Mapping[str, Any], folder: Path = RESULTS
) -> Path:
    """Write one result with the machine, the versions and the load it was measured under.

    Parameters
    ----------
    name : str
        Of the question, such as ``peers-4096``.
    measured : mapping
        The figures.
    settings : mapping
        What they were measured with.
    folder : Path
        Where to; the file is named by machine, date and `name`, and replaces one of the same day.

    Returns
    -------
    Path
    """
    now = datetime.datetime.now(datetime.UTC)
    record = {
        "schema": SCHEMA,
        "name": name,
        "measured_at": now.isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "load_average_after": load_average(),
        "settings": dict(settings),
        "measured": dict(measured),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_slug()}-{now:%Y-%m-%d}-{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def machine() -> dict[str, Any]:
    """Say what this machine is."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Give the versions of what is installed of this project, its runtimes and its peers."""
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cores() -> int:
    """Count the processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> float:
    """Give how many processes wanted to run over the last minute; 0 where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = re.findall(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return names[0].strip() if names else platform.machine()


def _slug() -> str:
    model = re.sub(r"\(.*?\)|@.*|\bCPU\b|\bProcessor\b", " ", _cpu_model())
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-") + f"-{os.cpu_count()}-cores"
