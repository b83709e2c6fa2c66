"""Shared by the tests of neurons: `label_files` beside this file is found by its name."""

import sys
from pathlib import Path

FOLDER = str(Path(__file__).parent)
if FOLDER not in sys.path:
    sys.path.append(FOLDER)
