"""A run into a chunked volume: its blocks, what of them is done, and who puts the result in place.

Nothing remembers what is done but the storage: a block whose shards are all there is done. So a run that was killed
goes on where it stopped, and several runs may each compute a share of one plan, on one machine or on many.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from isbi_infer._version import __version__
from isbi_infer.backends.base import Backend
from isbi_infer.errors import ImageError, IsbiError, UsageError, say_on_the_way_out
from isbi_infer.model.opening import OpenModel
from isbi_infer.plan.blocks import Blocks
from isbi_infer.plan.plain import plain_of
from isbi_infer.plan.run import RunPlan, Wishes, parse_plan
from isbi_infer.run.cluster import Cluster, connected
from isbi_infer.run.cluster_run import run_on
from isbi_infer.run.findings import Findings
from isbi_infer.run.mask import TissueMask, opened_mask, without_tissue
from isbi_infer.run.measured import MeasuredSections
from isbi_infer.run.pipeline import run_plan
from isbi_infer.terminal import counted
from isbi_infer.terminal.progress import Progress
from isbi_infer.volumes.protocol import Block, Sink, Source, StackInfo
from isbi_infer.volumes.spread import Spread, in_turn
from isbi_infer.volumes.zarr.unfinished import Unfinished, stored_attributes
from isbi_infer.volumes.zarr.writer import OmeZarrSink

log = logging.getLogger(__name__)

ATTRIBUTE = "isbi-infer"
_SHOWN = 6  # differences
_OTHER = "{}: was begun by another run, so run it as before or use --overwrite; what differs"


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeOptions:
    """How a chunked result is made; none of these but the mask changes its values.

    Attributes
    ----------
    block : (int, int, int) or None
        Pixels along (Z, Y, X) that are computed and stored as one; chosen by the plan when not given.
    pyramid : bool
        Whether smaller resolutions are added.
    resume : bool
        Whether an earlier run that was cut off is continued.
    overwrite : bool
        Whether what is there is replaced.
    share : (int, int)
        (i, n): the i-th of n shares of the blocks is computed, i from 1; (1, 1) is all.
    mask : str
        Path of a mask outside of which blocks are left out; empty for none. It is part of the plan.
    cluster : str
        Where the blocks are computed, see `isbi_infer.run.cluster.connected`; empty for this process.
    """

    block: tuple[int, int, int] | None = None
    pyramid: bool = False
    resume: bool = False
    overwrite: bool = False
    share: tuple[int, int] = (1, 1)
    mask: str = ""
    cluster: str = ""

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise UsageError("--resume and --overwrite exclude each other; use one of them")
        index, count = self.share
        if not 1 <= index <= count:
            raise UsageError(f"share {index}/{count} is invalid; expected i/n with i from 1 to n")
        if self.overwrite and count > 1:
            raise UsageError(
                "shares of a run cannot overwrite what others have done; remove the output first"
            )
        if self.cluster and count > 1:
            raise UsageError("a cluster computes all blocks; leave --shard or --cluster out")

    @property
    def joins(self) -> bool:
        """Whether what is there already is gone on with."""
        return self.resume or self.share != (1, 1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    Attributes
    ----------
    notes : tuple of str
        What is to be said.
    computed : int
        Pixels that this run computed; the others were there already, or are another run's.
    """

    notes: tuple[str, ...]
    computed: int = 0


