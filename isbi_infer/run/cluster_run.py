"""A run whose blocks are computed by the workers of a Dask cluster, to the same bits.

::

    this process            plan, which blocks are missing, metadata
      | a few block numbers at a time, the next as one is done
    the scheduler           who computes what, and again where a worker died
      |
    each worker             the plan, the model (sent once), the input opened again; writes its blocks' shards

Whatever is lost is computed again: a block is done when its shards are there, and its bytes are the same whoever
computes it. Workers on which they would not be, of another version, runtime or kind of processor, are refused before
any work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from isbi_infer._version import __version__
from isbi_infer.errors import DependencyError, IsbiError, ResourceError
from isbi_infer.model.opening import OpenModel
from isbi_infer.plan.run import RunPlan
from isbi_infer.run.cluster import AHEAD, Cluster, failure, is_killer, plainly, short
from isbi_infer.run.counting import TileCount
from isbi_infer.run.findings import Findings
from isbi_infer.terminal import counted
from isbi_infer.terminal.progress import Progress
from isbi_infer.volumes.protocol import Block, Source
from isbi_infer.volumes.zarr.writer import OmeZarrSink

log = logging.getLogger(__name__)

_GLANCE_S = 0.1
_LOOK_S = 1
_FAREWELL_S = 10
_SHOWN = 6  # workers in a message
_HOPELESS = 8  # failed blocks, before which none was done
_TOO_MANY = 100  # failed blocks
_GIB = 2**30


def run_on(
    cluster: Cluster,
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
    cluster : Cluster
        Whose workers all take part.
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
        _register(cluster, job, name)
        workers = _check(cluster, name, plan)
        shown = f"; what they do: {cluster.dashboard}" if cluster.dashboard else ""
        log.warning("%s: %s%s", cluster.name, counted(workers, "worker"), shown)
        count = TileCount(plan, blocks, progress) if progress else None
        said = _compute(cluster, name, plan, blocks, workers, findings, count)
    except (OSError, CancelledError) as error:  # as closed connections are
        raise cluster.lost() from error
    finally:
        _forget(cluster, name)
    return (*findings.notes(), *said)


def _register(cluster: Cluster, job: Any, name: str) -> None:
    """Send a run to all workers."""
    try:
        cluster.ask(partial(cluster.client.register_plugin, job, name=name))
    except IsbiError:
        raise
    except Exception as error:  # whatever a worker raises when it unpickles it
        raise DependencyError(
            f"{cluster.name}: isbi-infer {__version__} does not run on its workers ({short(error)}); install "
            "the same version there"
        ) from error


def _check(cluster: Cluster, name: str, plan: RunPlan) -> int:
    """Let every worker open model and input; return how many there are."""
    from isbi_infer.run.worker import ready

    known = cluster.workers()
    if not known:
        raise DependencyError(f"{cluster.name}: has no workers; start some with: dask worker {cluster.name}")
    for address, facts in known.items():
        limit = int(facts.get("memory_limit") or 0)
        needed = _memory(plan, int(facts.get("nthreads") or 1))
        if 0 < limit < needed:
            raise ResourceError(
                f"worker {address} may use {limit / _GIB:.1f} GiB of memory, this run needs about "
                f"{needed / _GIB:.1f}; give it more with --memory-limit, or choose a smaller --block or --memory"
            )
    asked = {
        address: cluster.client.submit(
            plainly, ready, name, key=f"{name}-ready-{number}", workers=[address], pure=False
        )
        for number, address in enumerate(known)
    }
    answers: dict[str, Any] = {
        address: _answer(cluster, address, future) for address, future in asked.items()
    }
    wrong = {}
    for address, answer in answers.items():
        if isinstance(answer, IsbiError):
            wrong[address] = answer
        elif isinstance(answer, BaseException):
            wrong[address] = DependencyError(f"isbi-infer {__version__} does not run there ({short(answer)})")
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


def _answer(cluster: Cluster, address: str, future: Any) -> Any:
    """Wait for one worker's answer, or for its end: what is asked of a worker that is gone waits for ever."""

    def take() -> Any:
        looked = time.monotonic()
        while not future.done():
            if time.monotonic() - looked > _LOOK_S:
                if address not in cluster.workers():
                    return DependencyError("it ended while it opened model and input")
                raise TimeoutError
            time.sleep(_GLANCE_S)
        found, error = cluster.outcome(future)
        return error or found

    return cluster.awaited(take)


def _compute(
    cluster: Cluster,
    name: str,
    plan: RunPlan,
    blocks: Sequence[Block],
    workers: int,
    findings: Findings,
    count: TileCount | None,
) -> tuple[str, ...]:
    """Hand out blocks, a few at a time; return what the workers' sources said."""
    from isbi_infer.run.worker import compute_block

    assert plan.layout is not None
    done = 0
    said: dict[str, tuple[str, ...]] = {}
    failed: dict[int, BaseException] = {}
    suspects = list[int]()
    work = partial(compute_block, name)
    for last, ahead in ((False, workers * AHEAD), (True, 1)):  # what died beside others may not have killed
        numbers = suspects if last else (block.index for block in blocks)
        for number, answer, error in cluster.answers(work, numbers, ahead):
            if error is None:
                findings.merge(answer.findings)
                said[answer.worker] = answer.said
                done += 1
                if count:
                    count.block_done(plan.layout.at(number))
            elif not last and is_killer(error):
                suspects.append(number)
            else:
                failed[number] = error
                if (not done and len(failed) >= _HOPELESS) or len(failed) >= _TOO_MANY:
                    raise failure(failed, len(blocks), gave_up=True)
    if failed:
        raise failure(failed, len(blocks))
    return tuple(dict.fromkeys(note for notes in said.values() for note in notes))


def _forget(cluster: Cluster, name: str) -> None:
    if not cluster.running:
        return

    def tell() -> None:
        try:
            cluster.client.unregister_worker_plugin(name)
        except Exception as error:  # whatever it is, the run is over
            log.debug("%s: cannot be told that the run is over (%s)", cluster.name, error)

    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    telling.join(_FAREWELL_S)


def _memory(plan: RunPlan, threads: int) -> int:
    """Return the bytes that a worker needs: of its network's activations, of a block of results and what these see."""
    assert plan.layout is not None
    depth, height, width = plan.layout.block
    sections = 4 * (2 * depth + 2 * plan.model.neighbours) * height * width
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
