"""What was found in the sections of a run that is no tissue, in a few sentences however many sections there are."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from isbi_infer.pixels.statistics import SectionStatistics
from isbi_infer.terminal import counted

_LISTED = 8
_TOLD_ONE_BY_ONE = 3


class Findings:
    """Collects what the statistics of sections show; filled by the reader of a run, asked when it is over."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._found: dict[int, SectionStatistics] = {}

    def add(self, section: int, statistics: SectionStatistics) -> None:
        """Take note of a section, by its number from 0."""
        if statistics.notes(section):
            with self._guard:
                # Without the mask, which is as large as the section.
                self._found[section] = statistics.without_mask()

    def notes(self) -> tuple[str, ...]:
        """Return what the reader of the results must know."""
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
