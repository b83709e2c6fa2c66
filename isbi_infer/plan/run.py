"""The plan of a run: a frozen value that is made once, before any pixel is computed, and that alone decides the run.

``--dry-run`` prints it, the pipeline runs it, a resume compares it. Nothing below it asks the machine again how much
memory is free or how many cores there are.
"""

from __future__ import annotations

import json
import operator
import reprlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np

from isbi_infer._version import __version__
from isbi_infer.errors import UsageError
from isbi_infer.model import devices
from isbi_infer.pixels.probability import Emit, OutputDtype
from isbi_infer.pixels.texture import Familiar
from isbi_infer.plan.blocks import Layout, Shape
from isbi_infer.plan.plain import flat, plain_of, read_value
from isbi_infer.plan.scaling import Scaling
from isbi_infer.plan.symmetry import Symmetry
from isbi_infer.plan.tiles import SectionPlan
from isbi_infer.volumes.pixel_size import PixelSize
from isbi_infer.volumes.protocol import Block

SCHEMA = 6


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
            if operator.index(value) > sys.maxsize:
                raise UsageError(f"{name} is beyond any machine; expected at most {sys.maxsize}")
            object.__setattr__(self, name, operator.index(value))
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"batch {self.batch} is below 1")
        if not isinstance(self.tta, bool | np.bool_):
            raise UsageError(f"tta is {self.tta!r}; expected True or False")
        if self.pixel_size is not None:
            object.__setattr__(self, "pixel_size", _nanometres(self.pixel_size))


def _nanometres(size: object) -> float:
    try:
        if isinstance(size, SupportsFloat) and not isinstance(size, bool):
            return float(size)
    except OverflowError:
        raise UsageError("pixel size is a number of hundreds of digits; expected nanometres") from None
    except (TypeError, ValueError):  # as several numbers are
        pass
    raise UsageError(f"pixel size is {reprlib.repr(size)}; expected a number of nanometres")


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
    neighbours : int
        Sections on either side of one that the model sees, too.
    familiar : Familiar or None
        How the sections look that it was trained on, where it says.
    exact : bool
        Whether tiles give what the whole section gives; it is not tiled otherwise.
    """

    sha256: str
    normalisation: str
    input_dtype: str
    output_dtype: str
    neighbours: int = 0
    familiar: Familiar | None = None
    exact: bool = True


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

    def section_blocks(self, only: Sequence[int] | None = None) -> list[Block]:
        """Return whole sections, in order: some by their numbers from 0, ascending, or all; see `blocks`.

        Raises
        ------
        UsageError
            If there is no such section, or the numbers do not ascend.
        """
        if only is None:
            return list(self.blocks())
        sections = self.source.sections or 0
        if any(not 0 <= z < sections for z in only) or any(z >= later for z, later in pairwise(only)):
            raise UsageError(
                f"sections {list(only)} cannot be computed; expected ascending numbers from 0 to {sections - 1}"
            )
        height, width = self.source.shape
        return [Block(z, (z, z + 1), (0, height), (0, width)) for z in only]

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

        Tiles and batch are no hindrance where results are the same in any, see `continued`. Elsewhere what a machine's
        memory and cores decided alone stays as it was, unless the user asks for another; so do blocks.

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
        free = self._same_in_any_tiles(wishes)
        own |= {"batch"} if free or (wishes.batch is None and wishes.memory is None) else set()
        if free or (wishes.tile is None and wishes.memory is None):
            own |= {"section.tile_shape", "turned.tile_shape"}
        own |= {"layout.block", "layout.shard"} if block is None else set()
        return tuple(
            f"{key}: {mine!r}, now {new!r}" for key, mine, new in self._differing(now) if key not in own
        )

    def continued(self, now: RunPlan, wishes: Wishes) -> RunPlan:
        """Return how a run of this plan is continued: in the tiles that are planned now, where no bit depends on them.

        Parameters
        ----------
        now : RunPlan
            Without `hindrances`.
        wishes : Wishes
            What the user asks for now.
        """
        if not self._same_in_any_tiles(wishes):
            return self
        return replace(
            self,
            section=now.section,
            turned=now.turned,
            batch=now.batch,
            workers=now.workers,
            all_cores=now.all_cores,
            memory_bytes=now.memory_bytes,
        )

    def _same_in_any_tiles(self, wishes: Wishes) -> bool:
        """Return whether no bit depends on the tiles: with the model's own halo, on a processor."""
        apart = [
            bool(arithmetic.apart)
            for row in devices.DEVICES
            if row.name == self.device and row.kind == "cpu"
            for arithmetic in row.arithmetic
            if arithmetic.name == self.precision
        ]
        return wishes.halo is None and bool(apart) and not any(apart)


def parse_plan(text: str, name: object = "") -> RunPlan:
    """Read a plan back.

    Parameters
    ----------
    text : str
        From `RunPlan.to_json`.
    name : object
        Of the file that it stands in, for the message.

    Raises
    ------
    UsageError
        If the text is no plan, or of another version.
    """
    of = f"{name}: " if name else ""
    try:
        plain = json.loads(text)
        if isinstance(plain, dict) and plain.get("schema") != SCHEMA:
            raise UsageError(f"{of}the plan has schema {plain.get('schema')!r}, this program reads {SCHEMA}")
        plan: RunPlan = read_value(RunPlan, plain, "plan")
    except (ValueError, RecursionError, ZeroDivisionError) as error:
        raise UsageError(f"{of}not a readable plan of a run ({error})") from error
    except UsageError as error:  # of one of its parts
        raise error if str(error).startswith(of) else UsageError(f"{of}{error}") from error
    return plan
