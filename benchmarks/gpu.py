"""How busy a GPU is while something runs, as NVIDIA's driver counts it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from statistics import fmean
from typing import Any

_EVERY_MS = 200  # the driver's own figure covers a sixth of a second or more
_FIRST_S = 1.0  # until the figure is of this work alone
_COMMAND = [
    "nvidia-smi",
    "--query-gpu=utilization.gpu",
    "--format=csv,noheader,nounits",
    "--id=0",
    f"--loop-ms={_EVERY_MS}",
]


def busy_share(work: Callable[[], Any], seconds: float = 4.0) -> float | None:
    """Repeat `work` and sample the GPU; best effort.

    Parameters
    ----------
    work : callable
        What to repeat.
    seconds : float
        For how long; the first of them does not count.

    Returns
    -------
    float or None
        Share of time in which a kernel ran, in [0, 1]; None where the driver's program is not there or does not say.
    """
    _repeat(work, _FIRST_S)
    try:
        watching = subprocess.Popen(_COMMAND, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return None
    try:
        _repeat(work, seconds - _FIRST_S)
    finally:
        watching.terminate()
        output, _ = watching.communicate()
    return mean_share(output)


def mean_share(output: str) -> float | None:
    """Average the percentages that the driver's program printed, a line each; None where there is none."""
    figures = [float(line) for line in map(str.strip, output.splitlines()) if line.isdecimal()]
    return fmean(figures) / 100 if figures else None


def _repeat(work: Callable[[], Any], seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        work()
