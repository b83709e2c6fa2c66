"""The plan of a run: a frozen value that is made once, before any pixel is computed, and that alone decides the run.

``--dry-run`` prints it, the pipeline runs it, a resume compares it. Nothing below it asks the machine again how much
memory is free or how many cores there are.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np

from isbi_infer._version import __version__
from isbi_infer.backends.base import Backend
from isbi_infer.backends.cores import processor_kind
from isbi_infer.errors import ModelError, UsageError
from isbi_infer.model.contract import ModelContract
from isbi_infer.model.opening import OpenModel
from isbi_infer.pixels.probability import Emit, OutputDtype
from isbi_infer.pixels.texture import Familiar
from isbi_infer.plan.blocks import Layout, Shape, choose_layout
from isbi_infer.plan.memory import available_memory
from isbi_infer.plan.plain import flat, plain_of, read_value
from isbi_infer.plan.scaling import Scaling, choose_scaling
from isbi_infer.plan.symmetry import ALL_EIGHT, IDENTITY, Symmetry
from isbi_infer.plan.tiles import SectionPlan, plan_section
from isbi_infer.terminal import counted
from isbi_infer.volumes.pixel_size import PixelSize
from isbi_infer.volumes.protocol import Block, Source

SCHEMA = 4

_OPEN_SECTIONS = 3  # being computed, one ahead and one being taken
_LITTLE = 1.01  # tiles computed per tile needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a user asks of a run; None is the best there is.

    Attributes
    ----------
    tile : int or None
        Longest side of a tile, in pixels.
    batch : int or None
        Tiles computed at once.
    memory : int or None
        Bytes for the network's activations; half of what is free when not given.
    halo : int or None
        Pixels of context; the model's own, which is exact, when not given.
    pixel_size : float or None
        Side of a pixel of the sections, in nanometres; what the source says when not given.
    tta : bool
        Whether the results of the eight flips and rotations are averaged.
    """

    tile: int | None = None
    batch: int | None = None
    memory: int | None = None
    halo: int | None = None
    pixel_size: float | None = None
    tta: bool = False

    def __post_init__(self) -> None:
        for name in ("tile", "batch", "memory", "halo"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, SupportsIndex):
                raise UsageError(f"{name} is {value!r}; expected a whole number")
            object.__setattr__(self, name, operator.index(value))
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"batch {self.batch} is below 1")
        if self.pixel_size is not None and not isinstance(self.pixel_size, SupportsFloat):
            raise UsageError(f"pixel size is {self.pixel_size!r}; expected a number of nanometres")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecord:
    """What a plan remembers of its input.

    Attributes
    ----------
    name : str
        What messages call it.
    sections : int or None
        Their number; None where it is not known beforehand.
    shape : (int, int)
        (Y, X) of each section, in pixels.
    dtype : str
        Of the grey values.
    pixel_size : PixelSize or None
        In nanometres.
    nodata : float or None
        The grey value that stands for "no data", where the source names one.
    fingerprint : str
        Changes when the stored pixels do; empty for arrays.
    """

    name: str
    sections: int | None
    shape: tuple[int, int]
    dtype: str
    pixel_size: PixelSize | None = None
    nodata: float | None = None
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """What a plan remembers of its model.

    Attributes
    ----------
    sha256 : str
        Of the model file.
    normalisation : str
        What is done to the grey values of a section.
    input_dtype, output_dtype : {"float32", "uint8"}
        What the model takes and returns.
    familiar : Familiar or None
        How the sections look that it was trained on, where it says.
    """

    sha256: str
    normalisation: str
    input_dtype: str
    output_dtype: str
    familiar: Familiar | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """All that decides a run.

    Attributes
    ----------
    schema : int
        Version of this document.
    code_version : str
        Version of this project.
    source : SourceRecord
        The input.
    model : ModelRecord
        The model.
    device, precision, runtime, processor : str
        Where and how it is computed, as proved: bits are the same only where all four are.
    scaling : Scaling or None
        To the model's pixel size and back; None where sections go in as they are.
    section : SectionPlan
        The tiles of a section at the model's pixel size.
    turned : SectionPlan or None
        Those of a section on its side, where `views` has any.
    views : tuple of Symmetry
        Flips and rotations whose results are averaged; the identity alone for a plain run.
    batch : int
        Tiles computed by one call.
    fixed_batch : bool
        Whether the last batch is filled up.
    workers : int
        Calls at once.
    all_cores : bool
        Whether one call uses all cores, since the whole run is a single batch.
    emit : {"cell", "membrane"}
        What an output of 1 means.
    dtype : {"float32", "uint8"}
        Of the output; "uint8" stores round(255 p).
    layout : Layout or None
        How a chunked result is cut into blocks; None where a block is a section.
    mask : SourceRecord or None
        Outside of which blocks of the layout are left out.
    memory_bytes : int
        What the network's activations are expected to take.
    notes : tuple of str
        What the reader of the results must know.
    """

    schema: int = SCHEMA
    code_version: str = __version__
    source: SourceRecord
    model: ModelRecord
    device: str
    precision: str
    runtime: str
    processor: str
    scaling: Scaling | None
    section: SectionPlan
    turned: SectionPlan | None
    views: tuple[Symmetry, ...]
    batch: int
    fixed_batch: bool
    workers: int
    all_cores: bool
    emit: Emit = "cell"
    dtype: OutputDtype = "float32"
    layout: Layout | None = None
    mask: SourceRecord | None = None
    memory_bytes: int
    notes: tuple[str, ...] = ()

    def tiles_of(self, view: Symmetry) -> SectionPlan:
        """Return the tiles of a section as seen in `view`."""
        return self.turned if self.turned and view.turns % 2 else self.section

    def blocks(self) -> Iterator[Block]:
        """Return the parts of the output, in order: those of the layout, or a section each.

        Raises
        ------
        ValueError
            If the number of sections is not known.
        """
        if self.source.sections is None:
            raise ValueError("the number of sections is not known")
        if self.layout is not None:
            yield from self.layout.blocks()
            return
        height, width = self.source.shape
        for z in range(self.source.sections):
            yield Block(z, (z, z + 1), (0, height), (0, width))

    @property
    def provenance(self) -> str:
        """How the result is made and what it means, in one line for a file's metadata."""
        one = "cell interior, 0 = membrane" if self.emit == "cell" else "membrane, 0 = cell interior"
        top = 255 if self.dtype == "uint8" else 1
        return f"model sha256 {self.model.sha256}; {self.precision} on {self.device} by {self.runtime}; {top} = {one}"

    def to_json(self) -> str:
        """Return the document; the same text for the same plan."""
        return json.dumps(plain_of(self), sort_keys=True)

    def differences(self, other: RunPlan) -> tuple[str, ...]:
        """Return what would make the results of another plan differ from those of this one, a line each.

        Parameters
        ----------
        other : RunPlan
            The plan to compare; its memory, notes and the source's name do not matter.
        """
        return tuple(f"{key}: {mine!r}, now {now!r}" for key, mine, now in self._differing(other))

    def _differing(self, other: RunPlan) -> list[tuple[str, Any, Any]]:
        mine, others = (flat(plain_of(plan)) for plan in (self, other))
        return [
            (key, mine.get(key), others.get(key))
            for key in sorted(mine.keys() | others.keys())
            if mine.get(key) != others.get(key) and key.partition(".")[0] not in ("memory_bytes", "notes")
            if key not in ("source.name", "mask.name")
        ]

    def hindrances(self, now: RunPlan, wishes: Wishes, block: Shape | None = None) -> tuple[str, ...]:
        """Return why a run of this plan cannot be continued by one that is planned now, a line each.

        What a machine's memory and cores decided alone, tiles, batch and blocks, stays as it was: it is no hindrance,
        unless the user asks for another.

        Parameters
        ----------
        now : RunPlan
            What would be run now, from the start.
        wishes : Wishes
            What the user asks for now.
        block : (int, int, int), optional
            Likewise, of the blocks.
        """
        own = {"all_cores", "workers"}
        own |= {"batch"} if wishes.batch is None else set()
        own |= {"section.tile_shape", "turned.tile_shape"} if wishes.tile is None else set()
        own |= {"layout.block", "layout.shard"} if block is None else set()
        return tuple(
            f"{key}: {mine!r}, now {new!r}" for key, mine, new in self._differing(now) if key not in own
        )


