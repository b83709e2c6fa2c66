"""A volume in the making: a folder beside its output, which is kept when a run ends early and goes when it is done.

::

    result.ome.zarr.partial/
      plan.json       what is computed; a run that continues must want the same
      statistics/     of whole sections, where blocks hold parts of them
      volume/         becomes result.ome.zarr, in one step, when all of it is there
      attached        becomes the file that belongs to it, such as a table, while there is no result.ome.zarr
      replaced*       what was there before, until the new one has its place

What is done is not written down: the shards that are there are done.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from isbi_infer.errors import BusyError, OutputError, UsageError
from isbi_infer.files import (
    beside,
    check_creatable,
    folder_in_use,
    locked_folder,
    make_folder,
    replacing,
    sync_folder,
    write_once,
)
from isbi_infer.terminal import nearest_file
from isbi_infer.volumes.zarr.location import is_address, tensorstore, unnamable

log = logging.getLogger(__name__)

PLAN = "plan.json"
"""Says, in the folder, what is computed."""

_PARTIAL = ".partial"
_DOOR, _FINISH = ".begin.lock", ".finish.lock"
_LOCKS = (".lock", ".lease")  # suffixes of what is locked, see `isbi_infer.locks`
_PATIENCE_S, _MOMENT_S, _LONGEST_MOMENT_S = 60.0, 0.05, 5.0


class Unfinished:
    """The folder in which one output is made.

    Parameters
    ----------
    output : path
        The name of the finished volume.
    attached : path, optional
        A file that belongs to it. `complete` puts what lies at `made_attached` there, so that at every moment a volume
        and a file that are both there belong together.
    """

    def __init__(
        self, output: str | os.PathLike[str], attached: str | os.PathLike[str] | None = None
    ) -> None:
        self.name = os.fspath(output)
        self.output = Path(os.path.realpath(output))
        self.folder = beside(self.output, _PARTIAL)
        self.volume, self.statistics = self.folder / "volume", self.folder / "statistics"
        self._attached = None if attached is None else Path(os.path.realpath(attached))
        self.made_attached = self.folder / "attached"
        self._replaced, self._replaced_attached = self.folder / "replaced", self.folder / "replaced-attached"
        self._plan: bytes | None = None

    @property
    def finished(self) -> bool:
        """Whether the output is there, whole."""
        return (self.output / "zarr.json").is_file()

    @property
    def begun(self) -> bool:
        """Whether an earlier run was cut off."""
        return self.folder.exists()

    @property
    def taken(self) -> bool:
        """Whether the output is there, whole, and what is made here has become it."""
        return self.finished and not (self.volume / "0" / "zarr.json").is_file()

    def check(self, input_name: str, *, resume: bool, overwrite: bool) -> None:
        """Make sure, before any work, that the output can be made and that nothing is lost by it.

        Parameters
        ----------
        input_name : str
            The path of the input; the output must not lie in it, nor it in the output.
        resume : bool
            Whether an earlier run is continued.
        overwrite : bool
            Whether what is there is replaced.

        Raises
        ------
        UsageError
            If there is something already and neither is asked for; if input and output are one.
        OutputError
            If no folder can be made there.
        DependencyError
            If tensorstore is not installed.
        """
        tensorstore()
        if is_address(self.name):
            raise OutputError(f"{self.name}: results are written to local folders; choose another output")
        if not is_address(input_name):
            source = Path(os.path.realpath(input_name))
            if self.output == source or source in self.output.parents or self.output in source.parents:
                raise UsageError(
                    f"{self.name}: the output lies in the input {input_name}, or the input in the output; "
                    "choose another output"
                )
        if reason := unnamable(self.output):
            raise OutputError(f"{self.name}: {reason}; choose another output")
        check_creatable(self.output, self.name)
        there = os.path.lexists(self.output)
        if there and not self.finished:
            raise OutputError(f"{self.name}: is there already, and is no OME-Zarr; choose another output")
        if overwrite or resume:
            return
        if there:
            raise UsageError(f"{self.name}: is there already; --overwrite replaces it")
        if self.begun:
            raise UsageError(
                f"{self.name}: an earlier run left blocks in {self.folder.name}; --resume goes on with them, "
                "--overwrite starts again"
            )

    @contextmanager
    def held(self, share: tuple[int, int], *, overwrite: bool) -> Iterator[None]:
        """Hold the folder, made where it is missing, for one run, or one share of a run among others.

        Parameters
        ----------
        share : (int, int)
            (1, 1) is a run by itself.
        overwrite : bool
            Whether what is in the folder is removed first.

        Raises
        ------
        BusyError
            If it is held already; for who overwrites, also by any share.
        """
        name = ".lock" if share == (1, 1) else f".share-{share[0]}-of-{share[1]}.lock"
        with ExitStack() as own:
            with self._at_the_door():
                own.enter_context(folder_in_use(self.folder, name=name))
                if overwrite:
                    self._clear(name)
                make_folder(self.volume)
            yield

    @contextmanager
    def _at_the_door(self) -> Iterator[None]:
        """Let one run at a time begin, so that none begins in a folder that another one clears."""
        until, moment = time.monotonic() + _PATIENCE_S, _MOMENT_S
        with ExitStack() as door:
            while True:
                try:
                    door.enter_context(folder_in_use(self.folder, name=_DOOR))
                    break
                except BusyError:
                    if time.monotonic() > until:
                        raise
                time.sleep(moment)
                # Where the file system has no locks, every try is logged.
                moment = min(2 * moment, _LONGEST_MOMENT_S)
            yield

    def _clear(self, own: str) -> None:
        """Remove all that is in the folder, unless anybody else works in it."""
        with ExitStack() as others:
            for name in self._locks() - {own, _DOOR}:
                others.enter_context(locked_folder(self.folder, "run, or a share of one,", name=name))
            self._put_back()
            for path in self.folder.iterdir():
                if not path.name.endswith(_LOCKS):
                    _remove(path)

    def _locks(self) -> set[str]:
        """Return the names of the locks in the folder, also of those that a file system without locks has instead."""
        lock, lease = _LOCKS
        names = {path.name for path in self.folder.iterdir()}
        claims = {name.removesuffix(lease) for name in names if name.endswith(lease)}
        return {name for name in names if name.endswith(lock)} | {
            claim if claim.endswith(lock) else f"{claim}{lock}" for claim in claims
        }

    def agree(self, plan: str) -> str:
        """Store a plan where there is none yet; return the one that holds."""
        self._plan = write_once(self.folder / PLAN, plan.encode())
        return self._plan.decode()

    def complete(
        self,
        *,
        overwrite: bool,
        whole: Callable[[Path], bool],
        finish: Callable[[], object] | None = None,
    ) -> bool:
        """Put the finished volume in place and remove the folder, by one run alone.

        Parameters
        ----------
        overwrite : bool
            Whether a volume that is there is replaced.
        whole : callable
            Tells whether all blocks are in a folder. It is asked once the volume has its name: from then on no run
            writes into it, while before another one may have been replacing a torn shard.
        finish : callable, optional
            Does what is left to do before.

        Returns
        -------
        bool
            False where another run is doing this, or has done it.

        Raises
        ------
        BusyError
            If another run has begun in this folder, which was removed.
        OutputError
            If it cannot be put in place, or is not whole; it is then kept as it was.
        """
        with ExitStack() as alone:
            try:
                alone.enter_context(locked_folder(self.folder, name=_FINISH))
            except BusyError:
                return False
            except OutputError:
                if self.taken:
                    return False
                raise
            if self.taken:
                return False
            self._check_agreed()
            if finish is not None:
                finish()
            try:
                if overwrite and os.path.lexists(self.output):
                    self._set_aside(whole)
                try:
                    self._put_in_place(whole)
                except BaseException:
                    self._put_back()
                    raise
                sync_folder(self.output.parent)
            except OSError as error:
                raise OutputError(
                    f"{self.name}: cannot be put in place ({error.strerror}); it is whole in {self.volume}"
                ) from error
        shutil.rmtree(self.folder, ignore_errors=True)
        return True

    def _check_agreed(self) -> None:
        """Raise BusyError where the folder is no longer that of the plan that was agreed on."""
        try:
            stored = (self.folder / PLAN).read_bytes()
        except OSError:
            stored = b""
        if self._plan is not None and stored != self._plan:
            raise BusyError(
                f"{self.name}: another run has begun in {self.folder.name} meanwhile, so this one is left out"
            )

    def _set_aside(self, whole: Callable[[Path], bool]) -> None:
        """Take away what is replaced, once the new one is whole: first the volume, then what belongs to it."""
        if not whole(self.volume):
            raise OutputError(f"{self.name}: a block went missing; run it again with --resume")
        os.rename(self.output, self._replaced)
        if self._attached and self._attached.exists():
            _move(self._attached, self._replaced_attached)

    def _put_in_place(self, whole: Callable[[Path], bool]) -> None:
        if self._attached:
            _move(self.made_attached, self._attached)
        os.rename(self.volume, self.output)
        if not whole(self.output):
            os.rename(self.output, self.volume)
            raise OutputError(
                f"{self.name}: a block went missing, which another run is replacing; --resume goes on once it ends"
            )

    def _put_back(self) -> None:
        """Undo `_set_aside` where nothing took the place of what was there, also after a run that was killed."""
        if not self._replaced.exists() or os.path.lexists(self.output):
            return
        if self._attached and self._replaced_attached.exists():
            _move(self._replaced_attached, self._attached)
        os.rename(self._replaced, self.output)

    def sweep(self) -> None:
        """Remove what a run that was killed after it had put the volume in place left of the folder."""
        if self.begun and self.taken:
            with suppress(BusyError), locked_folder(self.folder):  # another one may replace the volume
                self.discard()

    def leave(self) -> None:
        """Remove the folder once another run has put the volume in place; one that is still at it does so itself."""
        with suppress(BusyError, OutputError), locked_folder(self.folder, name=_FINISH):
            if self.finished:
                self.discard()

    def discard(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _move(path: Path, target: Path) -> None:
    """Move a file, replacing what is there, also to another file system."""
    try:
        os.replace(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with replacing(target) as temporary:
            shutil.copyfile(path, temporary)
        path.unlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with suppress(FileNotFoundError):
            path.unlink()


def stored_attributes(path: str | os.PathLike[str]) -> dict[str, object]:
    """Return the attributes of a finished volume; OutputError where it is none."""
    try:
        found = json.loads((Path(path) / "zarr.json").read_bytes())["attributes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise OutputError(
            f"{path}: is no OME-Zarr result ({type(error).__name__}); name one{nearest_file(path)}"
        ) from error
    return found if isinstance(found, dict) else {}
