"""Which sections a network sees around one: its neighbours in the stack, which is mirrored at its ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class _BeyondLastError(Exception):
    """There are no more sections; unlike an IndexError, nothing that reads them raises it."""


def mirrored(z: int, sections: int) -> int:
    """Return the number of the section that stands at a place of a stack mirrored about its first and last one.

    Parameters
    ----------
    z : int
        The place, which may be before or beyond the stack.
    sections : int
        How many it has, at least 1.
    """
    if sections == 1:
        return 0
    place = z % (2 * (sections - 1))
    return min(place, 2 * (sections - 1) - place)


def around(z: int, sections: int, neighbours: int) -> list[int]:
    """Return the numbers of the sections that a network sees for one, from the farthest before to the farthest after.

    Parameters
    ----------
    z : int
        The section.
    sections : int
        How many the stack has.
    neighbours : int
        How many are seen on either side.
    """
    return [mirrored(place, sections) for place in range(z - neighbours, z + neighbours + 1)]


class Stacked(Generic[Item]):
    """Sections by their numbers, of which the last few are held, however they come.

    Parameters
    ----------
    read : callable
        Returns what belongs to a section, by its number. What it raises is raised where the section is wanted.
    neighbours : int
        How many are seen on either side.
    """

    def __init__(self, read: Callable[[int], Item], neighbours: int) -> None:
        self._read, self._neighbours = read, neighbours
        self._held: dict[int, Item] = {}

    @classmethod
    def of(cls, items: Iterable[Item], neighbours: int) -> Stacked[Item]:
        """Take them one after the other, in order; how many there are shows in the end."""
        waiting = iter(items)

        def following(_: int) -> Item:
            for item in waiting:
                return item
            raise _BeyondLastError

        return cls(following, neighbours)

    def around(self, z: int, sections: int | None = None) -> list[Item] | None:
        """Return what belongs to a section and its neighbours, as `around` counts them; None beyond the last one.

        Parameters
        ----------
        z : int
            The section: of an iterable the one after that of the last call, from 0.
        sections : int, optional
            How many there are, where it is known.
        """
        if sections is None:
            sections = self._sections_seen(z)
        if z >= sections:
            return None
        numbers = around(z, sections, self._neighbours)
        found = [self._get(number) for number in numbers]
        oldest = z + 1 - self._neighbours  # that the next section needs
        self._held = {number: item for number, item in self._held.items() if number >= oldest}
        return found

    def __iter__(self) -> Iterator[list[Item]]:
        """Give each section of an iterable with its neighbours."""
        z = 0
        while (found := self.around(z)) is not None:
            yield found
            z += 1

    def _sections_seen(self, z: int) -> int:
        """Return how many sections there are, or at least so many that what is seen of `z` lies among them."""
        last = z + self._neighbours
        for number in range(max(0, z - self._neighbours), last + 1):
            try:
                self._get(number)
            except _BeyondLastError:
                return number
        return last + 1

    def _get(self, number: int) -> Item:
        if number not in self._held:
            self._held[number] = self._read(number)
        return self._held[number]
