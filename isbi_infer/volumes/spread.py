"""Numbered pieces of work, one after the other here, or spread over the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Found = TypeVar("Found")


class Spread(Protocol):
    """Carries out pieces of work whose order does not matter."""

    def __call__(self, work: Callable[[int], Found], count: int) -> Iterable[tuple[int, Found]]:
        """Yield the number of each piece with its result, as it is done.

        Parameters
        ----------
        work : callable
            Takes a number; is called in any process, and again for the same number where a process died.
        count : int
            How many there are: the numbers from 0.
        """


def in_turn(work: Callable[[int], Found], count: int) -> Iterator[tuple[int, Found]]:
    """Carry out pieces of work here, in order; a `Spread`."""
    for number in range(count):
        yield number, work(number)
