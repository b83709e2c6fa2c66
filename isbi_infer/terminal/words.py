"""Words for messages: counted, on one line, and nothing that steers a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return a text with its control characters as escapes: what stands in files must not steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def one_line(error: BaseException) -> str:
    """Return an error's kind and message on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def counted(count: int, noun: str) -> str:
    """Return a number and its noun: "1 section", "30 sections"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
