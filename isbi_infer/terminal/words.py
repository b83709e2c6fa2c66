"""Words for messages: counted, on one line, nothing that steers a terminal, and what was probably meant."""

from __future__ import annotations

import os
import re
import shutil
import textwrap
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TextIO

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_SIMILAR = 0.6  # the least likeness of what was probably meant
_SIMILAR_FILE = 0.8  # of names of files, which have their endings in common
_READABLE = 36  # columns that wrapped text needs at least
_MOST_NAMES = 10_000  # of a folder that are looked at
_ALSO_CALLED = {
    "float32": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "uint8": "int8",
    "gpu": "cuda",
    "trt": "tensorrt",
}


def printable(text: str) -> str:
    """Return a text with its control characters as escapes: what stands in files must not steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shown(text: str, *, colours: bool = False) -> str:
    """Return a text of several lines with all other control characters as escapes; colours stay where they may."""
    if colours:
        between, ours = _COLOUR.split(text), [*_COLOUR.findall(text), ""]
        return "".join(shown(part) + colour for part, colour in zip(between, ours, strict=True))
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def one_line(error: BaseException) -> str:
    """Return an error's kind and message on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def counted(count: int, noun: str) -> str:
    """Return a number and its noun: "1 section", "30 sections"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def nearest(word: str, known: Iterable[str], least: float = _SIMILAR) -> str | None:
    """Return the known word that was probably meant; None where none is as similar as `least`, from 0 to 1."""
    words = list(dict.fromkeys(known))
    if _ALSO_CALLED.get(word.lower()) in words:
        return _ALSO_CALLED[word.lower()]
    by_letters = {each.lower(): each for each in reversed(words)}
    found = get_close_matches(word.lower(), by_letters, n=1, cutoff=least)
    return by_letters[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: what was probably meant; empty where nothing is near."""
    found = nearest(word, known)
    return f"; did you mean {found}?" if found else ""


def nearest_file(path: str | os.PathLike[str]) -> str:
    """Return the end of a message about a missing file: one of a similar name beside it; empty where none is."""
    folder, name = os.path.split(os.fspath(path))
    try:
        with os.scandir(folder or ".") as entries:
            names = [entry.name for entry, _ in zip(entries, range(_MOST_NAMES), strict=False)]
        names = [each for each in names if each != name]  # a link to nowhere
    except OSError:
        return ""
    found = nearest(name, names, _SIMILAR_FILE)
    return f"; did you mean {os.path.join(folder, found)}?" if found else ""


def in_bytes(size: float) -> str:
    """Return an amount of data in a unit that suits it: "640 bytes", "4.6 GB"."""
    unit = "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "bytes" or size >= 10 else f"{size:.1f} {unit}"


def beside(head: str, text: str, stream: TextIO) -> str:
    """Return a text behind its head: wrapped on a terminal, beneath the head where that is narrow; else on one line."""
    width = shutil.get_terminal_size().columns - 1
    if not stream.isatty() or len(head + text) <= width:
        return head + text
    wide = width >= len(head) + _READABLE
    indent = " " * (len(head) if wide else len(head) - len(head.lstrip()) + 4)
    words = textwrap.TextWrapper(
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    wrapped = words.fill(text)
    return head + wrapped[len(head) :] if wide else f"{head.rstrip()}\n{wrapped}"
