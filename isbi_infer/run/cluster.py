"""A Dask cluster: connecting to it, and handing out numbered pieces of work, a few at a time.

Whatever is lost with a worker is computed again, so a piece of work may be done twice, and gives the same bytes.
What is awaited comes, or its cluster is found unable to bring it: nothing waits for longer than `_PATIENCE_S` for a
cluster at a standstill. A piece of work by itself may take as long as it likes.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import pickle
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from isbi_infer.backends.cores import available_cores
from isbi_infer.errors import DependencyError, IsbiError, ResourceError, UsageError
from isbi_infer.run.local_cluster import started
from isbi_infer.terminal import counted, one_line, require_packages

log = logging.getLogger(__name__)

LOCAL = "local"
AHEAD = 2  # pieces of work for each worker that the scheduler knows of
_RETRIES = 2  # of one that raised; one that kills workers has Dask's three attempts
_TIMEOUT_S = 10  # to connect
_LOOK_S = 2  # between looks at who is left
_PATIENCE_S = 60  # for a worker to come back
_SHOWN = 6  # pieces of work in a message

Found = TypeVar("Found")


@contextmanager
def connected(where: str) -> Iterator[Cluster]:
    """Connect to a cluster, or start one on this machine.

    Parameters
    ----------
    where : str
        "local" or "local:N", N processes on this machine; the address of a scheduler, such as "tcp://host:8786"; or the
        JSON file that a scheduler wrote.

    Yields
    ------
    Cluster

    Raises
    ------
    DependencyError
        If Dask is not installed, the scheduler cannot be reached, or a cluster on this machine cannot be started.
    ResourceError
        If memory or open files do not suffice for one.
    UsageError
        If the text is none of these, or the program would start a cluster in each process of a cluster.
    """
    require_packages("cluster", "distributed")
    distributed = _distributed()
    with ExitStack() as opened:
        opened.enter_context(_quiet())
        if (workers := local_workers(where)) is not None:
            address: Any = opened.enter_context(started(distributed, workers))
        elif where.endswith(".json") or "://" in where:
            address = where
        else:
            raise UsageError(
                f"--cluster {where} is neither local, local:N, an address such as tcp://host:8786, nor a scheduler's "
                "JSON file"
            )
        by_file = isinstance(address, str) and address.endswith(".json")
        if by_file and not Path(address).is_file():
            raise DependencyError(
                f"{address}: no such scheduler file; start dask-scheduler --scheduler-file {address}"
            )
        if by_file:
            _check_scheduler_file(address)
        try:
            client = opened.enter_context(
                _client(**({"scheduler_file": address} if by_file else {"address": address}))
            )
        except (OSError, ValueError, TypeError, TimeoutError) as error:  # TypeError: TLS without certificates
            raise DependencyError(
                f"the scheduler {where} cannot be reached ({one_line(error)}); check the address, and that it "
                f"runs distributed {distributed.__version__}"
            ) from error
        yield Cluster(where, client)


def _client(**where: Any) -> Any:
    """Return a connected client of Dask; for one that could not connect Dask would wait 20 s when it is deleted."""

    class Client(_distributed().Client):  # type: ignore[misc]
        has_connected = False

        def __del__(self) -> None:
            if self.has_connected:
                super().__del__()

    client = Client(**where, timeout=_TIMEOUT_S, set_as_default=False)
    client.has_connected = True
    return client


def _check_scheduler_file(path: str) -> None:
    """Raise DependencyError where a file does not say the address of a scheduler."""
    try:
        said = json.loads(Path(path).read_bytes())
        found = said.get("address") if isinstance(said, dict) else None
    except (OSError, ValueError, RecursionError) as error:
        raise DependencyError(f"{path}: not readable as a scheduler's file ({one_line(error)})") from error
    if not isinstance(found, str) or "://" not in found:
        raise DependencyError(
            f"{path}: says no address of a scheduler; start dask-scheduler --scheduler-file {path}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Dask logs of lost connections, with tracebacks, from standard error: it ends in an error of ours."""
    dask = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    before = [logger.level for logger in dask]
    for logger in dask:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(dask, before, strict=True):
            logger.setLevel(level)


def local_workers(where: str) -> int | None:
    """Return how many processes a cluster on this machine has; None of one elsewhere, UsageError for no number."""
    name, _, count = where.partition(":")
    if name != LOCAL:
        return None
    if count and not (count.isdecimal() and int(count) > 0):
        raise UsageError(
            f"--cluster {where} is invalid; expected local:N with a number of processes, such as local:2"
        )
    return int(count) if count else available_cores()


