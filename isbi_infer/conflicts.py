"""Whether what a command writes would take the place of what it reads, or of something else that it writes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from isbi_infer.errors import UsageError
from isbi_infer.files import resolved

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
"""Of the files in an input folder that are its sections, in lower case."""

_T = TypeVar("_T")
_Identity = Path | tuple[int, int]


def check_not_input(output: str | os.PathLike[str], input: str | os.PathLike[str]) -> None:
    """Refuse an output that is the input itself or a part of it, also under another name; see `check_apart`."""
    check_apart([("", output)], [input])


def check_apart(
    outputs: Iterable[tuple[str, str | os.PathLike[str]]],
    inputs: Iterable[str | os.PathLike[str]],
    *,
    remedy: str = "name one of them otherwise",
) -> None:
    """Make sure, before any work, that no output takes the place of an input or of another output.

    Parameters
    ----------
    outputs : iterable of (str, path)
        What is written, each with what it is, for the message: "the result of a.tif".
    inputs : iterable of path
        What is read: files, folders of images, volumes; they need not be there. Symbolic and hard links are seen
        through.
    remedy : str
        What to do where two outputs are one, for the message.

    Raises
    ------
    UsageError
        If an output is an input, an image of an input folder or a file of an input volume; if two outputs are one; if
        an input or an output lies in an output.
    """
    read = {os.fspath(path): resolved(path) for path in inputs}
    outputs = list(outputs)
    there = any(os.path.exists(path) for _, path in outputs)  # what is not there is no image of a folder
    parts = {
        _identity(p): said for name, path in read.items() for p, said in _parts(name, path, inside=there)
    }
    folders = {path: name for name, path in read.items()}
    written: dict[_Identity, str] = {}
    names: dict[Path, str] = {}
    places: dict[Path, str] = {}
    for what, output in outputs:
        shown = f"{os.fspath(output)}: the output{f' ({what})' if what else ''}"
        target = resolved(output)
        identity = _identity(target)
        if identity in parts:
            raise UsageError(f"{shown} is {parts[identity]}")
        if not target.suffix and os.path.isfile(target) and (around := _nearest(target, folders)):
            raise UsageError(f"{shown} is a file of the input {around}; choose another output")
        if identity in written:
            raise UsageError(
                f"{os.fspath(output)}: would be written twice, as {written[identity]} and as {what}; {remedy}"
            )
        written[identity] = what
        names[target], places[target] = os.fspath(output), shown
    for path, name in (*folders.items(), *names.items()):
        if holder := _nearest(path, places):
            raise UsageError(f"{holder} would hold {name}, which is a file of its own; choose another output")


def _identity(path: Path) -> _Identity:
    """Return what is the same for all names of a file that is there, and for others their resolved name."""
    try:
        found = path.stat()
    except OSError:
        return path
    return found.st_dev, found.st_ino


def _parts(name: str, path: Path, *, inside: bool) -> Iterator[tuple[Path, str]]:
    """Return an input, and on request the images in it where it is a folder, each with what it is and what to do."""
    yield path, f"the input {name} itself; leave one of them out, or choose another output"
    if not inside:
        return
    with suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
                yield Path(entry.path), f"{entry.name}, an image of the input {name}; choose another output"


def _nearest(path: Path, folders: Mapping[Path, _T]) -> _T | None:
    """Return what belongs to the nearest of some folders that a path lies in."""
    return next((folders[parent] for parent in path.parents if parent in folders), None)