def segment_volume(
    plan: RunPlan,
    source: Source,
    model: OpenModel,
    output: str | Path,
    *,
    wishes: Wishes,
    contract: str,
    options: VolumeOptions,
    also: Sequence[Sink] = (),
    progress: Progress | None = None,
    findings: Findings | None = None,
) -> Outcome:
    """Carry out a plan into an OME-Zarr image, and put it in place when all of its blocks are there.

    Parameters
    ----------
    plan : RunPlan
        With a layout.
    source : Source
        The sections.
    model : OpenModel
        On the plan's device.
    output : path
        Of the image.
    wishes : Wishes
        What the user asks for, so that what the machine decided differently does not hinder a resume.
    contract : str
        The model's, as JSON, for the attributes.
    options : VolumeOptions
        How.
    also : sequence of Sink
        Handed the sections of the whole result, in order, once all are there; by whichever run they were computed.
    progress : callable, optional
        As in `run_plan`, for the blocks that are computed now.
    findings : Findings, optional
        Told what their sections show.

    Returns
    -------
    Outcome

    Raises
    ------
    UsageError
        If an earlier run differs from this one; the differences are listed.
    BusyError
        If another run makes this output.
    """
    work = Unfinished(output)
    for name in (source.name, options.mask):
        if name:
            work.check(name, resume=options.joins, overwrite=options.overwrite)
    with ExitStack() as opened:
        now, mask = _with_mask(plan, options, opened)
        if work.finished and options.joins:
            _check_finished(work, now, source.info, wishes, options)
            work.sweep()
            _hand_over_finished(work, source.info, also)
            return Outcome((f"{work.name} is finished already",))
        cluster = opened.enter_context(connected(options.cluster)) if options.cluster else None
        opened.enter_context(work.held(options.share, overwrite=options.overwrite))
        if _by_another(work, options):
            return _left_to_another(work, source.info, also)
        begun = _agreed(work, now, wishes, options)
        plan = begun.continued(now, wishes)
        assert plan.layout is not None
        with sink_for(work.volume, begun, source.info, contract=contract, pyramid=options.pyramid) as sink:
            mine = plan.layout.share_size(options.share)
            missing = plan.layout.numbered(
                block.index for block in plan.layout.blocks(options.share) if not sink.done(block)
            )
            if _by_another(work, options):  # so what is missing here is there
                return _left_to_another(work, source.info, also)
            notes = _resumed(mine - len(missing), mine, options)
            if mask is not None:
                missing, said = _leave_out(mask, plan, sink, missing)
                notes += said
            computed = sum(prod(block.shape) for block in missing)
            say = partial(_say_how_to_go_on, work=work, sink=sink, plan=plan, options=options)
            try:
                found = _compute(plan, source, model, sink, work, missing, cluster, progress, findings)
            except BaseException as error:
                if isinstance(error, IsbiError | OSError) and _by_another(work, options):
                    return _left_to_another(work, source.info, also)  # which removed the folder
                say(error)
                raise
            notes += found
            others = 0 if options.share == (1, 1) else sum(not sink.done(b) for b in plan.layout.blocks())
            if others:
                if _by_another(work, options):
                    return _left_to_another(work, source.info, also, notes, computed)
                return Outcome((*notes, _missing_yet(options, others)), computed)
            finish = partial(_finish, sink, plan, also, cluster.spread if cluster else in_turn, say)
            whole = partial(_is_whole, begun, source.info)
            if not work.complete(overwrite=options.overwrite, whole=whole, finish=finish):
                if _by_another(work, options):
                    return _left_to_another(work, source.info, also, notes, computed)
                notes += (f"{work.name} is put in place by another run",)
    return Outcome(notes, computed)


def _compute(
    plan: RunPlan,
    source: Source,
    model: OpenModel,
    sink: OmeZarrSink,
    work: Unfinished,
    blocks: Blocks,
    cluster: Cluster | None,
    progress: Progress | None,
    findings: Findings | None,
) -> tuple[str, ...]:
    """Compute blocks here or on a cluster; return what was found in the sections."""
    if cluster is not None:
        return run_on(
            cluster,
            plan,
            source,
            model,
            sink,
            work.statistics,
            blocks=blocks,
            progress=progress,
            findings=findings,
        )
    return run_plan(
        plan,
        source,
        model.backend,
        (sink,),
        progress,
        blocks=blocks,
        measured=MeasuredSections(work.statistics, plan, source),
        findings=findings,
    )


def sink_for(
    folder: Path,
    plan: RunPlan,
    like: StackInfo,
    *,
    contract: str = "{}",
    pyramid: bool = False,
    existing: bool = False,
) -> OmeZarrSink:
    """Return the sink of a plan's result, in a folder."""
    assert plan.layout is not None
    attributes = {
        ATTRIBUTE: {
            "version": __version__,
            "model_sha256": plan.model.sha256,
            "provenance": plan.provenance,
            "contract": json.loads(contract),
            "plan": plain_of(plan),
        }
    }
    return OmeZarrSink(
        folder,
        shape=plan.layout.shape,
        dtype=plan.dtype,
        shard=plan.layout.shard,
        chunk=plan.layout.chunk,
        like=replace(like, pixel_size=plan.source.pixel_size),
        name="cell interior" if plan.emit == "cell" else "membrane",
        attributes=attributes,
        pyramid=pyramid,
        existing=existing,
    )


def plan_of(result: str | Path) -> RunPlan:
    """Return the plan that a finished volume was made by; UsageError where it does not say."""
    own = stored_attributes(result).get(ATTRIBUTE)
    if not isinstance(own, dict) or "plan" not in own:
        raise UsageError(f"{result}: does not say how it was made; expected a result of isbi-infer")
    return parse_plan(json.dumps(own["plan"]), result)


