"""Compiled models kept in the user's cache folder, so that a second start need not compile again.

An entry is used only when it was written by this user for exactly this key and is whole; any other is passed over and
written anew. Where the folder cannot be written, work goes on without it, and one warning says so.

The environment variable ``ISBI_INFER_CACHE`` names another folder; empty, it turns the cache off.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from isbi_infer.errors import BusyError, OutputError
from isbi_infer.files import replacing

VARIABLE = "ISBI_INFER_CACHE"
_KEPT = 16  # entries, of about 2 to 8 MB each for the released model
_FIRST_LINE = b"isbi-infer compiled model 1\n"
_DIGEST_LENGTH = 65  # in hexadecimal, and a line end

log = logging.getLogger(__name__)


class _Switch:
    def __init__(self) -> None:
        self.on, self.warned, self.guard = True, False, threading.Lock()


_switch = _Switch()


def use_cache(on: bool) -> None:
    """Turn the cache on or off for this process; it is on at first."""
    _switch.on = on


def cache_folder() -> Path | None:
    """Return the folder of compiled models, which need not exist; None where the cache is turned off."""
    chosen = os.environ.get(VARIABLE)
    if not _switch.on or chosen == "":
        return None
    if chosen is not None:
        return Path(chosen)
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "isbi-infer" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "isbi-infer"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache") / "isbi-infer"


def read_compiled(key: Mapping[str, object]) -> bytes | None:
    """Return what was kept under a key, or None.

    Parameters
    ----------
    key : mapping of str to JSON values
        All that the compiled model depends on.
    """
    try:
        folder = cache_folder()
        if folder is None:
            return None
        content = _own(_entry(folder, key))
    except (OSError, RuntimeError):  # RuntimeError: the user has no home folder
        return None
    start = len(_FIRST_LINE) + _DIGEST_LENGTH
    head, kept = content[:start], memoryview(content)[start:]
    if head != _FIRST_LINE + hashlib.sha256(kept).hexdigest().encode() + b"\n":
        return None
    named, compiled = _encoded(key), len(_encoded(key))
    return bytes(kept[compiled:]) if kept[:compiled] == named else None


def write_compiled(key: Mapping[str, object], compiled: bytes) -> None:
    """Keep a compiled model under a key, and remove the entries that were not used for longest.

    Parameters
    ----------
    key : mapping of str to JSON values
        As for `read_compiled`.
    compiled : bytes
        What to keep.
    """
    try:
        folder = cache_folder()
        if folder is None:
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = _encoded(key) + compiled
        with replacing(_entry(folder, key)) as temporary:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(_FIRST_LINE + hashlib.sha256(kept).hexdigest().encode() + b"\n")
                file.write(kept)
        _remove_oldest(folder)
    except BusyError:  # another thread is writing the same
        pass
    except (OSError, RuntimeError, OutputError) as error:
        with _switch.guard:
            first, _switch.warned = not _switch.warned, True
        if first:
            log.warning(
                "compiled models are not kept, so every start compiles again: %s (%s names another folder)",
                error,
                VARIABLE,
            )


def _encoded(key: Mapping[str, object]) -> bytes:
    return json.dumps(key, sort_keys=True).encode() + b"\n"


def _entry(folder: Path, key: Mapping[str, object]) -> Path:
    return folder / f"{hashlib.sha256(_encoded(key)).hexdigest()[:32]}.compiled"


def _own(path: Path) -> bytes:
    """Read a regular file of this user's, and note that it was used."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or (hasattr(os, "geteuid") and found.st_uid != os.geteuid()):
            raise PermissionError(f"{path} is not this user's")
        content = file.read()
    with suppress(OSError):
        os.utime(path)
    return content


def _remove_oldest(folder: Path) -> None:
    entries = []
    for path in folder.glob("*.compiled"):
        with suppress(OSError):
            entries.append((path.stat().st_mtime, path))
    for _, path in sorted(entries, reverse=True)[_KEPT:]:
        with suppress(OSError):
            path.unlink()
