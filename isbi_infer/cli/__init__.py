"""``isbi-infer``: arguments -> Segmenter -> exit code."""

from __future__ import annotations

import sys
from importlib import import_module

from isbi_infer.cli.infer import app

__all__ = ["app", "main"]

_COMMANDS = {  # beside the one that segments
    "doctor": "isbi_infer.doctor",
    "models": "isbi_infer.catalogue",
    "verify": "isbi_infer.verify",
}


def main() -> None:
    """Run ``isbi-infer``, or what stands beside it: ``isbi-infer doctor``, ``models`` or ``verify``."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in _COMMANDS:
        beside = import_module(_COMMANDS[command]).app
        beside(args=sys.argv[2:], prog_name=f"isbi-infer {command}")
    app()