def verify_volume(
    result: str | Path,
    plan: RunPlan,
    source: Source,
    backend: Backend,
    *,
    blocks: int | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
) -> tuple[int, ...]:
    """Compute blocks of a finished volume again and compare.

    Parameters
    ----------
    result : path
        Of the volume.
    plan : RunPlan
        From `plan_of`.
    source, backend : Source, Backend
        As for `segment_volume`.
    blocks : int or None
        How many, chosen at random; all when not given.
    seed : int, optional
        Of the choice.
    progress : callable, optional
        As in `run_plan`.

    Returns
    -------
    tuple of int
        The numbers of the blocks that were compared.

    Raises
    ------
    ImageError
        If a block is damaged, missing, or not what the plan's model computes from the source now.
    """
    assert plan.layout is not None
    count = plan.layout.count if blocks is None else min(blocks, plan.layout.count)
    chosen = sorted(np.random.default_rng(seed).choice(plan.layout.count, count, replace=False).tolist())
    wanted = [plan.layout.at(index) for index in chosen]
    with ExitStack() as opened:
        stored = opened.enter_context(sink_for(Path(result), plan, source.info, existing=True))
        statistics = opened.enter_context(tempfile.TemporaryDirectory())
        check = _Comparison(stored, str(result))
        if plan.mask is not None:
            mask, record = opened.enter_context(opened_mask(plan.mask.name, plan.layout.shape))
            if record != plan.mask:
                raise UsageError(f"{result}: cannot be verified, for the mask {record.name} has changed")
            for block in wanted:
                if not mask.holds(block):
                    check.write(block, without_tissue(plan, block))
            wanted = [block for block in wanted if mask.holds(block)]
        run_plan(
            plan,
            source,
            backend,
            (check,),
            progress,
            blocks=wanted,
            measured=MeasuredSections(Path(statistics), plan, source),
        )
    if check.differing:
        listed = ", ".join(map(str, check.differing[:_SHOWN]))
        raise ImageError(
            f"{result}: {len(check.differing)} of {counted(len(chosen), 'block')} are not what is computed now: "
            f"block {listed}; {check.first}; compute it again with --overwrite"
        )
    return tuple(chosen)


