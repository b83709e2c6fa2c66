"""Results of one study in several files, so that what is measured later stands beside what was measured before."""

from __future__ import annotations

import argparse
import re


def add_group(parser: argparse.ArgumentParser) -> None:
    """Add ``--group`` to a study's command line."""
    parser.add_argument(
        "--group", type=_word, help="store them beside those of other groups, under this name"
    )


def named(study: str, group: str | None) -> str:
    """Return the name under which a group of a study's results is stored."""
    return f"{study}-{group}" if group else study


def _word(text: str) -> str:
    """Return what may be part of a file's name; ArgumentTypeError for anything else."""
    if not re.fullmatch(r"\w[\w.-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not one word of letters, digits, dots and dashes")
    return text
