"""The figures and pictures in the docs are those of the stored benchmark results."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tables_and_pictures_in_the_docs_are_drawn_from_the_stored_results():
    report = [sys.executable, "-m", "benchmarks.report", "--check"]
    result = subprocess.run(report, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, f"run: make bench-report\n{result.stdout}{result.stderr}"
