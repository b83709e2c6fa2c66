"""docs/scores.md: its example is run as it stands there, and what it prints is what the page shows."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "scores.md").read_text(encoding="utf-8")
_EXAMPLE = PAGE.partition("## An example to run")[2]
_NUMBER = re.compile(r"\d+\.\d+")


def test_the_example_prints_what_the_page_shows(tmp_path):
    sample, evaluate = re.findall(r"^    ((?:python|isbi-train) .+)$", _EXAMPLE, re.MULTILINE)[:2]
    spoil = re.search(r"```python\n(.*?)```", _EXAMPLE, re.DOTALL)[1]
    shown = re.search(r"```text\n(.*?)```", _EXAMPLE, re.DOTALL)[1]
    script = Path(sys.executable).with_name("isbi-train")
    commands = [
        [sys.executable, *shlex.split(sample)[1:]],
        [sys.executable, "-c", spoil],
        [str(script), *shlex.split(evaluate)[1:]],
    ]
    for command in commands:
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"COLUMNS": "100"}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    printed = "\n".join(line.rstrip() for line in done.stdout.splitlines())
    assert _NUMBER.sub("#", printed).strip() == _NUMBER.sub("#", shown).strip()
    # the page names the versions that it was made with; others round differently
    numbers = [float(number) for number in _NUMBER.findall(printed)]
    assert numbers == pytest.approx([float(number) for number in _NUMBER.findall(shown)], abs=2e-4)
    assert (tmp_path / "scores.png").stat().st_size > 5000
