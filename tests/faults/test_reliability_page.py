"""docs/reliability.md: every promise names tests, every test is there, and its figures are those of the stored run."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = [
    line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| when", "| ---"))
]
STORED = Path(__file__).parent / "figures.json"
WORDS = {
    "tests": "tests of faults",
    "kills": "processes killed at random moments",
    "killed": "programs signalled within their first two seconds",
    "limited": "programs run under a limit on memory",
    "attacks": "attacks",
    "swept": "small files cut or with a byte flipped",
    "odd_checkpoints": "checkpoints with an odd part",
    "fuzzed": "inputs of the fuzzer's mutations",
    "soaked_calls": "calls in processes that are watched",
    "soaked_runs": "runs in processes that are watched",
}


def drawn(figures):
    rows = "\n".join(f"| {words} | {figures[name]:,} |" for name, words in WORDS.items() if name in figures)
    left_out = [words for name, words in WORDS.items() if name not in figures]
    return rows + (f"\n\nNot in the stored run: {', '.join(left_out)}." if left_out else "")


@cache
def names_in(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.count("|") > 3], ids=lambda row: row.split("|")[1].strip()
)
def test_a_promise_names_tests_that_are_there(row):
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
    assert named
    for path, name in named:
        assert name in names_in(path), f"{path}::{name}"


def test_the_figures_are_those_of_the_stored_run():
    figures = json.loads(STORED.read_text())
    assert set(figures) <= set(WORDS)
    assert min(figures.values()) > 0
    shown = re.search("<!-- figures -->\n(.*?)\n<!-- end -->", PAGE, re.DOTALL)[1]
    assert drawn(figures) in shown, f"run: make reliability\n\n{drawn(figures)}"


def test_a_promise_is_kept_wherever_a_fault_may_come_from():
    parts = re.findall("^## (.*)$", PAGE, re.MULTILINE)
    assert parts[:5] == [
        "Images",
        "Models",
        "Interruptions and disks",
        "Devices and clusters",
        "Threads and processes",
    ]
    assert len(ROWS) > 60