def check_same(
    stored: RunPlan, now: RunPlan, wishes: Wishes, what: str, block: tuple[int, int, int] | None = None
) -> None:
    """Raise UsageError, with the differences, where a run planned now is another one than a stored plan's.

    Parameters
    ----------
    stored, now : RunPlan
        The two.
    wishes : Wishes
        What the user asks for now; what machines decide differently is no difference.
    what : str
        Begins the message.
    block : (int, int, int), optional
        What the user asks of the blocks.
    """
    hindrances = stored.hindrances(now, wishes, block)
    if hindrances:
        more = len(hindrances) - _SHOWN
        listed = [*hindrances[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        raise UsageError(f"{what}: {'; '.join(listed)}")


class _Comparison:
    """A sink that compares blocks with those of a finished volume."""

    def __init__(self, stored: OmeZarrSink, name: str) -> None:
        self._stored, self._name = stored, name
        self.differing: list[int] = []
        self.first = ""

    def write(self, block: Block, values_ZYX: Any) -> None:
        if not self._stored.done(block):
            self._note(block, "a shard of it is missing or damaged")
            return
        found_ZYX = self._stored.read(block)
        if not np.array_equal(found_ZYX, values_ZYX):
            count = int(np.count_nonzero(found_ZYX != values_ZYX))
            self._note(block, f"{count} of its {values_ZYX.size} pixels differ")

    def _note(self, block: Block, what: str) -> None:
        self.differing.append(block.index)
        self.first = self.first or f"of block {block.index}, z {block.z[0]} to {block.z[1]}, {what}"

    def finish(self) -> tuple[str, ...]:
        return ()

    def __enter__(self) -> _Comparison:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def _with_mask(plan: RunPlan, options: VolumeOptions, opened: ExitStack) -> tuple[RunPlan, TissueMask | None]:
    """Open the mask for the length of a run, and return the plan that knows of it."""
    if not options.mask:
        return plan, None
    assert plan.layout is not None
    mask, record = opened.enter_context(opened_mask(options.mask, plan.layout.shape))
    return replace(plan, mask=record), mask


def _leave_out(
    mask: TissueMask, plan: RunPlan, sink: OmeZarrSink, missing: Blocks
) -> tuple[Blocks, tuple[str, ...]]:
    """Store the blocks outside of a mask; return those that are to be computed, and what is to be said."""
    assert plan.layout is not None
    wanted = plan.layout.numbered(block.index for block in missing if mask.holds(block))
    inside = set(wanted.indices)
    for block in missing:
        if block.index not in inside:
            sink.write(block, without_tissue(plan, block))
    left_out = len(missing) - len(wanted)
    if not left_out:
        return wanted, ()
    count = counted(left_out, "block")
    return wanted, (f"{count} of {len(missing)} outside of the mask left out: membrane, as canvas is",)


def _agreed(work: Unfinished, plan: RunPlan, wishes: Wishes, options: VolumeOptions) -> RunPlan:
    """Return the plan that the folder holds, unless it is another one than this run's."""
    stored = parse_plan(work.agree(plan.to_json()), work.name)
    check_same(stored, plan, wishes, _OTHER.format(work.name), options.block)
    return stored


def _is_whole(plan: RunPlan, like: StackInfo, folder: Path) -> bool:
    assert plan.layout is not None
    with sink_for(folder, plan, like, existing=True) as sink:
        return all(sink.done(block) for block in plan.layout.blocks())


def _by_another(work: Unfinished, options: VolumeOptions) -> bool:
    """Return whether another run has put the volume in place meanwhile: a run that joins begins where none is."""
    return options.joins and work.finished


def _left_to_another(
    work: Unfinished, like: StackInfo, also: Sequence[Sink], notes: tuple[str, ...] = (), computed: int = 0
) -> Outcome:
    """Remove what this run wrote after another one had completed the volume, and hand over that one's sections."""
    work.leave()
    _hand_over_finished(work, like, also)
    return Outcome((*notes, f"{work.name} was completed by another run"), computed)


def _check_finished(
    work: Unfinished, now: RunPlan, like: StackInfo, wishes: Wishes, options: VolumeOptions
) -> None:
    """Raise UsageError where a finished volume is not what is asked for now."""
    check_same(plan_of(work.name), now, wishes, _OTHER.format(work.name), options.block)
    wanted = sink_for(work.output, now, like, pyramid=options.pyramid).levels
    image: Any = stored_attributes(work.name)["ome"]
    if wanted > 1 and len(image["multiscales"][0]["datasets"]) == 1:
        raise UsageError(
            f"{work.name}: is finished, without smaller resolutions; --overwrite makes it again with --pyramid"
        )


def _resumed(done: int, total: int, options: VolumeOptions) -> tuple[str, ...]:
    if not done:
        return ()
    what = "blocks" if options.share == (1, 1) else f"blocks of share {options.share[0]}/{options.share[1]}"
    return (f"{done} of {total} {what} were there already",)


def _missing_yet(options: VolumeOptions, others: int) -> str:
    share = f"share {options.share[0]}/{options.share[1]}"
    return f"{share} is done; {counted(others, 'block')} of other shares are missing yet"


def _finish(
    sink: OmeZarrSink,
    plan: RunPlan,
    also: Sequence[Sink],
    spread: Spread,
    say: Callable[[BaseException], None],
) -> None:
    """Hand over the sections and add what is no block: by the one run that puts the volume in place."""
    try:
        _hand_over(sink, plan, also)
        sink.finish(spread)
    except BaseException as error:
        say(error)
        raise


def _say_how_to_go_on(
    error: BaseException, work: Unfinished, sink: OmeZarrSink, plan: RunPlan, options: VolumeOptions
) -> None:
    assert plan.layout is not None
    done = sum(sink.done(block) for block in plan.layout.blocks(options.share))
    if not done and options.share == (1, 1):
        work.discard()
        return
    how = "run it again with --resume" if options.share == (1, 1) else "run this share again"
    said = f"{work.name}: {counted(done, 'block')} done and kept in {work.folder.name}; to go on, {how}"
    say_on_the_way_out(error, said, log)


def _hand_over_finished(work: Unfinished, like: StackInfo, also: Sequence[Sink]) -> None:
    """Hand over the sections of a volume that was finished by another run."""
    if also:
        plan = plan_of(work.name)
        with sink_for(work.output, plan, like, existing=True) as sink:
            _hand_over(sink, plan, also)


def _hand_over(sink: OmeZarrSink, plan: RunPlan, also: Sequence[Sink]) -> None:
    """Hand over the sections of a volume whose blocks are all there, in order."""
    assert plan.layout is not None
    depth, height, width = plan.layout.shape
    for z in range(depth) if also else ():
        block = Block(z, (z, z + 1), (0, height), (0, width))
        values_ZYX = sink.read(block)
        for other in also:
            other.write(block, values_ZYX)
