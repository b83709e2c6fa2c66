"""What a run found in its sections: what is no tissue, and what is unlike all that the model was trained on.

In a few sentences, however many sections there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from isbi_infer.pixels.statistics import SectionStatistics
from isbi_infer.pixels.texture import Familiar, sharpness
from isbi_infer.plan.run import RunPlan
from isbi_infer.terminal import counted

_LISTED = 8
_TOLD_ONE_BY_ONE = 3
LOOKED_AT = 8  # sections of a run whose texture is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionFigures:
    """What was measured of one section's grey values.

    Attributes
    ----------
    statistics : SectionStatistics
        Of its tissue, without the mask.
    sharpness : float or None
        See `isbi_infer.pixels.texture.sharpness`; None where there was too little to measure.
    unlike : float or None
        How far it is from what the model was trained on, 1 being as far as that goes; None where that is not known.
    """

    statistics: SectionStatistics
    sharpness: float | None
    unlike: float | None


class Findings:
    """Collects what sections show; filled by the reader of a run, asked when it is over.

    Parameters
    ----------
    plan : RunPlan
        Says how many sections there are, and how those look that the model was trained on.
    every_section : bool
        Keep what was measured of each section, not only of those of which something is to be said; see `figures`.
    only : sequence of int, optional
        Numbers of the sections that are computed; all when not given.
    """

    def __init__(
        self, plan: RunPlan, *, every_section: bool = False, only: Sequence[int] | None = None
    ) -> None:
        self._guard = threading.Lock()
        self.every_section = every_section
        self._found: dict[int, SectionStatistics] = {}
        self._measured: dict[int, SectionStatistics] = {}
        self._sharpness: dict[int, list[float]] = {}  # of the parts that a section was read in
        self._familiar: Familiar | None = plan.model.familiar
        known = LOOKED_AT if plan.source.sections is None else plan.source.sections
        computed = range(known) if only is None else only
        looked_at = min(len(computed), LOOKED_AT)
        self._looked_at = {computed[(2 * i + 1) * len(computed) // (2 * looked_at)] for i in range(looked_at)}
        self._distances: dict[int, tuple[float, str]] = {}
        self._blocks = self._empty_blocks = 0

    def add_block(self, *, empty: bool) -> None:
        """Count a block of a layout, and whether there was nothing in it to compute."""
        with self._guard:
            self._blocks += 1
            self._empty_blocks += empty

    def add(
        self, section: int, statistics: SectionStatistics, texture: Callable[[], tuple[float, ...] | None]
    ) -> None:
        """Take note of a section, or of a part of one.

        Parameters
        ----------
        section : int
            Its number, from 0.
        statistics : SectionStatistics
            Of the whole section.
        texture : callable
            Measures how it looks, see `isbi_infer.pixels.texture.texture_of`; called only where that is wanted.
        """
        noteworthy = bool(statistics.notes(section))
        if noteworthy or self.every_section:
            without_mask = statistics.without_mask()  # which is as large as the section
            with self._guard:
                self._measured[section] = without_mask
                if noteworthy:
                    self._found[section] = without_mask
        if self._looks_at(section):
            self._add_texture(section, texture())

    def _looks_at(self, section: int) -> bool:
        """Return whether a section's texture is wanted: of a few, spread evenly, if the model knows any, or of each."""
        return self.every_section or (self._familiar is not None and section in self._looked_at)

    def _add_texture(self, section: int, texture: tuple[float, ...] | None) -> None:
        if texture is None:
            return
        if self.every_section:
            with self._guard:
                self._sharpness.setdefault(section, []).append(sharpness(texture))
        if self._familiar is not None:
            distance = self._familiar.nearest(texture)
            with self._guard:
                self._distances[section] = max(distance, self._distances.get(section, distance))

    def __getstate__(self) -> dict[str, Any]:
        with self._guard:
            return {name: value for name, value in self.__dict__.items() if name != "_guard"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._guard = threading.Lock()

    def merge(self, others: Findings) -> None:
        """Take over what another process found in sections of the same run."""
        with self._guard:
            self._found |= others._found
            self._measured |= others._measured
            for section, sharp in others._sharpness.items():
                self._sharpness.setdefault(section, []).extend(sharp)
            self._blocks += others._blocks
            self._empty_blocks += others._empty_blocks
            for section, distance in others._distances.items():
                self._distances[section] = max(distance, self._distances.get(section, distance))

    def unlike(self) -> dict[int, float]:
        """Return how far the sections that were looked at are from what is familiar, 1 being as far as that goes."""
        if self._familiar is None:
            return {}
        with self._guard:
            return {
                z: distance / self._familiar.limit for z, (distance, _) in sorted(self._distances.items())
            }

    def figures(self) -> dict[int, SectionFigures]:
        """Return what was measured of each section, by its number; of all only if asked for at the start."""
        unlike = self.unlike()
        with self._guard:
            return {
                z: SectionFigures(
                    statistics=statistics,
                    sharpness=median(self._sharpness[z]) if z in self._sharpness else None,
                    unlike=unlike.get(z),
                )
                for z, statistics in sorted(self._measured.items())
            }

    def notes(self) -> tuple[str, ...]:
        """Return what the reader of the results must know."""
        return (*self._unlike_notes(), *self._tissue_notes(), *self._empty_notes())

    def _unlike_notes(self) -> tuple[str, ...]:
        distances = self.unlike()
        unlike = [section for section, distance in distances.items() if distance > 1]
        if not unlike:
            return ()
        worst = max(unlike, key=distances.__getitem__)
        _, nearest = self._distances[worst]
        to = f", {nearest} being nearest" if nearest else ""
        of = "" if len(distances) == len(unlike) else f" of {len(distances)} that were looked at"
        return (
            f"{_named(unlike)}{of} {'looks' if len(unlike) == 1 else 'look'} unlike anything the model was trained on "
            f"(up to {distances[worst]:.1f} times as far as what it knows{to}): look before you trust the result; "
            "a wrong --pixel-size can be the cause",
        )

    def _empty_notes(self) -> tuple[str, ...]:
        with self._guard:
            blocks, empty = self._blocks, self._empty_blocks
        if not empty:
            return ()
        holds = "holds" if empty == 1 else "hold"
        return (f"{empty} of {counted(blocks, 'block')} {holds} no tissue: left out, and stored as membrane",)

    def _tissue_notes(self) -> tuple[str, ...]:
        with self._guard:
            found = dict(sorted(self._found.items()))
        if len(found) <= _TOLD_ONE_BY_ONE:
            return tuple(note for section, statistics in found.items() for note in statistics.notes(section))
        notes = []
        for kind, words in (("constant", "blank"), ("noise", "blank but for noise")):
            sections = [section for section, statistics in found.items() if statistics.blank == kind]
            if sections:
                notes.append(f"{_named(sections)} {'is' if len(sections) == 1 else 'are'} {words}")
        canvas = {z: 1 - s.tissue for z, s in found.items() if not s.blank and s.tissue < 1}
        if canvas:
            least, most = min(canvas.values()), max(canvas.values())
            notes.append(
                f"canvas in {counted(len(canvas), 'section')}: {100 * least:.0f} to {100 * most:.0f} % of each, "
                f"most in section {max(canvas, key=canvas.__getitem__)}"
            )
        outliers = {z: s.outliers for z, s in found.items() if not s.blank and s.outliers}
        if outliers:
            worst = max(outliers, key=outliers.__getitem__)
            notes.append(
                f"pixels beyond all tissue were replaced in {counted(len(outliers), 'section')}, most in section "
                f"{worst}: {outliers[worst]}"
            )
        return tuple(notes)


def _named(sections: Sequence[int]) -> str:
    if len(sections) == 1:
        return f"section {sections[0]}"
    listed = [str(section) for section in sections[:_LISTED]]
    more = len(sections) - len(listed)
    *first, last = [*listed, f"{more} more"] if more else listed
    return f"sections {', '.join(first)} and {last}"
