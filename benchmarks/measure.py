"""Measurement that holds on a noisy machine: interleaved rounds, CPU time beside wall time.

A comparison is a ratio with its spread, taken round by round, and never two numbers from two runs: what disturbs
one contender of a round disturbs its neighbours too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .machine import load_average

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
    """Run once; return the times and the result."""
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
        Runs one; `timed_process` where each run is a process of its own.
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
