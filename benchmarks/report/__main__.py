"""Draw the tables and pictures of docs/ from the stored results: `python -m benchmarks.report [--check | --print]`.

What stands between ``<!-- table: NAME -->`` or ``<!-- picture: NAME -->`` and ``<!-- end -->`` in a page of docs/ is
replaced; nothing else is touched. A picture is docs/images/bench-NAME.png, drawn anew where its data have changed. The
newest result of each name is shown.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.machine import slug
from benchmarks.store import Stored, newest

from .accuracy import (
    accuracy_table,
    folds_table,
    half_table,
    planes_table,
    released_table,
    sections_table,
    tilt_table,
    tissues_table,
    trials_table,
    tuned_table,
    unseen_table,
)
from .baselines import recipes_table
from .browser import browser_table
from .cells import MISSING
from .contracts import halo_error_table
from .goals import DEFAULT, PEERS, goals_table
from .networks import network_runtimes_table, networks_table
from .neurons import neurons_table
from .plots import PICTURES as PLOTS
from .plots import Picture, is_current, write
from .robustness import robustness_table
from .study import PICTURE as NETWORKS
from .study import STUDY, study_table
from .tables import limits_table, memory_table, peers_table, ratios_table, start_up_table
from .terminal import as_text
from .throughput import export_table, files_table, scaling_table, throughput_table, training_table
from .volumes import (
    halo_share_table,
    petabyte_table,
    volume_costs_table,
    volumes_blocks_table,
    volumes_run_table,
    volumes_storage_table,
    volumes_workers_table,
)

DOCS = Path(__file__).parents[2] / "docs"

TABLES: dict[str, Callable[[Stored], Iterable[str]]] = {
    "accuracy": accuracy_table,
    "fine-tuning": tuned_table,
    "folds": folds_table,
    "planes": planes_table,
    "released": released_table,
    "sections": sections_table,
    "trials": trials_table,
    "trials-at-half": half_table,
    "unseen": unseen_table,
    "tilt": tilt_table,
    "browser": browser_table,
    "goals": goals_table,
    "halo-error": halo_error_table,
    "limits": limits_table,
    "default-stack": lambda stored: peers_table(stored, DEFAULT),
    "default-section": lambda stored: peers_table(stored, "default-4096"),
    "graph-optimisation": lambda stored: ratios_table(stored, "graph-optimisation"),
    "looks": lambda stored: ratios_table(stored, "looks", digits=4),
    "network-runtimes": network_runtimes_table,
    "peers-one-core": lambda stored: peers_table(stored, PEERS),
    "peers": lambda stored: peers_table(stored, "peers-4096"),
    "peers-short": lambda stored: peers_table(stored, "peers-2048"),
    "throughput": throughput_table,
    "scaling": scaling_table,
    "files": files_table,
    "export": export_table,
    "training": training_table,
    "networks-cpu": lambda stored: networks_table(stored, "cpu"),
    "networks-cuda": lambda stored: networks_table(stored, "cuda"),
    "memory": memory_table,
    "start-up": start_up_table,
    "robustness": robustness_table,
    STUDY: study_table,
    "recipes": recipes_table,
    "halo-share": halo_share_table,
    "volumes-run": volumes_run_table,
    "volumes-storage": volumes_storage_table,
    "volumes-blocks": volumes_blocks_table,
    "volumes-workers": volumes_workers_table,
    "volume-costs": volume_costs_table,
    "petabyte": petabyte_table,
    "tissues": tissues_table,
    "neurons": neurons_table,
}

PICTURES: dict[str, Picture] = {**PLOTS, "networks": NETWORKS}


def drawn(page: str, stored: Stored) -> str:
    """Return the page with its tables drawn anew, and its pictures linked."""

    def replace(match: re.Match[str]) -> str:
        kind, name = match["kind"], match["name"]
        inside = "\n".join(TABLES[name](stored)) if kind == "table" else _linked(name, stored)
        return f"<!-- {kind}: {name} -->\n\n{inside}\n\n<!-- end -->"

    return re.sub(
        r"<!-- (?P<kind>table|picture): (?P<name>[\w-]+) -->.*?<!-- end -->", replace, page, flags=re.DOTALL
    )


def _linked(name: str, stored: Stored) -> str:
    picture = PICTURES[name]
    if picture.data(stored) is None:
        return MISSING
    return f"![{picture.alt}](images/bench-{name}.png)"


def update_pages(docs: Path, stored: Stored, check: bool) -> list[str]:
    """Write the pages that would change, or only compare them; return the lines of difference."""
    found = []
    for path in sorted(docs.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        now = drawn(page, stored)
        if page == now:
            continue
        found += difflib.unified_diff(
            page.splitlines(),
            now.splitlines(),
            f"{path.name} as it is",
            f"{path.name} drawn",
            lineterm="",
        )
        if not check:
            path.write_text(now, encoding="utf-8")
    return found


def update_pictures(docs: Path, stored: Stored, check: bool) -> list[str]:
    """Draw the pictures whose data have changed, or only compare them; return a line for each that differs."""
    found = []
    for name, picture in PICTURES.items():
        data, path = picture.data(stored), docs / "images" / f"bench-{name}.png"
        if data is not None and not is_current(path, data):
            found.append(f"{path.name}: not drawn from the stored results")
            if not check:
                write(picture, data, path)
    return found


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = found.add_mutually_exclusive_group()
    what.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if a page or picture is out of date"
    )
    what.add_argument(
        "--print",
        action="store_true",
        help="change nothing; print the tables of what was stored on this machine",
    )
    return found


def main(argv: list[str] | None = None) -> int:
    """Write the pages and pictures, say with --check whether that would change them, or print this machine's tables."""
    asked = parser().parse_args(argv)
    if asked.print:
        stored = newest(machine_slug=slug())
        for name, table in TABLES.items():
            if len(lines := list(table(stored))) > 1:  # one says that nothing is stored
                sys.stdout.write(as_text(name, lines))
        return 0
    stored = newest()
    changed = update_pages(DOCS, stored, asked.check) + update_pictures(DOCS, stored, asked.check)
    if asked.check:
        sys.stdout.writelines(f"{line}\n" for line in changed)
    return int(asked.check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
