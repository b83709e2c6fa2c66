"""Shared by the tests of the benchmarks, which are not installed: the repository's root is where they are found."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)
