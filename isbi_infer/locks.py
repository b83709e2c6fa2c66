"""Locks on what one run alone may write, between threads, processes, containers and hosts.

A lock is a hidden file that is there as long as the lock is held. What counts is the operating system's lock on
it (``flock``, ``LockFileEx``), which ends with its process, however that ends: a file whose lock is free was left
behind by a killed run, and is taken over. Process numbers decide nothing, since containers and hosts share them.

Where the file system has no locks, `filelock.SoftFileLease` stands in: the file itself is the claim, its holder
refreshes it, and one that is no longer refreshed has expired. The claim of a process that was killed on this host is
taken over at once, unless it was killed before it had written its name there: that one has to expire. All that write
into one folder must mount it alike.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from filelock import SoftFileLease, Timeout, lock_descriptor, unlock_descriptor

log = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)  # the file is written to: a link in its place must not redirect that
# Above a minute, for that long may a client of NFS see old times of change.
_LEASE_S = 120.0

_held: dict[Path, int | None] = {}  # and the descriptor that each is held by, where it is no lease
_guard = threading.Lock()


def _forget() -> None:
    """Leave what is held to the parent, in a process that was forked off: else it would last as long as either."""
    global _guard
    _guard = threading.Lock()  # which a thread of the parent may have held
    descriptors = [descriptor for descriptor in _held.values() if descriptor is not None]
    _held.clear()
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)


class LockedError(Exception):
    """A lock is held by somebody else; the message says by whom, as far as is known."""


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that is held.

    Attributes
    ----------
    token : str
        16 random hexadecimal digits, different for each lock ever held; also written into the lock's file.
    lease : SoftFileLease or None
        The stand-in for an operating system's lock, where the file system has none.
    process : int
        Number of the process that holds it.
    """

    token: str
    lease: SoftFileLease | None = None
    process: int = field(default_factory=os.getpid)

    @property
    def lost(self) -> bool:
        """Whether somebody else may hold it by now: the parent of a process that was forked off while it was held.

        A lease can also be lost by a process that stood still.
        """
        return self.process != os.getpid() or (self.lease is not None and self.lease.compromise is not None)


@contextmanager
def locked(path: Path, shown: str | os.PathLike[str]) -> Iterator[Lock]:
    """Hold a lock for the length of a ``with`` statement; do not wait for it.

    Parameters
    ----------
    path : Path
        The lock's file, resolved. Its folder must exist. It is removed on leaving, and by the next holder if this
        process is killed.
    shown : str or os.PathLike
        What the log calls that which is locked.

    Yields
    ------
    Lock
        A process that is forked off meanwhile does not hold it, and leaves it alone.

    Raises
    ------
    LockedError
        If another process, or another thread or call in this one, holds it.
    OSError
        If the lock's file cannot be made.
    """
    with _guard:
        if path in _held:
            raise LockedError("in this process")
        _held[path] = None
    process = os.getpid()
    try:
        token = secrets.token_hex(8)
        try:
            descriptor = _lock_file(path, shown)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            reason = error.strerror
        else:
            _held[path] = descriptor
            try:
                _write_record(descriptor, token)
                yield Lock(token)
            finally:
                if os.getpid() == process:
                    _held[path] = None
                    _release(descriptor, path)
            return
        log.warning(
            "%s: the file system has no locks (%s); a claim that expires is used in their place",
            shown,
            reason,
        )
        with _leased(path.with_suffix(".lease"), shown) as lease:
            yield Lock(token, lease)
    finally:
        if os.getpid() == process:
            with _guard:
                _held.pop(path, None)


def _lock_file(path: Path, shown: str | os.PathLike[str]) -> int:
    """Open and lock a file that still has its name once it is locked."""
    while True:
        descriptor, writable = _open(path)
        try:
            if not lock_descriptor(descriptor, blocking=False):
                raise LockedError(_holder(path))
            if _is_named(descriptor, path):
                if left := os.read(descriptor, 4096):
                    log.warning(
                        "%s: an earlier run (%s) was cut off; its lock is taken over", shown, _who(left)
                    )
                if writable and os.fstat(descriptor).st_nlink == 1:
                    return descriptor
                path.unlink()  # another user's, or a second name of a file that is none of ours: make a new one
        except OSError as error:
            if error.errno in _NO_LOCKS and writable and os.fstat(descriptor).st_size == 0:
                with suppress(OSError):
                    path.unlink()
            os.close(descriptor)
            raise
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder has removed it in the meantime


def _open(path: Path) -> tuple[int, bool]:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o666), True
    except PermissionError:
        try:  # another user's may still be looked at
            return os.open(path, os.O_RDONLY | _NOFOLLOW), False
        except OSError:
            pass
        raise


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _write_record(descriptor: int, token: str) -> None:
    """Write who holds the lock: for people, since nothing is decided by it."""
    record = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "token": token,
    }
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps(record).encode())


def _release(descriptor: int, path: Path) -> None:
    with suppress(OSError):
        os.ftruncate(descriptor, 0)  # so that it does not look cut off to one that has just opened it
    with suppress(OSError):
        if os.name != "nt" and _is_named(descriptor, path):
            path.unlink()
    with suppress(OSError):
        unlock_descriptor(descriptor)  # closing alone would leave it to a child process that has inherited it
    os.close(descriptor)
    if os.name == "nt":  # where nothing open can be removed, also not what somebody else has opened by now
        with suppress(OSError):
            path.unlink()


def _holder(path: Path) -> str:
    try:
        return _who(path.read_bytes())
    except OSError:  # just released; on Windows what is locked cannot be read
        return _who(b"")


def _who(record: bytes) -> str:
    try:
        known = json.loads(record)
        return (
            f"process {int(known['process'])} on {str(known['host'])[:80]!r} since {str(known['since'])[:40]}"
        )
    except (ValueError, TypeError, KeyError):
        return "unknown process"


@contextmanager
def _leased(path: Path, shown: str | os.PathLike[str]) -> Iterator[SoftFileLease]:
    lease = SoftFileLease(path, lease_duration=_LEASE_S, thread_local=False)
    there = _age_s(path)
    try:
        lease.acquire(blocking=False)
    except Timeout:
        owner = lease.owner
        holder = f"process {owner.pid} on {owner.hostname!r}" if owner else "unknown process"
        # A claim of the far future is none of now: the clock was set back.
        if there is None or abs(there) < 2 * _LEASE_S:
            raise LockedError(holder) from None
        log.warning("%s: waiting %.0f s to see whether %s still writes it", shown, _LEASE_S, holder)
        try:
            lease.acquire(timeout=1.5 * _LEASE_S)
        except Timeout:
            raise LockedError(holder) from None
    if there is not None:
        log.warning("%s: the lock of an earlier run is taken over", shown)
    try:
        yield lease
    finally:
        with suppress(OSError):
            lease.release()


def _age_s(path: Path) -> float | None:
    """Return the seconds since a file has changed, by the clock of its file system; None where there is none."""
    try:
        changed = path.lstat().st_mtime
    except FileNotFoundError:
        return None
    with tempfile.TemporaryFile(dir=path.parent) as now:
        now.write(b"\0")
        now.flush()
        return os.fstat(now.fileno()).st_mtime - changed
