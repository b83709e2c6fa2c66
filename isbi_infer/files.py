"""Writing a file so that it is either there whole or not there at all, by one run at a time.

A result is written under a temporary name in the same folder, flushed to the disk, and only then given its
name; whatever goes wrong before that, the file that was there stays as it was. A lock beside it is held as long
as the writing lasts; whoever holds it sweeps the temporaries of runs that were killed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from isbi_infer.errors import BusyError, OutputError
from isbi_infer.locks import LockedError, locked

_REMEDIES = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some of the quota or choose another folder",
    errno.EFBIG: "raise the file-size limit (ulimit -f) or choose another folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
}

# What Linux, macOS and Windows say of FAT, exFAT, SMB and some FUSE file systems.
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)
_MOMENT = 0.02  # seconds

_TOKEN = 16  # digits
_LONGEST = 200  # bytes


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file aside and put it in place when it is whole.

    On leaving without an exception the temporary is flushed to the disk and takes the place of `path` in one
    step. On any exception, Ctrl-C included, it is removed and `path` stays as it was. A symbolic link is
    followed: what it points to is replaced, the link stays. All the while a lock beside the file, ``.NAME.lock``,
    keeps other runs from writing it, those in other containers and on other hosts included.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write or to replace.

    Yields
    ------
    Path
        Where to write: a name in the same folder with the same suffix. Nothing is there yet.

    Raises
    ------
    OutputError
        If the file cannot be written. Every ``OSError`` raised in the body is taken for one of the output
        (but not ``BrokenPipeError``), so readers of inputs must raise errors of their own.
    BusyError
        If another run, or another call in this one, is writing the same file: on entering, before any work.

    Examples
    --------
    >>> with replacing("note.txt") as temporary:
    ...     _ = temporary.write_text("whole, or not there at all")
    >>> Path("note.txt").read_text()
    'whole, or not there at all'
    """
    target = _target(path)
    try:
        _check_names(target)
        with locked(_lock_of(target), path) as lock:
            temporary = _temporary(target, lock.token)
            try:
                _sweep(target)
                yield temporary
                _sync(temporary)
                if lock.lost:
                    raise BusyError(
                        f"{path}: this run stood still, and another one writes it now; left to that one"
                    )
                os.replace(temporary, target)
                sync_folder(target.parent)
            finally:
                if lock.process == os.getpid():  # and not in one that was forked off
                    with suppress(OSError):
                        temporary.unlink(missing_ok=True)
    except LockedError as held:
        raise _busy(path, held) from None
    except BrokenPipeError:  # the reader of our standard output has gone; no file is concerned
        raise
    except OSError as error:
        raise _cannot_write(path, error) from error


@contextmanager
def reserved(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other runs from writing a file that this one will write later, with `replacing`, after leaving here.

    Parameters
    ----------
    path : str or os.PathLike
        The file; nothing of it is written.

    Raises
    ------
    BusyError
        If another run, or another call in this one, is writing it.
    OutputError
        If nothing can be written there.
    """
    target = _target(path)
    with ExitStack() as held:
        try:
            _check_names(target)
            held.enter_context(locked(_lock_of(target), path))
        except LockedError as error:
            raise _busy(path, error) from None
        except OSError as error:
            raise _cannot_write(path, error) from error
        yield


def _lock_of(target: Path) -> Path:
    return target.with_name(f".{_short(target.name)}.lock")


def _busy(path: str | os.PathLike[str], held: LockedError) -> BusyError:
    return BusyError(f"{path}: another run is writing it ({held}); wait for it or choose another output")


@contextmanager
def locked_folder(
    folder: str | os.PathLike[str], what: str = "run", *, name: str = ".lock"
) -> Iterator[None]:
    """Lock a folder, so that no second run writes into it.

    The lock ends with the process, however it ends. It lies on a file in the folder, which is removed on leaving.

    Parameters
    ----------
    folder : str or os.PathLike
        An existing folder.
    what : str
        What locks it, for the message.
    name : str
        Of the lock's file: runs that share a folder by agreement have one each.

    Raises
    ------
    BusyError
        If another process, or another call in this one, has locked it.
    OutputError
        If the folder cannot be locked.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(Path(os.path.realpath(folder)) / name, folder))
        except LockedError as error:
            raise BusyError(
                f"{folder}: another {what} is writing into this folder ({error}); "
                "wait for it or choose another folder"
            ) from None
        except OSError as error:
            raise OutputError(f"{folder}: cannot be locked ({_reason(error)}); {_remedy(error)}") from error
        yield


@contextmanager
def folder_in_use(folder: Path, *, name: str = ".lock") -> Iterator[None]:
    """Make a folder where it is missing, and lock it as `locked_folder` does; if all fails, none that is empty stays.

    Parameters
    ----------
    folder : Path
        The folder.
    name : str
        Of the lock's file.

    Raises
    ------
    BusyError, OutputError
        As by `make_folder` and `locked_folder`.
    """
    make_folder(folder)
    try:
        with locked_folder(folder, name=name):
            yield
    except BaseException:
        with suppress(OSError):  # something is in it
            folder.rmdir()
        raise


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder, and those above it, where they are missing; raise OutputError where that cannot be."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path}: no such folder can be made ({_reason(error)}); {_remedy(error)}"
        ) from error


