"""Segmenter: the one door to running a model."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from isbi_infer.conflicts import check_not_input
from isbi_infer.errors import ImageError, UsageError
from isbi_infer.files import check_writable
from isbi_infer.model.contract import ModelContract
from isbi_infer.model.devices import PrecisionName, ProviderName
from isbi_infer.model.held import HeldModel, check_same_file
from isbi_infer.model.opening import OpenModel, open_model
from isbi_infer.pixels.greyscale import greyscale, own_section
from isbi_infer.pixels.probability import Emit, OutputDtype, check_encoding, encode
from isbi_infer.plan.deciding import backend_of, check_source, plan_run, record_array, record_source
from isbi_infer.plan.memory import parse_bytes
from isbi_infer.plan.run import RunPlan, SourceRecord, Wishes
from isbi_infer.plan.summary import Estimate, RunSummary
from isbi_infer.run.findings import Findings
from isbi_infer.run.pipeline import compute_blocks, compute_sections, run_plan
from isbi_infer.run.section import Result
from isbi_infer.run.stack import segment_stack
from isbi_infer.run.volume import VolumeOptions, check_same, plan_of, segment_volume, verify_volume
from isbi_infer.terminal.progress import Progress
from isbi_infer.volumes import (
    Sink,
    Source,
    check_output,
    is_chunked_output,
    nearest_level,
    open_source,
    with_side,
)

log = logging.getLogger(__name__)


class Segmenter:
    """Finds membranes in electron-microscopy sections.

    Parameters
    ----------
    model : path or str, optional
        An ONNX or TorchScript file exported by ``isbi-export``, or the name of a released model (``isbi-infer models``
        lists them; a file of that name comes first); the default one when not given. TorchScript needs torch.
    provider : str
        "auto" takes CUDA where a CUDA session really runs; otherwise, on the processor, OpenVINO where it is installed
        and passed its gate with the model, or ONNX Runtime ("cpu"). Any other device of `isbi_infer.model.devices` is
        proved active, or it is an error.
    tile : int, optional
        Longest side of a tile in pixels, a multiple of the model's stride. It changes memory and speed, never the
        result.
    batch : int, optional
        Tiles computed at once; likewise.
    memory : int or str, optional
        Bytes that the network's activations may take, or an amount such as "4GiB"; half of what is free when not given.
        It bounds the tiles.
    halo : int, optional
        Pixels of context, a multiple of the stride; the model's own, which makes tiles exact, when not given. Less is
        faster and no longer exact: `notes` then names the error that was measured when the model was exported.
    precision : str
        "auto" takes the fastest file of the released model for the provider that passed its gate (int8 on CPU,
        float32 on CUDA), and a `model` that is given as it is. Another one is looked for beside `model`.
    pixel_size : float, optional
        Side of a pixel of the sections, in nanometres: they are resampled to the model's, and results back;
        those of `segment_file` carry it. When not given, `segment_file` takes what the file holds, and arrays
        go in as they are.
    tta : bool
        Average the results of the eight flips and rotations of each section: eight times the work.
    pixels : int, optional
        How many will be segmented, where that is known: for few of them "auto" takes a runtime that starts faster.

    Attributes
    ----------
    provider : str
        The device that really computes.
    precision : str
        Of the arithmetic, as proved.
    contract : ModelContract
        The model's promises about its input, output and tiling.
    model_sha256 : str
        Of the model file.
    notes : tuple of str
        What a reader of the results must know.

    Raises
    ------
    DependencyError
        If the runtime or the device is missing.
    ModelError
        If the model cannot be trusted.
    ResourceError
        If memory, or what `memory` allows, is too little for the smallest tile.
    UsageError
        If an argument is invalid.

    Examples
    --------
    >>> from isbi_infer import Segmenter
    >>> from isbi_infer.sample import synthetic_stack
    >>> image_ZYX, _ = synthetic_stack(sections=1, height=128, width=128)
    >>> probability_ZYX = Segmenter(provider="cpu")(image_ZYX)
    >>> probability_ZYX.shape, probability_ZYX.dtype
    ((1, 128, 128), dtype('float32'))
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        provider: ProviderName = "auto",
        tile: int | None = None,
        batch: int | None = None,
        memory: int | str | None = None,
        halo: int | None = None,
        precision: PrecisionName = "auto",
        pixel_size: float | None = None,
        tta: bool = False,
        pixels: int | None = None,
    ) -> None:
        self._arguments = (model, provider, tile, batch, memory, halo, precision, pixel_size, tta, pixels)
        self._wishes = Wishes(
            tile=tile,
            batch=batch,
            memory=parse_bytes(memory) if isinstance(memory, str) else memory,
            halo=halo,
            pixel_size=pixel_size,
            tta=tta,
        )
        self._held = HeldModel(open_model(model, provider, precision, pixels))
        self.contract: ModelContract = self._model.contract
        self.model_sha256 = self._model.sha256
        self.provider = self._model.backend.device.name
        self.precision = self._model.backend.arithmetic.name
        # An impossible tile is an error now, not after the stack was opened.
        self.notes = self.plan((1, 1)).notes

    @property
    def _model(self) -> OpenModel:
        return self._held.model

    def plan(self, shape: tuple[int, ...], *, emit: Emit = "cell", dtype: OutputDtype = "float32") -> RunPlan:
        """Plan a run over an array.

        Parameters
        ----------
        shape : tuple of int
            (Y, X) of a section or (Z, Y, X) of a stack, in pixels.
        emit, dtype : str
            Of the output, as in `segment_file`.

        Returns
        -------
        RunPlan
            Its ``section`` are the tiles at the model's pixel size.

        Raises
        ------
        ResourceError
            If there is not enough memory for the smallest tile.
        UsageError
            If an argument is invalid.
        """
        return self._plan(record_array(shape, self.contract.input_dtype), emit, dtype)

    def plan_source(
        self,
        source: Source,
        *,
        emit: Emit = "cell",
        dtype: OutputDtype = "float32",
        chunked: bool = False,
        block: tuple[int, int, int] | None = None,
        only: Sequence[int] | None = None,
    ) -> RunPlan:
        """Plan a run over an open source, with the source's own pixel size; see `plan`.

        Parameters
        ----------
        source : Source
            The sections.
        emit, dtype : str
            Of the output, as in `segment_file`.
        chunked : bool
            Whether the result goes into OME-Zarr.
        block : (int, int, int), optional
            Pixels along (Z, Y, X) that are computed and stored there as one.
        only : sequence of int, optional
            Numbers of the sections that will be computed; all when not given.
        """
        computed = None if only is None else len(only)
        return self._plan(record_source(source), emit, dtype, source.notes, chunked, block, computed)

    def _plan(
        self,
        record: SourceRecord,
        emit: Emit,
        dtype: OutputDtype,
        notes: tuple[str, ...] = (),
        chunked: bool = False,
        block: tuple[int, int, int] | None = None,
        computed: int | None = None,
    ) -> RunPlan:
        check_encoding(emit, dtype)
        if (side := self._wishes.pixel_size) is not None:  # of the result, too
            record = replace(record, pixel_size=with_side(record.pixel_size, side))
        return plan_run(
            record,
            self._model,
            self._wishes,
            emit=emit,
            dtype=dtype,
            notes=notes,
            chunked=chunked,
            block=block,
            computed=computed,
        )

    def nearest_level(self, source: Source) -> Source:
        """Return a source of the level nearest to the model's pixel size, where a volume has levels to choose from.

        Parameters
        ----------
        source : Source
            From `isbi_infer.volumes.open_source`; as it is where a level or a pixel size was chosen.
        """
        return nearest_level(source, None if self._wishes.pixel_size else self.contract.pixel_size_nm)

    def estimate(self, work: RunPlan | tuple[int, ...]) -> Estimate:
        """Return what a run would take; one batch is computed to time it.

        Parameters
        ----------
        work : RunPlan or tuple of int
            From `plan` or `plan_source`, or the shape of a section (Y, X) or stack (Z, Y, X), in pixels.

        Returns
        -------
        Estimate
        """
        plan = work if isinstance(work, RunPlan) else self.plan(work)
        backend = backend_of(plan, self._model.backend)
        batch = plan.batch, self.contract.input_channels
        blank_NCYX = np.zeros((*batch, *plan.section.tile_shape), self.contract.input_dtype)
        statistics = [np.zeros((*batch, 1, 1), np.float32) for _ in self.contract.statistics_inputs]
        backend.run(blank_NCYX, *statistics)
        started = time.perf_counter()
        backend.run(blank_NCYX, *statistics)
        seconds = time.perf_counter() - started
        tiles = (plan.source.sections or 1) * len(plan.section.tiles) * len(plan.views)
        calls = ceil(ceil(tiles / plan.batch) / plan.workers)
        return Estimate(plan=plan, seconds=seconds * calls)

    def __call__(
        self,
        image: npt.ArrayLike,
        *,
        emit: Emit = "cell",
        dtype: OutputDtype = "float32",
        progress: Progress | None = None,
    ) -> npt.NDArray[Any]:
        """Segment one section or a stack.

        Parameters
        ----------
        image : array_like of integer or floating dtype, shape (Y, X) or (Z, Y, X)
            Grey values, all finite; each section is normalised on its own. What a masked array masks is canvas: it does
            not count, and comes out as membrane.
        emit : {"cell", "membrane"}
            What 1 means. Membrane, and with it canvas, is 0 with "cell" and 1 with "membrane".
        dtype : {"float32", "uint8"}
            "uint8" returns round(255 p).
        progress : callable, optional
            Called with the tiles done and their total after each of them; what it raises ends the run at once. Only a
            StopIteration arrives as RuntimeError, as out of any generator.

        Returns
        -------
        ndarray of `dtype`, same shape
            Probability p of what `emit` names, in [0, 1]; with "uint8" round(255 p), in [0, 255].

        Raises
        ------
        ImageError
            If the array is no greyscale section or stack.
        ResourceError
            If there is not enough memory for the smallest tile.
        UsageError
            If `emit` or `dtype` is unknown, or the Segmenter is closed.
        """
        check_encoding(emit, dtype)
        array = greyscale(image)
        stack_ZYX = array if array.ndim == 3 else array[None]
        plan = self.plan(stack_ZYX.shape, emit=emit, dtype=dtype)
        out_ZYX = np.empty(stack_ZYX.shape, dtype)
        findings = Findings(plan)
        with closing(compute_sections(plan, stack_ZYX, self._model.backend, findings, progress)) as results:
            for z, result_YX in enumerate(results):
                out_ZYX[z] = encode(result_YX, emit, dtype)
        for note in findings.notes():
            log.info(note)
        return out_ZYX.reshape(array.shape)

    def stream(
        self,
        sections: Iterable[npt.ArrayLike],
        *,
        emit: Emit = "cell",
        dtype: OutputDtype = "float32",
    ) -> Iterator[npt.NDArray[Any]]:
        """Segment sections of one shape lazily, in order; tiles of neighbouring sections share batches.

        Parameters
        ----------
        sections : iterable of array_like of integer or floating dtype, shape (Y, X)
            Each as in a call. Iterated in a thread of its own, a few sections ahead of what is taken. Each is copied,
            so that they may be one array that is filled again and again.
        emit, dtype : str
            As in a call.

        Returns
        -------
        iterator of ndarray of `dtype`, shape (Y, X)
            Probability of what `emit` names, as in a call. Closing it ends its threads. It raises what `sections`
            raises, or ImageError where a section is no greyscale section or of another shape, after the results of
            those before it; UsageError in a process that was forked off since it began.

        Raises
        ------
        ImageError
            If `sections` yields nothing one by one.
        UsageError
            If `emit` or `dtype` is unknown.
        """
        check_encoding(emit, dtype)
        if isinstance(sections, str | Path):
            raise ImageError(f"{sections}: expected sections one by one; use segment_file for a path")
        try:
            each = iter(sections)
        except TypeError as error:
            raise ImageError(f"expected sections one by one, found {type(sections).__name__}") from error
        return self._stream(each, emit, dtype)

    def _stream(
        self, sections: Iterator[npt.ArrayLike], emit: Emit, dtype: OutputDtype
    ) -> Generator[npt.NDArray[Any], None, None]:
        waiting = (own_section(z, section) for z, section in enumerate(sections))
        first_YX = next(waiting, None)
        if first_YX is None:
            return
        shape = (first_YX.shape[0], first_YX.shape[1])
        record = SourceRecord(name="sections", sections=None, shape=shape, dtype=first_YX.dtype.name)
        plan = self._plan(record, emit, dtype)

        def all_sections() -> Iterator[npt.NDArray[Any]]:
            yield first_YX
            yield from waiting

        findings = Findings(plan)
        results = compute_sections(plan, all_sections(), self._model.backend, findings)
        yield from self._encoded(plan, results, findings)

    def stream_source(
        self,
        source: Source,
        *,
        emit: Emit = "cell",
        dtype: OutputDtype = "float32",
        only: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> Iterator[npt.NDArray[Any]]:
        """Segment an open source lazily, with the source's own pixel size; see `stream` and `plan_source`.

        Parameters
        ----------
        source : Source
            The sections.
        emit, dtype : str
            As in a call.
        only : sequence of int, optional
            Numbers of the sections that are wanted, ascending from 0; all when not given. UsageError for others.
        progress : callable, optional
            As in a call.
        """
        check_encoding(emit, dtype)
        plan = self.plan_source(source, emit=emit, dtype=dtype, only=only)
        findings = Findings(plan, only=only)
        blocks = plan.section_blocks(only)
        results = compute_blocks(plan, source, blocks, self._model.backend, findings, progress)
        return self._encoded(plan, results, findings)

    def _encoded(
        self, plan: RunPlan, results: Generator[Result, None, None], findings: Findings
    ) -> Generator[npt.NDArray[Any], None, None]:
        with closing(results):
            for result_YX in results:
                yield encode(result_YX, plan.emit, plan.dtype)
        for note in findings.notes():
            log.info(note)

    def segment_file(
        self,
        stack: str | Path | Source,
        output: str | Path,
        *,
        emit: Emit = "cell",
        dtype: OutputDtype = "float32",
        progress: Progress | None = None,
        also: tuple[Sink, ...] = (),
        options: VolumeOptions | None = None,
        plan: RunPlan | None = None,
        findings: Findings | None = None,
    ) -> RunSummary:
        """Segment a stack into a TIFF file section by section, or into OME-Zarr block by block.

        Parameters
        ----------
        stack : path or Source
            Anything that `isbi_infer.volumes.open_source` opens; axes and pixel size are kept, and of several
            levels the one nearest to the model's pixel size is taken. Or an open source, which stays open.
        output : path
            OME-Zarr where the name ends in ".zarr", TIFF otherwise. In place only when it is whole.
        emit : {"cell", "membrane"}
            What 1 means.
        dtype : {"float32", "uint8"}
            "uint8" stores round(255 p).
        progress : callable, optional
            Called with the tiles done and their total after each of them; what it raises ends the run at once.
        also : tuple of Sink
            Handed the same result, a section each.
        options : VolumeOptions, optional
            For OME-Zarr: blocks, shares and the like; for TIFF `resume` alone, which keeps finished sections beside
            the output until all are there, for a run with it to go on from.
        plan : RunPlan, optional
            From `plan_source`, of this very source and output, where it is wanted outside; made here when not given.
        findings : Findings, optional
            Told what the sections show.

        Returns
        -------
        RunSummary

        Raises
        ------
        ImageError
            If the input cannot be read whole or is no greyscale stack.
        OutputError
            If the output cannot be written.
        UsageError
            If the output is the input, or an argument is unknown.
        """
        check_encoding(emit, dtype)
        _check_path("output", output)
        check_output(output)
        chunked = is_chunked_output(output)
        if options is not None and not chunked and options != VolumeOptions(resume=options.resume):
            raise UsageError(
                f"{output}: --block, --pyramid, --overwrite, --shard, --mask and --cluster are for OME-Zarr; name the "
                "output NAME.ome.zarr, or leave them out"
            )
        if isinstance(stack, str | Path):
            check_not_input(output, stack)
            if not chunked:
                check_writable(output)
            with open_source(stack) as largest, self.nearest_level(largest) as source:
                return self.segment_file(
                    source,
                    output,
                    emit=emit,
                    dtype=dtype,
                    progress=progress,
                    also=also,
                    options=options,
                    plan=plan,
                    findings=findings,
                )
        check_source(stack)
        check_not_input(output, stack.name)
        started = time.perf_counter()
        options = options or VolumeOptions()
        plan = plan or self.plan_source(stack, emit=emit, dtype=dtype, chunked=chunked, block=options.block)
        findings = findings or Findings(plan)
        if chunked:
            outcome = segment_volume(
                plan,
                stack,
                self._model,
                output,
                wishes=self._wishes,
                contract=self.contract.to_json(),
                options=options,
                also=also,
                progress=progress,
                findings=findings,
            )
        else:
            outcome = segment_stack(
                plan,
                stack,
                self._model.backend,
                output,
                wishes=self._wishes,
                resume=options.resume,
                also=also,
                progress=progress,
                findings=findings,
            )
        seconds = time.perf_counter() - started
        return RunSummary(
            output=str(output),
            provider=self.provider,
            precision=self.precision,
            sections=stack.info.sections,
            shape=stack.info.shape,
            seconds=seconds,
            megapixels_per_second=outcome.computed / seconds / 1e6,
            model_sha256=self.model_sha256,
            unlike=max(findings.unlike().values(), default=None),
            notes=(*plan.notes, *outcome.notes),
        )

    def segment_source(
        self,
        source: Source,
        sinks: Sequence[Sink],
        *,
        emit: Emit = "cell",
        dtype: OutputDtype = "float32",
        only: Sequence[int] | None = None,
        progress: Progress | None = None,
        findings: Findings | None = None,
    ) -> tuple[str, ...]:
        """Segment an open source into sinks of the caller's, section by section.

        Parameters
        ----------
        source : Source
            The sections, with their pixel size.
        sinks : sequence of Sink
            Each is handed every section of the result, in order; they are not finished here.
        emit, dtype : str
            As in `segment_file`.
        only : sequence of int, optional
            Numbers of the sections that are wanted, ascending from 0; all when not given. UsageError for others.
        progress : callable, optional
            As in `segment_file`. What it raises ends the run.
        findings : Findings, optional
            Told what the sections show.

        Returns
        -------
        tuple of str
            What the reader of the result must know.
        """
        check_encoding(emit, dtype)
        plan = self.plan_source(source, emit=emit, dtype=dtype, only=only)
        findings = findings or Findings(plan, only=only)
        blocks = plan.section_blocks(only)
        found = run_plan(plan, source, self._model.backend, sinks, progress, blocks=blocks, findings=findings)
        return (*plan.notes, *found)

    def verify(
        self,
        result: str | Path,
        source: Source,
        *,
        blocks: int | None = None,
        seed: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[int, ...]:
        """Compute blocks of an OME-Zarr result again and compare them to the bit.

        Parameters
        ----------
        result : path
            Written by `segment_file`.
        source : Source
            What it was computed from.
        blocks : int, optional
            How many, chosen at random; all when not given.
        seed : int, optional
            Of the choice.
        progress : callable, optional
            Called with the tiles done and their total.

        Returns
        -------
        tuple of int
            The numbers of the blocks.

        Raises
        ------
        ImageError
            If a block is damaged, missing or another one than is computed now.
        UsageError
            If source, model or settings are not those of the result.
        """
        _check_path("result", result)
        plan = plan_of(result)
        now = self.plan_source(
            source,
            emit=plan.emit,
            dtype=plan.dtype,
            chunked=True,
            block=plan.layout.block if plan.layout else None,
        )
        # The mask is compared with the file later. No pixel depends on the size itself, but on the scaling.
        source_now = replace(now.source, pixel_size=plan.source.pixel_size)
        now = replace(now, mask=plan.mask, source=source_now)
        check_same(plan, now, self._wishes, f"{result}: cannot be verified, for this is another run")
        return verify_volume(
            result, plan, source, self._model.backend, blocks=blocks, seed=seed, progress=progress
        )

    def close(self) -> None:
        """Release the model; a closed Segmenter computes no more."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        name = self._arguments[0] or "the released model"
        return (
            f"<Segmenter of {name} on {self.provider} in {self.precision}, sha256 {self.model_sha256[:12]}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _segmenter, (self.model_sha256, *self._arguments)


def _check_path(what: str, path: object) -> None:
    if not isinstance(path, str | Path):
        raise UsageError(f"{what} is given as {type(path).__name__}; expected a path")


def _segmenter(sha256: str, model: str | Path | None, *arguments: Any) -> Segmenter:
    """Open a model again, in another process or for a copy."""
    names = ("provider", "tile", "batch", "memory", "halo", "precision", "pixel_size", "tta", "pixels")
    segmenter = Segmenter(model, **dict(zip(names, arguments, strict=True)))
    check_same_file(model, segmenter.model_sha256, sha256)
    return segmenter
