"""The reference of commands: what `--help` prints, of every program and every command of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_PROGRAMS = ("isbi-infer", "isbi-train", "isbi-export")
_ASIDE = {"isbi-infer": ("doctor", "models", "verify")}  # which its own help only names
_WIDTH = "88"


def page() -> str:
    """Return the page in Markdown."""
    calls: list[tuple[str, ...]] = []
    for program in _PROGRAMS:
        calls.append((program,))
        listed = _ASIDE.get(program) or _commands(_help(program))
        calls += [(program, command) for command in listed]
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(lambda call: _help(*call), calls))
    parts = ["# Commands\n\nWhat `--help` prints."]
    for call, text in zip(calls, texts, strict=True):
        level = "##" if len(call) == 1 else "###"
        parts.append(f"{level} {' '.join(call)}\n\n```none\n{text.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def _commands(text: str) -> list[str]:
    return re.findall(r"^  ([a-z][\w-]*)  ", text.partition("Commands:")[2], re.MULTILINE)


def _help(*call: str) -> str:
    program, *rest = call
    done = subprocess.run(
        [Path(sys.executable).parent / program, *rest, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": _WIDTH, "NO_COLOR": "1", "TERM": "dumb"},
    )
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())
