"""A Dask cluster: connecting to it, and handing out numbered pieces of work, a few at a time.

Whatever is lost with a worker is computed again, so a piece of work may be done twice, and gives the same bytes.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import queue
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from isbi_infer.backends.cores import available_cores
from isbi_infer.errors import DependencyError, IsbiError, ResourceError, UsageError
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
        If Dask is not installed, or the scheduler cannot be reached.
    UsageError
        If the text is none of these.
    """
    require_packages("cluster", "distributed")
    distributed = _distributed()
    with ExitStack() as opened:
        opened.enter_context(_quiet())
        if where.partition(":")[0] == LOCAL:
            address: Any = opened.enter_context(_local(where))
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
                distributed.Client(
                    **({"scheduler_file": address} if by_file else {"address": address}),
                    timeout=_TIMEOUT_S,
                    set_as_default=False,
                )
            )
        except (OSError, ValueError, TimeoutError) as error:
            raise DependencyError(
                f"the scheduler {where} cannot be reached ({type(error).__name__}); check the address, and that it "
                f"runs distributed {distributed.__version__}"
            ) from error
        yield Cluster(where, client)


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


@contextmanager
def _local(where: str) -> Iterator[Any]:
    _, _, count = where.partition(":")
    if count and not (count.isdecimal() and int(count) > 0):
        raise UsageError(
            f"--cluster {where} is invalid; expected local:N with a number of processes, such as local:2"
        )
    workers = int(count) if count else available_cores()
    threads = max(1, available_cores() // workers)
    with _distributed().LocalCluster(
        n_workers=workers,
        threads_per_worker=threads,
        processes=True,
        dashboard_address="127.0.0.1:0",  # None would be the port 8787, which may be taken
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster


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
        """Return what the scheduler knows of each worker, by its address."""
        return dict(self.client.scheduler_info(n_workers=-1)["workers"])

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
        ahead = max(1, sum(int(facts.get("nthreads") or 1) for facts in self.workers().values())) * AHEAD
        try:
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
                future = self.client.submit(work, number, key=f"{key}-{number}", retries=_RETRIES, pure=False)
                pending[future] = number
                future.add_done_callback(finished.put)
                return

        try:
            for _ in range(ahead):
                submit()
            while pending:
                future = self._wait(finished)
                number = pending.pop(future)
                if future.status in ("cancelled", "lost"):
                    raise self.lost()
                error = future.exception() if future.status == "error" else None
                yield number, None if error else future.result(), error
                future.release()
                submit()
        finally:
            if pending and self.running:
                self.client.cancel(list(pending), force=True)

    def _wait(self, finished: queue.Queue[Any]) -> Any:
        """Return the next future that is finished; DependencyError where there is nobody left to finish one."""
        alone_since: float | None = None
        while True:
            try:
                return finished.get(timeout=_LOOK_S)
            except queue.Empty:
                if not self.running:
                    raise self.lost() from None
                if self.workers():
                    alone_since = None
                    continue
                alone_since = alone_since or time.monotonic()
                if time.monotonic() - alone_since > _PATIENCE_S:
                    raise DependencyError(
                        f"{self.name}: no workers are left; start some and add --resume"
                    ) from None


def failure(
    failed: dict[int, BaseException], count: int, what: str = "block", *, gave_up: bool = False
) -> IsbiError:
    """Return the error of work some pieces of which failed, by their numbers."""
    index, first = min(failed.items())
    named = ", ".join(map(str, sorted(failed)[:_SHOWN])) + (", ..." if len(failed) > _SHOWN else "")
    if isinstance(first, IsbiError):
        kind, why = type(first), str(first)
    elif type(first).__name__ == "KilledWorker":
        kind, why = ResourceError, "it ended every worker that tried it, as too little memory does"
    else:
        kind, why = IsbiError, short(first)
    ended = "so no more were tried" if gave_up else "the others are done"
    return kind(f"{len(failed)} of {counted(count, what)} failed ({named}), {ended}; {what} {index}: {why}")


def short(error: BaseException) -> str:
    """Return the kind of an error and what it says, in one line of bounded length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _distributed() -> Any:
    return importlib.import_module("distributed")
