"""What the panel's thread does: a layer through Segmenter, all of it at once or section by section as it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import ResourceError
from isbi_infer.napari.jobs import Job
from isbi_infer.napari.layers import LayerSource, ShownSections, outlined
from isbi_infer.plan.memory import available_memory
from isbi_infer.report.after import threshold_of
from isbi_infer.volumes.pixel_size import PixelSize
from isbi_infer.volumes.protocol import Block

if TYPE_CHECKING:
    from isbi_infer.segmenter import Segmenter

Link = Literal["none", "overlap", "multicut"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for.

    Attributes
    ----------
    layer : Layer
        A greyscale image.
    model : str or None
        Name of a released model, or a file; None is the default model.
    provider, precision : str
        As `isbi_infer.Segmenter` takes them.
    pixel_size : PixelSize or None
        Of the layer's pixels; None takes them as they are.
    outlines, neurons : bool
        Whether these are wanted beside the probabilities.
    link : {"none", "overlap", "multicut"}
        How neurons are joined through the stack.
    """

    layer: Any
    model: str | None = None
    provider: Any = "auto"
    precision: Any = "auto"
    pixel_size: PixelSize | None = None
    outlines: bool = True
    neurons: bool = False
    link: Link = "none"


@dataclass(slots=True, kw_only=True)
class Segmented:
    """A result, in the shape of the layer.

    Attributes
    ----------
    probability, outlines, neurons : array or None
        None where it was not asked for.
    how : dict
        How it was made, as plain types.
    notes : tuple of str
        What its reader must know.
    """

    probability: Any
    outlines: Any = None
    neurons: npt.NDArray[Any] | None = None
    how: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class _Kept:
    """A sink that keeps sections of probabilities in an array."""

    def __init__(self, out_ZYX: npt.NDArray[np.float32]) -> None:
        self._out_ZYX = out_ZYX

    def write(self, block: Block, values_ZYX: npt.NDArray[Any]) -> None:
        self._out_ZYX[block.z[0] : block.z[1], block.y[0] : block.y[1], block.x[0] : block.x[1]] = values_ZYX

    def finish(self) -> tuple[str, ...]:
        return ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _KeptSection(_Kept):
    """A sink that keeps the one section that it is handed."""

    def __init__(self) -> None:
        self.section_YX: npt.NDArray[np.float32] = np.empty((0, 0), np.float32)

    def write(self, block: Block, values_ZYX: npt.NDArray[Any]) -> None:
        self.section_YX = values_ZYX[0]


def open_segmenter(wanted: Wanted, pixels: int) -> Segmenter:
    """Open the model that is asked for.

    Parameters
    ----------
    wanted : Wanted
        Names it.
    pixels : int
        How many will be segmented.
    """
    from isbi_infer.segmenter import Segmenter

    model = Path(wanted.model) if wanted.model and Path(wanted.model).exists() else wanted.model
    return Segmenter(model, provider=wanted.provider, precision=wanted.precision, pixels=pixels)


def segment_all(wanted: Wanted, job: Job) -> None:
    """Segment all sections of a layer; report one result when all of them are there.

    Parameters
    ----------
    wanted : Wanted
        What is asked for.
    job : Job
        Is told of progress and result.

    Raises
    ------
    IsbiError
        Whatever is wrong, see `isbi_infer.Segmenter`.
    """
    source = LayerSource(wanted.layer, wanted.pixel_size)
    shape = source.info.shape
    needed, free = prod(shape) * (5 if wanted.outlines else 4), available_memory()
    if needed > free:
        raise ResourceError(
            f"layer {source.name!r}: the result takes {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} are free; "
            "choose the sections as they are shown, or run isbi-infer on the file"
        )
    job.report("note", "opening the model")
    with open_segmenter(wanted, prod(shape)) as segmenter:
        probability_ZYX = np.empty((source.info.sections, *shape[-2:]), np.float32)
        notes = segmenter.segment_source(source, [_Kept(probability_ZYX)], progress=job.step)
        threshold = threshold_of(segmenter.contract)
        outlines_ZYX = neurons_ZYX = None
        if wanted.outlines:
            outlines_ZYX = np.empty(probability_ZYX.shape, np.uint8)
            for z, section_YX in enumerate(probability_ZYX):
                job.check()
                outlines_ZYX[z] = outlined(section_YX, threshold)
        if wanted.neurons:
            job.report("note", "finding neurons")
            neurons_ZYX = _neurons(probability_ZYX, threshold, wanted.link, job)
        job.report(
            "result",
            value=Segmented(
                probability=probability_ZYX.reshape(shape),
                outlines=None if outlines_ZYX is None else outlines_ZYX.reshape(shape),
                neurons=None if neurons_ZYX is None else neurons_ZYX.reshape(shape),
                how=_how(segmenter, threshold),
                notes=tuple(dict.fromkeys(notes)),
            ),
        )


def segment_shown(wanted: Wanted, sections: ShownSections, job: Job) -> None:
    """Segment sections of a layer as they are looked at, until the user cancels.

    Parameters
    ----------
    wanted : Wanted
        What is asked for.
    sections : ShownSections
        Where they go; it asks the job for them.
    job : Job
        Is told of progress, and of each section that is there. Its first result says how they are made.
    """
    whole = LayerSource(wanted.layer, wanted.pixel_size)
    job.report("note", "opening the model")
    with open_segmenter(wanted, prod(whole.info.shape[-2:])) as segmenter:
        threshold = threshold_of(segmenter.contract)
        job.report("result", value=Segmented(probability=sections, how=_how(segmenter, threshold)))
        for z in job.asked():
            if sections.section(z) is not None:
                continue
            kept = _KeptSection()
            job.report("note", f"section {z}")
            notes = segmenter.segment_source(whole, [kept], only=[z], progress=job.step)
            sections.put(z, kept.section_YX)
            job.report("section", value=(z, notes))


def _neurons(
    probability_ZYX: npt.NDArray[np.float32], threshold: float, link: Link, job: Job
) -> npt.NDArray[Any]:
    from isbi_infer.neurons.labelling import Labelling, label_array

    sections = len(probability_ZYX)

    def progress(done: int) -> None:
        job.step(done, sections)

    return label_array(probability_ZYX, Labelling(threshold=threshold, link=link), progress=progress)


def _how(segmenter: Segmenter, threshold: float) -> dict[str, Any]:
    return {
        "kind": "probability",
        "model_sha256": segmenter.model_sha256,
        "provider": segmenter.provider,
        "precision": segmenter.precision,
        "threshold": threshold,
    }
