r"""Labels of a volume into OME-Zarr: sections and blocks by themselves, here or on a cluster, with ids of the whole.

::

    result, section by section  ->  segments, on disk  ->  links of each with the one below  ->  ids by size
                                       \-> blocks of labels  <-------- table of ids ------------/

Each arrow is work in numbered pieces, in any order; what joins them is in the order of sections. So the ids are those
of the stack in one piece, however it is cut.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from isbi_infer._version import __version__
from isbi_infer.backends.cores import processor_kind
from isbi_infer.errors import ResourceError, say_on_the_way_out
from isbi_infer.files import check_writable, make_folder
from isbi_infer.neurons.labelling import (
    Labelling,
    LabelSummary,
    ids_by_size,
    label_dtype,
    require_label_packages,
)
from isbi_infer.neurons.linking import Links, linker
from isbi_infer.neurons.measurements import joined, table_of, write_table
from isbi_infer.neurons.pieces import Pieces, digest_of, digest_of_part, keep, memory_of_section
from isbi_infer.plan.blocks import Layout
from isbi_infer.plan.memory import available_memory
from isbi_infer.run.cluster import Cluster, connected, local_workers
from isbi_infer.run.volume import ATTRIBUTE
from isbi_infer.terminal import counted
from isbi_infer.volumes.protocol import Sink, StackInfo
from isbi_infer.volumes.spread import Spread, in_turn
from isbi_infer.volumes.zarr.unfinished import Unfinished, stored_attributes
from isbi_infer.volumes.zarr.writer import OmeZarrSink

log = logging.getLogger(__name__)

_CHUNK = (32, 128, 128)  # neighbours in all directions are looked at together
_SHARD = 1024  # px
_GIB = 2**30


class VolumeLabels:
    """Makes labels of a finished result, and writes them as OME-Zarr.

    Parameters
    ----------
    path : path
        Of the labels; the table stands beside it, as .csv.
    result : path
        Of the probabilities.
    like : StackInfo
        Of the input.
    labelling : Labelling
        How.
    membrane : bool
        Whether 1 means membrane in the result.
    provenance : str
        For the attributes.
    cluster : str
        Where it is done, see `isbi_infer.run.cluster.connected`; empty for this process.
    resume : bool
        Whether labels that were cut off are gone on with. Finished ones are then left as they are, or replaced where
        they were made of another result or in another way.
    overwrite : bool
        Whether labels that are there are replaced.

    Raises
    ------
    DependencyError
        If the ``labels`` or the ``volume`` extra is not installed.
    UsageError
        If there is something of this name, or the result lies in it.
    OutputError
        If the files cannot be written.
    ResourceError
        If a section does not fit into the memory of who is to label it.
    """

    def __init__(
        self,
        path: str | Path,
        result: str | Path,
        like: StackInfo,
        labelling: Labelling,
        *,
        membrane: bool = False,
        provenance: str = "",
        cluster: str = "",
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        require_label_packages(labelling.link)
        self._path, self._result, self._like, self._how = Path(path), Path(result), like, labelling
        self._membrane, self._provenance, self._cluster = membrane, provenance, cluster
        self._shape = (like.sections, like.shape[-2], like.shape[-1])
        table = table_of(self._path)
        self._work = Unfinished(path, attached=table)
        self._resume, self._overwrite = resume, overwrite
        # Unasked, nothing is kept of labels that were cut off: they take little beside the probabilities.
        self._work.check(str(result), resume=False, overwrite=overwrite or resume or self._work.begun)
        self._table = table
        check_writable(table)
        self._needed = memory_of_section(self._shape[1:], labelling.link, process=bool(cluster))
        self._check_memory()

    def _check_memory(self) -> None:
        """Raise ResourceError, before any work, where sections do not fit into memory."""
        workers = local_workers(self._cluster) if self._cluster else 1
        if workers is None:
            with connected(self._cluster) as cluster:
                self._at_once(cluster)
        elif (free := available_memory()) < workers * self._needed:
            each = f" for each of {workers} workers" if workers > 1 else ""
            raise ResourceError(
                f"{self._path}: labels hold a whole section, {self._needed / _GIB:.1f} GiB{each}, and "
                f"{free / _GIB:.1f} GiB are free; use a machine with more, or fewer workers"
            )

    def _at_once(self, cluster: Cluster) -> int:
        """Return how many sections each worker may hold at a time."""
        most = []
        for address, facts in cluster.workers().items():
            limit = int(facts.get("memory_limit") or 0)
            if 0 < limit < self._needed:
                raise ResourceError(
                    f"worker {address} may use {limit / _GIB:.1f} GiB of memory, labels hold a whole section there, "
                    f"{self._needed / _GIB:.1f}; give it more with --memory-limit, or leave --labels out"
                )
            threads = int(facts.get("nthreads") or 1)
            most.append(min(threads, limit // self._needed) if limit else threads)
        return max(1, min(most, default=1))

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """What is handed the sections of a result while it is made: nothing, for they are read when it is finished."""
        return ()

    def complete(self, result: str | Path) -> bool:
        """Return whether there is a whole result to label."""
        return Path(result).exists()

    def summarise(self) -> LabelSummary:
        """Make labels and table.

        Returns
        -------
        LabelSummary

        Raises
        ------
        ResourceError
            If there are more ids than labels can hold.
        OutputError
            If they cannot be written; labels and table that are there stay as they are.
        """
        work = self._work
        with ExitStack() as opened:
            spread: Spread = in_turn
            at_once = 1
            if self._cluster:
                cluster = opened.enter_context(connected(self._cluster))
                spread, at_once = cluster.spread, self._at_once(cluster)
            plan = self._plan(spread)
            if self._resume and (finished := self._finished(plan)):
                if work.begun:  # what a run left that was killed while it cleaned up
                    opened.enter_context(work.held((1, 1), overwrite=False))
                    work.discard()
                return finished
            notes, goes_on = self._what_of_begun(plan)
            opened.enter_context(work.held((1, 1), overwrite=not goes_on))
            work.agree(json.dumps(plan, sort_keys=True))
            folder = work.folder / "segments"
            make_folder(folder)
            pieces = Pieces(
                str(self._result.absolute()), folder, self._shape, self._how, self._membrane, at_once
            )
            try:
                found = self._make(spread, pieces, plan, notes)
            except BaseException as error:
                self._say_how_to_go_on(error, pieces)
                raise
            work.complete(overwrite=self._overwrite or self._resume, whole=self._is_whole)
        return found

    def _digest_of_result(self, spread: Spread) -> str:
        """Return a digest of all bytes of the result.

        What it says of itself would not do: a result that was made again of changed pixels may say the same. Times of
        change would not, for they are no part of equal bytes.
        """
        shards = self._result.absolute() / "0" / "c"
        if not shards.is_dir():
            return f"sha256 {digest_of(self._result).hex()}"
        digest = hashlib.sha256(digest_of(self._result / "zarr.json"))
        count = 1 + max((int(name) for name in os.listdir(shards) if name.isdecimal()), default=-1)
        parts = dict(spread(partial(digest_of_part, shards), count))
        for number in sorted(parts):
            digest.update(parts[number])
        return f"sha256 {digest.hexdigest()}"

    def _plan(self, spread: Spread) -> dict[str, Any]:
        """Return what the labels depend on; equal ones are of the same bytes."""
        how = self._how
        return {
            "result": self._digest_of_result(spread),
            "shape": list(self._shape),
            "pixel_size": str(self._like.pixel_size),
            "threshold": how.threshold,
            "link": how.link,
            "min_pixels": how.min_pixels,
            "membrane": self._membrane,
            "version": __version__,
            "solver": f"bioimage-cpp {version('bioimage-cpp')}, {processor_kind()}"
            if how.link == "multicut"
            else "",
        }

    def _finished(self, plan: dict[str, Any]) -> LabelSummary | None:
        """Return what is known of finished labels of the same plan."""
        if not self._work.finished:
            return None
        own = stored_attributes(self._path).get(ATTRIBUTE)
        if not isinstance(own, dict) or own.get("plan") != plan or not self._table.is_file():
            return None
        return self._summary(own["segments"], own["ids"], (f"{self._path} is finished already",))

    def _what_of_begun(self, plan: dict[str, Any]) -> tuple[tuple[str, ...], bool]:
        """Return what is to be said of labels that were cut off, and whether they are gone on with."""
        if not self._resume or not self._work.begun:
            return (), False
        try:
            begun = json.loads((self._work.folder / "plan.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            begun = None
        if not isinstance(begun, dict):
            return (), False
        differing = [
            f"{key}: {begun.get(key)!r}, now {now!r}" for key, now in plan.items() if begun.get(key) != now
        ]
        if differing:
            return (
                f"{self._path}: made from the start, for it was begun otherwise: {'; '.join(differing)}",
            ), False
        return (), True

    def _say_how_to_go_on(self, error: BaseException, pieces: Pieces) -> None:
        if not pieces.done:
            self._work.discard()
            return
        kept = f"{counted(pieces.done, 'section')} kept in {self._work.folder.name}"
        say_on_the_way_out(error, f"{self._path}: {kept}; to go on with the labels, add --resume", log)

    def _make(
        self, spread: Spread, pieces: Pieces, plan: dict[str, Any], notes: tuple[str, ...]
    ) -> LabelSummary:
        how, like, shape = self._how, self._like, self._shape
        by_section = dict(spread(pieces.segment, shape[0]))
        parts = [by_section[z] for z in range(shape[0])]
        links = dict(spread(pieces.link, shape[0])) if how.link != "none" else {}
        linked = linker(how.link, how.threshold)
        for z, part in enumerate(parts):
            linked.take(links.get(z, Links(len(part.pixels))))
        ids, count = ids_by_size(linked.components(), np.concatenate([part.pixels for part in parts]))
        label_dtype(count, str(self._path))  # which says so where they do not fit
        first = np.cumsum([0, *(len(part.pixels) for part in parts)])
        keep(pieces.folder / "ids.npy", lambda file: np.save(file, ids))
        keep(pieces.folder / "first.npy", lambda file: np.save(file, first))
        self._store(spread, pieces, {"plan": plan, "segments": len(ids), "ids": count})
        assert self._work.made_attached is not None
        write_table(self._work.made_attached, joined(parts, ids, count), shape[0], like.pixel_size)
        if not count:
            notes += (f"{self._path}: no cell in any section, so all labels are 0",)
        return self._summary(len(ids), count, (*how.notes, *notes))

    def _summary(self, segments: int, ids: int, notes: tuple[str, ...]) -> LabelSummary:
        return LabelSummary(
            output=str(self._path),
            table=str(self._table),
            segments=segments,
            ids=ids,
            dtype="uint32",
            threshold=self._how.threshold,
            link=self._how.link,
            notes=notes,
        )

    def _store(self, spread: Spread, pieces: Pieces, made: dict[str, Any]) -> None:
        layout = label_layout(pieces.shape)
        about = {"provenance": self._provenance, "labelling": asdict(self._how)} | made
        sink = self._sink(self._work.volume, layout, attributes={ATTRIBUTE: about})
        with sink:  # made once, before workers open it
            pass
        for _ in spread(partial(pieces.store, sink, layout), layout.count):
            pass
        with sink:
            sink.finish()

    def _sink(
        self,
        folder: Path,
        layout: Layout,
        *,
        attributes: dict[str, Any] | None = None,
        existing: bool = False,
    ) -> OmeZarrSink:
        return OmeZarrSink(
            folder,
            shape=layout.shape,
            dtype=np.uint32,
            shard=layout.shard,
            chunk=layout.chunk,
            like=self._like,
            name="ids of cells",
            attributes=attributes,
            existing=existing,
            labels=True,
        )

    def _is_whole(self, folder: Path) -> bool:
        layout = label_layout(self._shape)
        with self._sink(folder, layout, existing=True) as sink:
            return all(sink.done(block) for block in layout.blocks())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def label_layout(shape: tuple[int, int, int]) -> Layout:
    """Return how labels of (Z, Y, X) pixels are cut: a block is a shard of chunks that extend in all directions."""
    depth, height, width = (min(side, size) for side, size in zip(_CHUNK, shape, strict=True))
    down, across = (
        min(_SHARD // c * c, ceil(size / c) * c) for c, size in zip((height, width), shape[1:], strict=True)
    )
    shard = (depth, down, across)
    return Layout(shape=shape, block=shard, shard=shard, chunk=(depth, height, width))
