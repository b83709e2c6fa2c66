"""What a worker of a cluster holds of a run: plan, model and input, opened once; and what it does with a block.

Imported by workers, and by `isbi_infer.run.cluster_run` once a cluster is asked for.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distributed import WorkerPlugin, get_worker

from isbi_infer._version import __version__
from isbi_infer.backends.allocator import share_one_arena
from isbi_infer.backends.base import Backend
from isbi_infer.backends.cores import processor_kind, use_cores
from isbi_infer.errors import DependencyError, ModelError, UsageError
from isbi_infer.model.opening import OpenModel, open_model
from isbi_infer.plan.run import RunPlan, parse_plan
from isbi_infer.run.findings import Findings
from isbi_infer.run.measured import MeasuredSections
from isbi_infer.run.pipeline import run_plan
from isbi_infer.volumes.protocol import Source
from isbi_infer.volumes.zarr.unfinished import PLAN
from isbi_infer.volumes.zarr.writer import OmeZarrSink


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes back of a block."""

    worker: str
    findings: Findings
    said: tuple[str, ...]


class Job(WorkerPlugin):
    """A run, as it is sent to each worker once, also to those that come later: a Dask worker plugin."""

    def __init__(
        self,
        plan: RunPlan,
        source: Source,
        model: OpenModel,
        sink: OmeZarrSink,
        statistics: Path,
        *,
        every_section: bool = False,
    ) -> None:
        self._every_section = every_section
        content = model.path.read_bytes()
        if hashlib.sha256(content).hexdigest() != plan.model.sha256:
            raise ModelError(f"{model.path}: has changed since it was opened; start again")
        self._plan, self._sink = plan.to_json(), sink
        self._begun = _begun(statistics)  # by which the run's folder is known
        self._source: Any = source.__reduce__()  # how it is opened again
        self._content, self._suffix, self._statistics = content, model.path.suffix, statistics
        self._opened: tuple[RunPlan, Source, Backend, OmeZarrSink, MeasuredSections] | None = None
        self._guard: threading.Lock | None = None
        self._held = ExitStack()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None, "_guard": None, "_held": None}

    def setup(self, worker: Any) -> None:
        """Be told by Dask that a worker has it."""
        self._guard, self._held = threading.Lock(), ExitStack()
        self._worker = worker

    def teardown(self, worker: Any) -> None:  # Dask passes it
        """Be told by Dask that the run is over."""
        self._held.close()
        use_cores(None)

    def open(self) -> tuple[RunPlan, Source, Backend, OmeZarrSink, MeasuredSections]:
        """Open all that a block takes, once a worker; whatever would give other bits is an error."""
        if self._opened is None:
            share_one_arena()
            use_cores(self._worker.state.nthreads)
            plan = parse_plan(self._plan)
            if plan.code_version != __version__:
                raise DependencyError(f"has isbi-infer {__version__}; the run is of {plan.code_version}")
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"model{self._suffix}"
                path.write_bytes(self._content)
                model = open_model(path, plan.device, plan.precision)
            for what, here, wanted in (
                ("model", model.sha256, plan.model.sha256),
                ("runtime", model.backend.version, plan.runtime),
                ("processor", processor_kind(), plan.processor),
            ):
                if here != wanted:
                    raise DependencyError(
                        f"its {what} is {here}, that of the run {wanted}: results would differ in their last bits; "
                        "use workers of one kind"
                    )
            reopen, where = self._source  # not opened before, for it may not be there
            source: Source = self._held.enter_context(reopen(*where))
            if source.fingerprint() != plan.source.fingerprint:
                raise UsageError(f"{source.name} is another file there than here; put it where all see it")
            self._check_folder()
            sink = self._held.enter_context(self._sink)
            cores = min(self._worker.state.nthreads, model.backend.workers)
            plan = replace(plan, workers=1 if plan.all_cores else max(1, cores))
            measured = MeasuredSections(self._statistics, plan, source)
            self._opened = plan, source, model.backend, sink, measured
        return self._opened

    def _check_folder(self) -> None:
        """Raise UsageError unless this worker sees the folder in which the run was begun."""
        folder = self._statistics.parent
        if not self._begun or _begun(self._statistics) != self._begun:
            raise UsageError(f"{folder} is not there, or another folder than here; write to where all see it")

    def ready(self) -> dict[str, str]:
        """Open everything; return what tells workers apart."""
        assert self._guard is not None
        with self._guard:
            _, _, backend, *_ = self.open()
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "all") if backend.device.kind != "cpu" else ""
        return {"host": socket.gethostname(), "gpu": gpu}

    def compute(self, index: int) -> Answer:
        """Compute a block and store it; one that is stored already is left as it is."""
        assert self._guard is not None
        with self._guard:  # a block takes all of a worker's threads
            plan, source, backend, sink, measured = self.open()
            assert plan.layout is not None
            block, findings = plan.layout.at(index), Findings(plan, every_section=self._every_section)
            if not sink.done(block):
                run_plan(plan, source, backend, (sink,), blocks=[block], measured=measured, findings=findings)
        return Answer(self._worker.address, findings, source.found())


def _begun(statistics: Path) -> bytes:
    """Return what is computed in the folder of a run; nothing where it is not seen."""
    try:
        return (statistics.parent / PLAN).read_bytes()
    except OSError:
        return b""


def ready(name: str) -> dict[str, str]:
    """Let this worker open what it needs for a run; see `Job.ready`."""
    return _job(name).ready()


def compute_block(name: str, index: int) -> Answer:
    """Let this worker compute a block of a run; see `Job.compute`."""
    return _job(name).compute(index)


def _job(name: str) -> Job:
    job = get_worker().plugins[name]
    assert isinstance(job, Job)
    return job
