"""``isbi-infer``: arguments -> Segmenter -> exit code."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from typer.main import get_command

from isbi_infer.cli.infer import app
from isbi_infer.cli.request import COMMANDS

__all__ = ["app", "main"]

_COMPLETE = "_ISBI_INFER_COMPLETE"


def main() -> None:
    """Run ``isbi-infer``, or what stands beside it: ``isbi-infer doctor``, ``models`` or ``verify``."""
    if _COMPLETE in os.environ:
        _complete()
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in COMMANDS:
        import_module(COMMANDS[command]).app(args=sys.argv[2:], prog_name=f"isbi-infer {command}")
    app()


def _complete() -> None:
    """Let the shell complete the options of the command that stands in its line, where there is one."""
    for variable in ("COMP_WORDS", "_TYPER_COMPLETE_ARGS"):  # of bash, and of the others
        line = os.environ.get(variable, "")
        words = line.split(maxsplit=2)
        if len(words) > 1 and words[1] in COMMANDS and (len(words) > 2 or line[-1].isspace()):
            os.environ[variable] = " ".join((words[0], *words[2:])) + " " * line[-1].isspace()
            os.environ["COMP_CWORD"] = str(int(os.environ.get("COMP_CWORD", "1")) - 1)
            get_command(app)  # makes Typer know the shells
            import_module(COMMANDS[words[1]]).app(prog_name="isbi-infer", complete_var=_COMPLETE)
