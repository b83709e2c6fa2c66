"""A run whose blocks are computed by the workers of a Dask cluster, to the same bits.

::

    this process            plan, which blocks are missing, metadata and pyramid
      | a few block numbers at a time, the next as one is done
    the scheduler           who computes what, and again where a worker died
      |
    each worker             the plan, the model (sent once), the input opened again; writes its blocks' shards

Whatever is lost is computed again: a block is done when its shards are there, and its bytes are the same whoever
computes it. Workers on which they would not be, of another version, runtime or kind of processor, are refused before
any work.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import queue
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from isbi_infer._version import __version__
from isbi_infer.backends.cores import available_cores
from isbi_infer.errors import DependencyError, IsbiError, ResourceError, UsageError
from isbi_infer.model.opening import OpenModel
from isbi_infer.plan.run import RunPlan
from isbi_infer.run.counting import TileCount
from isbi_infer.run.findings import Findings
from isbi_infer.terminal import counted, one_line, require_packages
from isbi_infer.terminal.progress import Progress
from isbi_infer.volumes.protocol import Block, Source
from isbi_infer.volumes.zarr.writer import OmeZarrSink

if TYPE_CHECKING:
    from isbi_infer.run.worker import Answer

log = logging.getLogger(__name__)

LOCAL = "local"
_AHEAD = 2  # blocks for each worker that the scheduler knows of
_RETRIES = 2  # of a block that raised; one that kills workers has Dask's three attempts
_TIMEOUT_S = 10  # to connect
_GLANCE_S = 0.1
_LOOK_S = 2  # between looks at who is left
_PATIENCE_S = 60  # for a worker to come back
_SHOWN = 6  # blocks or workers in a message
_HOPELESS = 8  # failed blocks, before which none was done
_TOO_MANY = 100  # failed blocks
_GIB = 2**30


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
        self.name, self._client = name, client

    @property
    def dashboard(self) -> str:
        """Address of the page that shows what the cluster does; empty where there is none."""
        return str(self._client.dashboard_link or "") if importlib.util.find_spec("bokeh") else ""

    def run(
        self,
        plan: RunPlan,
        source: Source,
        model: OpenModel,
        sink: OmeZarrSink,
        statistics: Path,
        *,
        blocks: Sequence[Block],
        progress: Progress | None = None,
        findings: Findings | None = None,
    ) -> tuple[str, ...]:
        """Compute blocks of a plan.

        Parameters
        ----------
        plan : RunPlan
            With a layout.
        source : Source
            Of files that all workers see under the same name.
        model : OpenModel
            Whose file is sent to the workers.
        sink : OmeZarrSink
            Of a folder that all workers see under the same name; its blocks can be written by any process.
        statistics : Path
            Folder for what is measured of whole sections, likewise.
        blocks : sequence of Block
            What is missing.
        progress : callable, optional
            As in `isbi_infer.run.pipeline.run_plan`.
        findings : Findings, optional
            Where to collect what is found in the sections.

        Returns
        -------
        tuple of str
            What was found in the sections.

        Raises
        ------
        DependencyError
            If workers have another version, runtime or processor than the plan's; if the scheduler is lost.
        ResourceError
            If workers have too little memory.
        IsbiError
            If blocks cannot be computed, with the number of the first ones; the others are done.
        """
        from isbi_infer.run.worker import Job

        findings = Findings(plan) if findings is None else findings
        job = Job(plan, source, model, sink, statistics, every_section=findings.every_section)
        name = f"isbi-infer-{uuid4().hex[:12]}"
        try:
            self._register(job, name)
            workers = self._check(name, plan)
            shown = f"; what they do: {self.dashboard}" if self.dashboard else ""
            log.warning("%s: %s%s", self.name, counted(workers, "worker"), shown)
            count = TileCount(plan, blocks, progress) if progress else None
            said = self._compute(name, blocks, workers, findings, count)
        except (OSError, CancelledError) as error:  # as closed connections are
            raise _lost(self.name) from error
        finally:
            self._forget(name)
        return (*findings.notes(), *said)

    def _register(self, job: Any, name: str) -> None:
        """Send a run to all workers."""
        try:
            self._client.register_plugin(job, name=name)
        except Exception as error:  # whatever a worker raises when it unpickles it
            raise DependencyError(
                f"{self.name}: isbi-infer {__version__} does not run on its workers ({_short(error)}); install "
                "the same version there"
            ) from error

    def _check(self, name: str, plan: RunPlan) -> int:
        """Let every worker open model and input; return how many there are."""
        from isbi_infer.run.worker import ready

        known = self._workers()
        if not known:
            raise DependencyError(f"{self.name}: has no workers; start some with: dask worker {self.name}")
        for address, facts in known.items():
            limit = int(facts.get("memory_limit") or 0)
            needed = _memory(plan, int(facts.get("nthreads") or 1))
            if 0 < limit < needed:
                raise ResourceError(
                    f"worker {address} may use {limit / _GIB:.1f} GiB of memory, this run needs about "
                    f"{needed / _GIB:.1f}; give it more with --memory-limit, or choose a smaller --block or --memory"
                )
        asked = {
            address: self._client.submit(
                ready, name, key=f"{name}-ready-{number}", workers=[address], pure=False
            )
            for number, address in enumerate(known)
        }
        answers: dict[str, Any] = {
            address: self._answer(address, future) for address, future in asked.items()
        }
        wrong = {}
        for address, answer in answers.items():
            if isinstance(answer, IsbiError):
                wrong[address] = answer
            elif isinstance(answer, BaseException):
                wrong[address] = DependencyError(
                    f"isbi-infer {__version__} does not run there ({_short(answer)})"
                )
        if wrong:
            address, first = next(iter(wrong.items()))
            raise type(first)(
                f"{len(wrong)} of {counted(len(answers), 'worker')} cannot take part: {address}: {first}"
            ) from first
        doubled = _sharing_a_gpu(answers)
        if doubled:
            raise DependencyError(
                f"workers {' and '.join(doubled[:_SHOWN])} would share a GPU; start one worker for each, with "
                "CUDA_VISIBLE_DEVICES set"
            )
        return len(answers)

    def _answer(self, address: str, future: Any) -> Any:
        """Wait for one worker's answer, or for its end: what is asked of a worker that is gone waits for ever."""
        while not future.done():
            if self._client.status != "running":
                raise _lost(self.name)
            if address not in self._workers():
                return DependencyError("it ended while it opened model and input")
            time.sleep(_GLANCE_S)
        return future.exception() or future.result()

    def _workers(self) -> dict[str, dict[str, Any]]:
        return dict(self._client.scheduler_info(n_workers=-1)["workers"])

    def _compute(
        self,
        name: str,
        blocks: Sequence[Block],
        workers: int,
        findings: Findings,
        count: TileCount | None,
    ) -> tuple[str, ...]:
        """Hand out blocks, a few at a time; return what the workers' sources said."""
        done = 0
        said: dict[str, tuple[str, ...]] = {}
        failed: dict[int, BaseException] = {}
        suspects: list[Block] = []
        rounds = ((blocks, workers * _AHEAD), (suspects, 1))  # what died beside others may not have killed
        for number, (waiting, ahead) in enumerate(rounds):
            for block, answer, error in self._answers(name, waiting, ahead, number):
                if answer is not None:
                    findings.merge(answer.findings)
                    said[answer.worker] = answer.said
                    done += 1
                    if count:
                        count.block_done(block)
                elif number == 0 and type(error).__name__ == "KilledWorker":
                    suspects.append(block)
                else:
                    assert error is not None
                    failed[block.index] = error
                    if (not done and len(failed) >= _HOPELESS) or len(failed) >= _TOO_MANY:
                        raise _failure(failed, len(blocks), gave_up=True)
        if failed:
            raise _failure(failed, len(blocks))
        return tuple(dict.fromkeys(note for notes in said.values() for note in notes))

    def _answers(
        self, name: str, blocks: Sequence[Block], ahead: int, number: int
    ) -> Iterator[tuple[Block, Answer | None, BaseException | None]]:
        """Yield blocks as they are done, each with its answer or with why it failed."""
        from isbi_infer.run.worker import compute_block

        waiting = iter(blocks)
        pending: dict[Any, Block] = {}
        finished: queue.Queue[Any] = queue.Queue()

        def submit() -> None:
            for block in waiting:
                future = self._client.submit(
                    compute_block,
                    name,
                    block.index,
                    key=f"{name}-{number}-{block.index}",
                    retries=_RETRIES,
                    pure=False,
                )
                pending[future] = block
                future.add_done_callback(finished.put)
                return

        try:
            for _ in range(ahead):
                submit()
            while pending:
                future = self._wait(finished)
                block = pending.pop(future)
                if future.status in ("cancelled", "lost"):
                    raise _lost(self.name)
                error = future.exception() if future.status == "error" else None
                yield block, None if error else future.result(), error
                future.release()
                submit()
        finally:
            if pending and self._client.status == "running":
                self._client.cancel(list(pending), force=True)

    def _wait(self, finished: queue.Queue[Any]) -> Any:
        """Return the next future that is finished; DependencyError where there is nobody left to finish one."""
        alone_since: float | None = None
        while True:
            try:
                return finished.get(timeout=_LOOK_S)
            except queue.Empty:
                if self._client.status != "running":
                    raise _lost(self.name) from None
                if self._workers():
                    alone_since = None
                    continue
                alone_since = alone_since or time.monotonic()
                if time.monotonic() - alone_since > _PATIENCE_S:
                    raise DependencyError(
                        f"{self.name}: no workers are left; start some and add --resume"
                    ) from None

    def _forget(self, name: str) -> None:
        if self._client.status != "running":
            return
        try:
            self._client.unregister_worker_plugin(name)
        except Exception as error:  # whatever it is, the run is over
            log.debug("%s: cannot be told that the run is over (%s)", self.name, error)


