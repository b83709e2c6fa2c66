"""Tables of the docs as text for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LINK = re.compile(r"\[([^]]*)\]\([^)]*\)")


def as_text(name: str, table: Iterable[str]) -> str:
    """Write a Markdown table with aligned columns; a link becomes its text.

    Parameters
    ----------
    name : str
        The heading.
    table : iterable of str
        Lines of Markdown: rows, and prose that stays as it is.

    Returns
    -------
    str
        Lines, with an empty one at the end.
    """
    lines = [_LINK.sub(r"\1", line) for line in table]
    rows = {at: _cells(line) for at, line in enumerate(lines) if line.startswith("|")}
    columns = max(map(len, rows.values()), default=0)
    widths = [max(len(row[i]) for row in rows.values() if i < len(row)) for i in range(columns)]
    text = [name, "=" * len(name)]
    for at, line in enumerate(lines):
        row = rows.get(at)
        if row is None:
            text.append(line)
        elif all(set(cell) <= {"-", ":"} for cell in row):
            text.append("  ".join("-" * width for width in widths))
        else:
            text.append("  ".join(cell.ljust(widths[i]) for i, cell in enumerate(row)).rstrip())
    return "\n".join(text) + "\n\n"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