def parse_plan(text: str) -> RunPlan:
    """Read a plan back.

    Parameters
    ----------
    text : str
        From `RunPlan.to_json`.

    Raises
    ------
    UsageError
        If the text is no plan, or of another version.
    """
    try:
        plain = json.loads(text)
        if isinstance(plain, dict) and plain.get("schema") != SCHEMA:
            raise UsageError(f"the plan has schema {plain.get('schema')!r}, this program reads {SCHEMA}")
        plan: RunPlan = read_value(RunPlan, plain, "plan")
    except (ValueError, RecursionError, ZeroDivisionError) as error:
        raise UsageError(f"not a readable plan of a run ({error})") from error
    return plan


def record_source(source: Source) -> SourceRecord:
    """Return what a plan remembers of an open source."""
    info = source.info
    return SourceRecord(
        name=source.name,
        sections=info.sections,
        shape=(info.shape[-2], info.shape[-1]),
        dtype=source.dtype.name,
        pixel_size=info.pixel_size,
        nodata=source.nodata,
        fingerprint=source.fingerprint(),
    )


def plan_run(
    source: SourceRecord,
    opened: OpenModel,
    wishes: Wishes,
    *,
    emit: Emit = "cell",
    dtype: OutputDtype = "float32",
    notes: tuple[str, ...] = (),
    chunked: bool = False,
    block: Shape | None = None,
) -> RunPlan:
    """Decide a run.

    Parameters
    ----------
    source : SourceRecord
        The input.
    opened : OpenModel
        The model on its proved device.
    wishes : Wishes
        What the user asks for.
    emit, dtype : str
        Of the output.
    notes : tuple of str
        What is known already, and goes before what is found here.
    chunked : bool
        Whether the result is stored in chunks.
    block : (int, int, int), optional
        Pixels along (Z, Y, X) that are computed and stored as one in a chunked result.

    Returns
    -------
    RunPlan

    Raises
    ------
    ModelError
        If the model is not exact and a section does not fit into one tile.
    ResourceError
        If there is not enough memory for the smallest tile.
    UsageError
        If a wish is invalid.
    """
    contract, backend = opened.contract, opened.backend
    device = backend.device
    halo, halo_notes = choose_halo(contract, wishes.halo)
    scaling, scaling_notes = choose_scaling(
        contract.pixel_size_nm, wishes.pixel_size, source.pixel_size, stored=bool(source.fingerprint)
    )
    shape = scaling.inner_shape(source.shape) if scaling else source.shape
    views = ALL_EIGHT if wishes.tta else IDENTITY
    bytes_per_pixel = backend.arithmetic.memory * contract.activation_bytes_per_pixel
    memory = available_memory() // 2 if wishes.memory is None else wishes.memory
    allowed = int(memory / (bytes_per_pixel * backend.workers * (wishes.batch or 1)))
    most_pixels = min(allowed, device.tile_pixels)
    section = _tiles(shape, contract, halo, wishes.tile, most_pixels)
    turned = (
        _tiles((shape[1], shape[0]), contract, halo, wishes.tile, most_pixels)
        if any(view.turns % 2 for view in views)
        else None
    )
    tiles = None if source.sections is None else source.sections * len(section.tiles) * len(views)
    tile_pixels = prod(section.tile_shape)
    batch = wishes.batch or 1
    if wishes.batch is None and device.batch_pixels is not None:
        batch = max(1, min(device.batch_pixels, most_pixels) // tile_pixels)
        if tiles:  # a power of two: each new shape costs much where batches are fixed
            batch = min(batch, 1 << (tiles - 1).bit_length())
    layout, layout_notes = None, tuple[str, ...]()
    if chunked:
        layout, layout_notes = _layout(source, contract, dtype, section, scaling, block)
    all_cores = backend.workers > 1 and tiles is not None and tiles <= batch
    workers = 1 if all_cores else backend.workers
    return RunPlan(
        source=source,
        model=ModelRecord(
            sha256=opened.sha256,
            normalisation=contract.normalisation,
            input_dtype=contract.input_dtype,
            output_dtype=contract.output_dtype,
            familiar=None if contract.familiar is None else Familiar.from_plain(contract.familiar),
        ),
        device=device.name,
        precision=backend.arithmetic.name,
        runtime=backend.version,
        processor=processor_kind(),
        scaling=scaling,
        section=section,
        turned=turned,
        views=views,
        batch=batch,
        fixed_batch=device.fixed_batch,
        workers=workers,
        all_cores=all_cores,
        emit=emit,
        dtype=dtype,
        layout=layout,
        memory_bytes=int(tile_pixels * bytes_per_pixel * batch * workers),
        notes=tuple(dict.fromkeys((*notes, *opened.notes, *halo_notes, *scaling_notes, *layout_notes))),
    )


def _layout(
    source: SourceRecord,
    contract: ModelContract,
    dtype: str,
    section: SectionPlan,
    scaling: Scaling | None,
    block: Shape | None,
) -> tuple[Layout, tuple[str, ...]]:
    """Return the blocks of a chunked result, and what is to be said of them."""
    assert source.sections is not None
    sizes = [np.dtype(name).itemsize for name in (source.dtype, contract.input_dtype, contract.output_dtype)]
    inner = scaling.y * scaling.x if scaling else 1.0
    working = sizes[0] + 1 + (sizes[1] * (scaling is not None) + sizes[2]) * inner + 4
    layout = choose_layout(
        (source.sections, *source.shape),
        np.dtype(dtype).itemsize,
        memory=available_memory() // 4,
        working_bytes=working * _OPEN_SECTIONS,
        block=block,
    )
    share = layout.halo_share(section)
    if share <= _LITTLE:
        return layout, ()
    return layout, (
        f"blocks of {' x '.join(map(str, layout.block))} (z, y, x) compute {100 * (share - 1):.0f} % of the tiles "
        "once more",
    )


def backend_of(plan: RunPlan, backend: Backend) -> Backend:
    """Return what carries out a plan: the backend, or what uses all cores in one call."""
    return backend.on_all_cores() if plan.all_cores else backend


def choose_halo(contract: ModelContract, wanted: int | None) -> tuple[int, tuple[str, ...]]:
    """Return the halo to use, and what has to be said about it.

    Parameters
    ----------
    contract : ModelContract
        Holds the exact halo, and the measured errors of smaller ones.
    wanted : int or None
        What the user asks for; None is the exact one.

    Returns
    -------
    (int, tuple of str)
        Pixels, and notes.

    Raises
    ------
    UsageError
        If it is no multiple of the stride.
    """
    if not contract.exact:
        return contract.halo, (
            f"sections are not tiled, since that would change the result: {contract.not_exact_because[0]}",
        )
    if wanted is None or wanted == contract.halo:
        return contract.halo, ()
    if wanted < 0 or wanted % contract.stride:
        nearest = max(0, round(wanted / contract.stride) * contract.stride)
        raise UsageError(
            f"halo {wanted} is not a multiple of the model's stride {contract.stride}; try {nearest}"
        )
    if wanted > contract.halo:
        return wanted, (f"a halo of {wanted} costs more and gains nothing; {contract.halo} is exact",)
    error = contract.halo_error.get(str(wanted))
    bound = f"{error:.1g} on the synthetic sample at export" if error is not None else "an unmeasured amount"
    return wanted, (
        f"a halo of {wanted} is not exact ({contract.halo} is): near seams results differ by up to {bound}",
    )


def _tiles(
    shape: tuple[int, int], contract: ModelContract, halo: int, tile: int | None, most_pixels: int
) -> SectionPlan:
    plan = plan_section(
        shape,
        stride=contract.stride,
        halo=halo,
        border=contract.border,
        tile=tile,
        most_pixels=most_pixels,
    )
    if len(plan.tiles) > 1 and not contract.exact:
        raise ModelError(
            f"tiles would give another result than the whole section ({contract.not_exact_because[0]}), "
            f"and {shape[0]} x {shape[1]} pixels do not fit into one; allow more memory or cut the sections"
        )
    return plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A plan, and the time that it would take.

    Attributes
    ----------
    plan : RunPlan
        What would be run.
    seconds : float
        Computing time, from one timed batch.
    """

    plan: RunPlan
    seconds: float

    def to_plain(self) -> dict[str, Any]:
        """Return plain types: the figures that matter on their own, and the whole plan."""
        plan = self.plan
        return {
            "provider": plan.device,
            "precision": plan.precision,
            "shape": [plan.source.sections, *plan.source.shape],
            "tile_shape": list(plan.section.tile_shape),
            "tiles": len(plan.section.tiles),
            "overhead": plan.section.overhead,
            "halo": plan.section.halo,
            "batch": plan.batch,
            "workers": plan.workers,
            "memory_bytes": plan.memory_bytes,
            "seconds": self.seconds,
            "blocks": plan.layout.count if plan.layout else plan.source.sections,
            "notes": list(plan.notes),
            "plan": plain_of(plan),
        }

    def __str__(self) -> str:
        plan, tile_shape = self.plan, self.plan.section.tile_shape
        height, width = plan.source.shape
        return (
            f"{plan.device} {plan.precision}: {counted(plan.source.sections or 1, 'section')} of {height} x {width}, "
            f"each in {counted(len(plan.section.tiles), 'tile')} of {tile_shape[0]} x {tile_shape[1]} with a halo of "
            f"{plan.section.halo}\n"
            f"overhead {plan.section.overhead:.3f}, batch {plan.batch} x {counted(plan.workers, 'worker')}, about "
            f"{plan.memory_bytes / 2**20:.0f} MiB for activations, about {self.seconds:.1f} s of computing"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What one run of `Segmenter.segment_file` did.

    Attributes
    ----------
    output : str
        The file written.
    provider : str
        The device that really computed.
    precision : str
        Of the arithmetic, as proved.
    sections : int
        Sections segmented.
    shape : tuple of int
        Of the output, (Y, X) or (Z, Y, X).
    seconds : float
        Wall time from opening the input to the finished output.
    megapixels_per_second : float
        Input pixels over `seconds`.
    model_sha256 : str
        Of the model file.
    notes : tuple of str
        What was done to the input that a reader must know.
    """

    output: str
    provider: str
    precision: str
    sections: int
    shape: tuple[int, ...]
    seconds: float
    megapixels_per_second: float
    model_sha256: str
    notes: tuple[str, ...]

    def to_plain(self) -> dict[str, Any]:
        """Return plain types."""
        return asdict(self)