def write_once(path: Path, content: bytes) -> bytes:
    """Write a small file, whole, unless it is there; of several processes that do so at once, one wins.

    Parameters
    ----------
    path : Path
        The file.
    content : bytes
        What it will hold.

    Returns
    -------
    bytes
        What it holds: `content`, or what was there.

    Raises
    ------
    OutputError
        If it cannot be written or read.
    """
    try:
        if not path.exists():
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            try:
                with open(descriptor, "wb") as file:
                    file.write(content)
                os.chmod(name, 0o644)  # others may run a share
                _sync(Path(name))
                _name_once(Path(name), path)
            finally:
                Path(name).unlink(missing_ok=True)
            sync_folder(path.parent)
        return path.read_bytes()
    except OSError as error:
        raise _cannot_write(path, error) from error


def place_once(temporary: Path, path: Path) -> None:
    """Give a finished file its name, unless something has it; of several processes that do so at once, one wins.

    Parameters
    ----------
    temporary : Path
        The file, in the same folder; it is gone afterwards.
    path : Path
        Its name.

    Raises
    ------
    OutputError
        If it cannot be named.
    """
    try:
        _sync(temporary)
        _name_once(temporary, path)
        temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _name_once(temporary: Path, path: Path) -> None:
    """Name a file, never replacing another."""
    try:
        os.link(temporary, path)  # unlike a rename, this never replaces
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _name_by_lock(temporary, path)


def _name_by_lock(temporary: Path, path: Path) -> None:
    """Name a file where the file system has no hard links: one process at a time looks and renames a copy."""
    while not path.exists():
        try:
            with locked(path.with_name(f".{_short(path.name)}.lock"), path) as lock:
                if path.exists():
                    return
                copy = path.with_name(f".{_short(path.name)}.{lock.token}.copy")
                try:
                    shutil.copyfile(temporary, copy)
                    copy.chmod(0o644)
                    _sync(copy)
                    os.replace(copy, path)
                finally:
                    copy.unlink(missing_ok=True)
        except LockedError:
            time.sleep(_MOMENT)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Make sure, before any work, that an output can be created.

    Parameters
    ----------
    path : str or os.PathLike
        The file that will be written. Neither it nor anything else is left behind by the check.

    Raises
    ------
    OutputError
        If the folder does not exist or may not be written to, or if `path` is not the name of a file.
    """
    check_creatable(_target(path), path)


def check_creatable(target: Path, path: str | os.PathLike[str]) -> None:
    """Make sure, before any work, that a file or a folder can be made.

    Parameters
    ----------
    target : Path
        Its name, resolved. Nothing is left behind by the check.
    path : path
        What it is made for, for the message.

    Raises
    ------
    OutputError
        If the folder it would be in does not exist or may not be written to, or if the name is too long.
    """
    folder = target.parent
    if not folder.exists():
        raise OutputError(f"{path}: the folder {folder} does not exist; create it or choose another one")
    if not folder.is_dir():
        raise OutputError(f"{path}: {folder} is not a folder; choose another output")
    try:
        _check_names(target)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"{path}: no file can be created in {folder} ({_reason(error)}); {_remedy(error)}"
        ) from error


def beside(target: Path, suffix: str) -> Path:
    """Return the name of a folder beside an output: with a suffix to its name, which is shortened where it is long."""
    return target.with_name(f"{_short(target.name)}{suffix}")


def resolved(path: str | os.PathLike[str]) -> Path:
    """Return a path with its links followed; raise OutputError where the working folder is no longer there."""
    try:
        return Path(os.path.realpath(path))
    except FileNotFoundError:
        raise OutputError(
            f"{path}: the working folder was removed; change to one that is there, or name a whole path"
        ) from None


def _target(path: str | os.PathLike[str]) -> Path:
    target = resolved(path)
    try:
        mode = target.stat().st_mode
    except OSError:  # not there yet; what else is wrong shows on writing
        return target
    if stat.S_ISDIR(mode):
        raise OutputError(f"{path}: is a folder; expected the name of a file to write")
    if not stat.S_ISREG(mode):
        raise OutputError(f"{path}: is a device or a pipe; expected the name of a regular file to write")
    return target


def _temporary(target: Path, token: str) -> Path:
    # The suffix stays last, since some writers choose the format by it or append their own.
    return target.with_name(f".{_short(target.stem)}.{token}.tmp{target.suffix}")


def _short(name: str) -> str:
    """Shorten a name, so that those made from it are no longer than file systems allow (255 bytes)."""
    stored = os.fsencode(name)
    return name if len(stored) <= _LONGEST else hashlib.sha256(stored).hexdigest()[:32]


def _check_names(target: Path) -> None:
    """Raise OSError, before any work, where a name is too long or leads through a file."""
    for path in (target, _temporary(target, "0" * _TOKEN)):
        with suppress(FileNotFoundError):
            os.lstat(path)


def _sweep(target: Path) -> None:
    """Remove what killed runs left behind of this very output; only for who holds its lock, so none of them lives."""
    name = re.compile(re.escape(str(_temporary(target, "*").name)).replace(r"\*", f"[0-9a-f]{{{_TOKEN}}}"))
    with suppress(OSError):
        for entry in os.listdir(target.parent):
            if name.fullmatch(entry):
                with suppress(OSError):
                    (target.parent / entry).unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make names that were put into a folder durable, where its file system can."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder, and a folder may be writable but not readable.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM):
            raise


def _cannot_write(path: str | os.PathLike[str], error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot be written ({_reason(error)}); {_remedy(error)}")


def _reason(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split()) or type(error).__name__


def _remedy(error: OSError) -> str:
    return _REMEDIES.get(error.errno or 0, "check the disk or choose another output")
