"""Folders of results: made before any work, and filled all at once."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from isbi_infer.errors import OutputError, UsageError
from isbi_infer.files import locked_folder
from isbi_infer.volumes.images import natural_key

_SUFFIXES = (".tif", ".tiff")


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder, and those above it, where they are missing; take it away again if nothing came into it.

    Parameters
    ----------
    folder : Path
        To be written into.

    Raises
    ------
    OutputError
        If it cannot be made or is a file.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: no such folder can be made ({error.strerror}); choose another one"
        ) from error
    try:
        yield
    finally:
        if made:
            with suppress(OSError):
                folder.rmdir()


def tiff_files(folder: Path) -> list[Path]:
    """List the TIFF files of a folder, hidden ones apart, in natural order: 2 before 10.

    Parameters
    ----------
    folder : Path
        May be missing, and then has none.

    Returns
    -------
    list of Path
    """
    found = folder.iterdir() if folder.is_dir() else ()
    wanted = (path for path in found if path.suffix.lower() in _SUFFIXES and not path.name.startswith("."))
    return sorted(wanted, key=lambda path: natural_key(path.name))


def check_free(targets: Sequence[Path], *, overwrite: bool) -> None:
    """See that TIFF files may be written into a folder, and that no others would be taken for one of them.

    Parameters
    ----------
    targets : sequence of Path
        The files to be written, all in one folder.
    overwrite : bool
        Whether they may be there already.

    Raises
    ------
    UsageError
        If the folder holds TIFF files that are not to be overwritten.
    """
    folder = targets[0].parent
    present = tiff_files(folder)
    if present and not overwrite:
        raise UsageError(
            f"{present[0]}: is there already ({len(present)} TIFF files in {folder}); add --overwrite or choose "
            "another folder"
        )
    foreign = sorted(set(present) - set(targets))
    if foreign:
        raise UsageError(
            f"{foreign[0]}: is none of the {len(targets)} files to be written, and would be taken for one "
            f"({len(foreign)} such files in {folder}); move them away or choose another folder"
        )


@contextmanager
def filled_at_once(folder: Path) -> Iterator[Path]:
    """Collect files aside and move them into a folder when all of them are whole.

    On leaving without an exception they take their places one after the other, without any other work in between;
    on an exception nothing of them is left. What killed processes left behind is swept.

    Parameters
    ----------
    folder : Path
        Made where it is missing; files in it are replaced by those of the same name.

    Yields
    ------
    Path
        An empty folder to write into, with `isbi_infer.files.replacing`, on the same file system.

    Raises
    ------
    BusyError
        If another run is filling it.
    OutputError
        If the folder cannot be made or filled.
    """
    aside = folder / f".{secrets.token_hex(8)}.unfinished"
    with made_folder(folder), locked_folder(folder):
        try:
            try:
                for left in folder.glob(".*.unfinished"):  # by killed processes: nobody else holds the folder
                    shutil.rmtree(left, ignore_errors=True)
                aside.mkdir()
            except OSError as error:
                raise OutputError(
                    f"{folder}: cannot be written to ({error.strerror}); choose another folder"
                ) from error
            yield aside
            for file in sorted(aside.iterdir()):
                try:
                    os.replace(file, folder / file.name)
                except OSError as error:
                    raise OutputError(
                        f"{folder / file.name}: cannot be written ({error.strerror})"
                    ) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
