"""What libraries take for granted of a process: a working folder and a temporary folder."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from isbi_infer.errors import OutputError

log = logging.getLogger(__name__)


@contextmanager
def surroundings_of_torch(output: Path | None) -> Iterator[None]:
    """Let torch have a temporary folder, and a working folder where that of the process was removed.

    Parameters
    ----------
    output : Path or None
        Where results go, if they go to files.

    Raises
    ------
    OutputError
        If a relative path leads to the output from a folder that was removed, or no temporary folder can be made.
    """
    with ExitStack() as held:
        removed = is_working_folder_removed()
        if removed and output is not None and not output.is_absolute():
            raise OutputError(
                f"{output}: the working folder was removed; change to one that is there, or name a whole path"
            )
        held.enter_context(some_temporary_folder(Path(os.sep) if output is None else output))
        if removed:  # an empty one, so that no relative path leads to another file
            empty = held.enter_context(tempfile.TemporaryDirectory())
            held.enter_context(_working_in(empty))
        yield


@contextmanager
def some_working_folder() -> Iterator[None]:
    """Be in a folder that is there for the length of a ``with`` statement, where the working folder was removed.

    torch's libraries end a process that loads them in one that was.
    """
    if not is_working_folder_removed():
        yield
        return
    with _working_in(os.sep):
        yield


@contextmanager
def some_temporary_folder(output: Path) -> Iterator[None]:
    """Let libraries have a temporary folder where the machine has none: one beside an output, removed on leaving.

    Parameters
    ----------
    output : Path
        A file or a folder; what is missing of its path is not made.

    Raises
    ------
    OutputError
        If none can be made there either.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        pass
    else:
        yield
        return
    place = next((folder for folder in output.absolute().parents if folder.is_dir()), Path(os.sep))
    try:
        folder = tempfile.mkdtemp(prefix=".temporary.", dir=place)
    except OSError as error:
        raise OutputError(
            f"{place}: no temporary folder can be made there, nor elsewhere ({error.strerror}); set TMPDIR to one that "
            "can be written"
        ) from error
    log.warning("%s: holds temporary files meanwhile, for no temporary folder can be written", folder)
    tempfile.tempdir = folder
    try:
        yield
    finally:
        tempfile.tempdir = None
        shutil.rmtree(folder, ignore_errors=True)


def is_working_folder_removed() -> bool:
    """Return whether the working folder is gone."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


@contextmanager
def _working_in(folder: str) -> Iterator[None]:
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(folder)
        yield
    finally:
        os.fchdir(before)
        os.close(before)