class Cluster:
    """A connected cluster.

    Parameters
    ----------
    name : str
        As the user wrote it.
    client : distributed.Client
        Connected.
    """

    def __init__(self, name: str, client: Any) -> None:
        self.name, self.client = name, client

    @property
    def running(self) -> bool:
        """Whether the scheduler is there."""
        return bool(self.client.status == "running")

    @property
    def dashboard(self) -> str:
        """Address of the page that shows what the cluster does; empty where there is none."""
        return str(self.client.dashboard_link or "") if importlib.util.find_spec("bokeh") else ""

    def workers(self) -> dict[str, dict[str, Any]]:
        """Return what the scheduler knows of each worker, by its address; OSError where it does not answer in time."""
        return dict(self._told(self.client.scheduler.identity, n_workers=-1)["workers"])

    def _told(self, question: Callable[..., Any], **how: Any) -> Any:
        return self.client.sync(question, callback_timeout=_TIMEOUT_S, **how)

    def lost(self) -> DependencyError:
        """Return the error that says that the scheduler is gone."""
        return DependencyError(
            f"{self.name}: the scheduler was lost; start it and its workers again, and add --resume"
        )

    def spread(self, work: Callable[[int], Found], count: int) -> Iterator[tuple[int, Found]]:
        """Carry out pieces of work on the workers; a `isbi_infer.volumes.spread.Spread`.

        Raises
        ------
        DependencyError
            If the scheduler is lost, or has no workers.
        IsbiError
            If a piece cannot be done, with its number.
        """
        try:
            threads = sum(int(facts.get("nthreads") or 1) for facts in self.workers().values())
            ahead = max(1, threads) * AHEAD
            for number, found, error in self.answers(work, range(count), ahead):
                if error is not None:
                    raise failure({number: error}, count, "piece of work", gave_up=True) from error
                yield number, found
        except (OSError, CancelledError) as error:  # as closed connections are
            raise self.lost() from error

    def answers(
        self, work: Callable[[int], Any], numbers: Iterable[int], ahead: int
    ) -> Iterator[tuple[int, Any, BaseException | None]]:
        """Hand out numbered pieces of work, so many ahead; yield each as it is done, or with why it failed."""
        key = f"isbi-infer-{uuid4().hex[:12]}"
        waiting = iter(numbers)
        pending: dict[Any, int] = {}
        finished: queue.Queue[Any] = queue.Queue()

        def submit() -> None:
            for number in waiting:
                future = self.client.submit(
                    plainly, work, number, key=f"{key}-{number}", retries=_RETRIES, pure=False
                )
                pending[future] = number
                future.add_done_callback(finished.put)
                return

        try:
            for _ in range(ahead):
                submit()
            while pending:
                future = self.awaited(partial(finished.get, timeout=_LOOK_S), by_work=True)
                number = pending.pop(future)
                found, error = self.outcome(future)
                yield number, found, error
                future.release()
                submit()
        finally:
            if pending and self.running:
                self.client.cancel(list(pending), force=True)

    def outcome(self, future: Any) -> tuple[Any, BaseException | None]:
        """Return what `plainly` brought back, or why it failed, once a future is done."""
        if future.status == "cancelled":  # one that is "lost" with its worker is made again
            raise self.lost()
        if future.status == "error":
            return None, future.exception()
        try:  # to fetch it, and to have it made again where its worker is gone meanwhile
            # not by its own timeout, which would cancel what others fetch
            content = self.ask(future.result, by_work=True)
        except Exception as error:
            if future.status == "error":
                return None, error
            raise
        try:
            return pickle.loads(content), None  # noqa: S301 - a cluster is trusted with all that runs on it
        except Exception as error:
            return None, DependencyError(f"what a worker answered cannot be read here ({short(error)})")

    def ask(self, call: Callable[[], Found], *, by_work: bool = False) -> Found:
        """Call what waits for the cluster without a limit of its own; see `awaited`."""
        answer: Future[Found] = Future()

        def carry_out() -> None:
            try:
                answer.set_result(call())
            except TimeoutError as error:  # which would say here that it goes on
                answer.set_exception(ConnectionError(short(error)))
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=carry_out, daemon=True).start()
        return self.awaited(partial(answer.result, timeout=_LOOK_S), by_work=by_work)

    def awaited(self, take: Callable[[], Found], *, by_work: bool = False) -> Found:
        """Wait for something.

        Parameters
        ----------
        take : callable
            Returns it, or raises TimeoutError or queue.Empty before long.
        by_work : bool
            Whether it comes of work alone, so that workers who all do nothing will not bring it.

        Returns
        -------
        object

        Raises
        ------
        DependencyError
            If the scheduler is lost; if nobody is left who could bring it, or who tries.
        ResourceError
            If all workers have stopped taking work for lack of memory.
        """
        since: float | None = None
        while True:
            try:
                return take()
            except (queue.Empty, TimeoutError):
                why = self._standstill(by_work)
                if why is None:
                    since = None
                    continue
                since = since or time.monotonic()
                if time.monotonic() - since > _PATIENCE_S:
                    raise why from None

    def _standstill(self, by_work: bool) -> IsbiError | None:
        """Return why nothing can come of the cluster as it is now; raise that at once where it cannot recover."""
        if not self.running:
            raise self.lost() from None
        try:
            workers = self.workers()
            busy = not by_work or any(self._told(self.client.scheduler.processing).values())
        except OSError as error:  # as TimeoutError is
            if not self.running:
                raise self.lost() from error
            return DependencyError(
                f"{self.name}: the scheduler does not answer; see what keeps it, and add --resume"
            )
        if not workers:
            return DependencyError(f"{self.name}: no workers are left; start some and add --resume")
        if all(_is_paused(facts) for facts in workers.values()):
            return ResourceError(
                f"{self.name}: all workers have paused, for their memory is full; give them more with --memory-limit, "
                "or fewer threads, and add --resume"
            )
        if not busy:  # as where Dask lost an answer on its way
            return DependencyError(
                f"{self.name}: an answer is missing, and no worker does anything; start the cluster again, and add "
                "--resume"
            )
        return None