def _lost(name: str) -> DependencyError:
    return DependencyError(
        f"{name}: the scheduler was lost; start it and its workers again, and add --resume"
    )


def _failure(failed: dict[int, BaseException], blocks: int, *, gave_up: bool = False) -> IsbiError:
    """Return the error of a run some of whose blocks failed."""
    index, first = min(failed.items())
    named = ", ".join(map(str, sorted(failed)[:_SHOWN])) + (", ..." if len(failed) > _SHOWN else "")
    if isinstance(first, IsbiError):
        kind, why = type(first), str(first)
    elif type(first).__name__ == "KilledWorker":
        kind, why = ResourceError, "it ended every worker that tried it, as too little memory does"
    else:
        kind, why = IsbiError, _short(first)
    ended = "so no more were tried" if gave_up else "the others are done"
    return kind(
        f"{len(failed)} of {counted(blocks, 'block')} failed ({named}), {ended}; block {index}: {why}"
    )


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _memory(plan: RunPlan, threads: int) -> int:
    """Return the bytes that a worker of so many threads needs: the network's activations, and a block of results."""
    assert plan.layout is not None
    depth, height, width = plan.layout.block
    sections = 4 * depth * height * width * 2
    return plan.memory_bytes * min(threads, plan.workers) // max(1, plan.workers) + sections


def _sharing_a_gpu(facts: dict[str, dict[str, str]]) -> list[str]:
    """Return the workers that use a GPU which another one on the same host uses, too."""
    first: dict[tuple[str, str], str] = {}
    for address, fact in facts.items():
        if fact["gpu"]:
            other = first.setdefault((fact["host"], fact["gpu"]), address)
            if other != address:
                return [other, address]
    return []


def _distributed() -> Any:
    return importlib.import_module("distributed")
