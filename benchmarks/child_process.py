"""Work in a process of its own: its times, and its peak of resident memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .measure import Sample


@dataclass(frozen=True, slots=True)
class Finished:
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


def run_script(script: str, *arguments: str) -> Finished:
    """Run a Python script in a process of its own and record its peak of resident memory."""
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "peak"
        command = [sys.executable, "-c", _WATCHED + script, *arguments]
        sample, output = _process(command, os.environ | {"BENCH_PEAK": str(note)})
        return Finished(sample, int(note.read_text()), output)


def run_command(*command: str) -> Finished:
    """Run a program as a user does; unwatched."""
    sample, output = _process(list(command), dict(os.environ))
    return Finished(sample, None, output)


def timed_process(work: Callable[[], Finished]) -> tuple[Sample, Finished]:
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