def _is_paused(facts: dict[str, Any]) -> bool:
    """Return whether a worker takes no work and does none."""
    return facts.get("status") == "paused" and not facts["metrics"].get("task_counts", {}).get("executing")


def plainly(work: Callable[[Any], Any], piece: Any) -> bytes:
    """Carry out a piece of work on a worker; what comes of it, an error too, can be read by whoever asked.

    Parameters
    ----------
    work : callable
        Takes the piece.
    piece : object
        Such as its number.

    Returns
    -------
    bytes
        What it returned, pickled.

    Raises
    ------
    IsbiError
        Whatever it raised: in our terms, and without its causes, some of which cannot be sent.
    """
    try:
        return pickle.dumps(work(piece))
    except BaseException as error:  # those that end a thread would end the worker, too
        plain = _plain(error)
    raise plain


def _plain(error: BaseException) -> IsbiError:
    """Return an error of ours that says what another one does."""
    if isinstance(error, MemoryError):
        return ResourceError(f"not enough memory ({short(error)})")
    for kind in type(error).__mro__:
        if issubclass(kind, IsbiError) and kind.__module__ == IsbiError.__module__:
            return kind(str(error))
    return IsbiError(short(error))


def failure(
    failed: dict[int, BaseException], count: int, what: str = "block", *, gave_up: bool = False
) -> IsbiError:
    """Return the error of work some pieces of which failed, by their numbers."""
    index, first = min(failed.items())
    named = ", ".join(map(str, sorted(failed)[:_SHOWN])) + (", ..." if len(failed) > _SHOWN else "")
    if isinstance(first, IsbiError):
        kind, why = type(first), str(first)
    elif is_killer(first):
        kind, why = ResourceError, "it ended every worker that tried it, as too little memory does"
    else:
        kind, why = IsbiError, short(first)
    ended = "so no more were tried" if gave_up else "the others are done"
    return kind(f"{len(failed)} of {counted(count, what)} failed ({named}), {ended}; {what} {index}: {why}")


def is_killer(error: BaseException) -> bool:
    """Return whether an error says that a piece of work ended its workers."""
    return type(error).__name__ == "KilledWorker"


def short(error: BaseException) -> str:
    """Return the kind of an error and what it says, in one line of bounded length."""
    try:
        said = str(error)
    except Exception:  # of a text that fails
        said = "says nothing"
    return f"{type(error).__name__}: {' '.join(said.split())[:200]}"


def _distributed() -> Any:
    return importlib.import_module("distributed")
