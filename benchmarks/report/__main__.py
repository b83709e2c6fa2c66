"""Draw the tables and pictures of docs/ from the stored results: `python -m benchmarks.report [--check]`.

What stands between ``<!-- table: NAME -->`` and ``<!-- end -->`` in a page of docs/ is replaced; nothing else is
touched. The newest result of each name is shown.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.store import Stored, newest

from .goals import PEERS, reach_table
from .tables import memory_table, peers_table, start_up_table

DOCS = Path(__file__).parents[2] / "docs"

TABLES: dict[str, Callable[[Stored], Iterable[str]]] = {
    "reach": reach_table,
    "peers-one-core": lambda stored: peers_table(stored, PEERS),
    "peers": lambda stored: peers_table(stored, "peers-4096"),
    "memory": memory_table,
    "start-up": start_up_table,
}


def drawn(page: str, stored: Stored) -> str:
    """Give the page with its tables drawn anew."""

    def replace(match: re.Match[str]) -> str:
        table = "\n".join(TABLES[match["name"]](stored))
        return f"<!-- table: {match['name']} -->\n\n{table}\n\n<!-- end -->"

    return re.sub(r"<!-- table: (?P<name>[\w-]+) -->.*?<!-- end -->", replace, page, flags=re.DOTALL)


def main(argv: list[str] | None = None) -> int:
    """Write the pages, or with --check say whether that would change them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if the page is out of date"
    )
    asked = parser.parse_args(argv)
    stored, changed = newest(), False
    for path in sorted(DOCS.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        now = drawn(page, stored)
        changed |= page != now
        if asked.check:
            lines = difflib.unified_diff(
                page.splitlines(),
                now.splitlines(),
                f"{path.name} as it is",
                f"{path.name} drawn",
                lineterm="",
            )
            sys.stdout.writelines(f"{line}\n" for line in lines)
        elif page != now:
            path.write_text(now, encoding="utf-8")
    return int(asked.check and changed)


if __name__ == "__main__":
    sys.exit(main())
