"""How a run is decided: from an input, an open model, wishes and the machine to a plan."""

from __future__ import annotations

import operator
from math import prod

import numpy as np

from isbi_infer.backends.base import Backend
from isbi_infer.backends.cores import processor_kind
from isbi_infer.errors import ModelError, UsageError
from isbi_infer.model.contract import ModelContract
from isbi_infer.model.opening import OpenModel
from isbi_infer.pixels.probability import Emit, OutputDtype
from isbi_infer.pixels.texture import Familiar
from isbi_infer.plan.blocks import Layout, Shape, choose_layout
from isbi_infer.plan.memory import available_memory
from isbi_infer.plan.run import ModelRecord, RunPlan, SourceRecord, Wishes
from isbi_infer.plan.scaling import Scaling, choose_scaling
from isbi_infer.plan.symmetry import ALL_EIGHT, IDENTITY
from isbi_infer.plan.tiles import SectionPlan, plan_section
from isbi_infer.volumes.protocol import Source

_OPEN_SECTIONS = 3  # being computed, one ahead and one being taken
_LITTLE = 1.01  # tiles computed per tile needed


def record_array(shape: tuple[int, ...], dtype: str) -> SourceRecord:
    """Return what a plan remembers of an array.

    Parameters
    ----------
    shape : tuple of int
        (Y, X) of a section or (Z, Y, X) of a stack, in pixels.
    dtype : str
        Of the grey values.

    Raises
    ------
    UsageError
        If it is the shape of nothing that can be segmented.
    """
    try:
        sizes = [operator.index(size) for size in shape]
    except TypeError:
        sizes = []
    if len(sizes) not in (2, 3) or min(sizes) < 1:
        raise UsageError(
            f"shape {shape!r} is neither (Y, X) nor (Z, Y, X); expected two or three whole numbers above 0"
        )
    sections = sizes[0] if len(sizes) == 3 else 1
    return SourceRecord(name="array", sections=sections, shape=(sizes[-2], sizes[-1]), dtype=dtype)


def check_source(source: object) -> None:
    """Raise UsageError unless this is an open source, as far as is seen from outside."""
    if not hasattr(source, "info"):
        raise UsageError(
            f"expected an open source, found {type(source).__name__}; open a file by isbi_infer.volumes.open_source, "
            "or call a Segmenter with an array"
        )


def record_source(source: Source) -> SourceRecord:
    """Return what a plan remembers of an open source; UsageError where it is none."""
    check_source(source)
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
    computed: int | None = None,
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
    computed : int, optional
        How many of the sections are computed; all when not given.

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
    if wishes.memory is not None and wishes.memory < 1:
        raise UsageError(
            f"memory {wishes.memory} is no memory at all; expected bytes, or an amount such as 4GiB"
        )
    memory = available_memory() // 2 if wishes.memory is None else wishes.memory
    allowed = int(memory / (bytes_per_pixel * backend.workers * (wishes.batch or 1)))
    most_pixels = min(allowed, device.tile_pixels)
    section = _tiles(shape, contract, halo, wishes.tile, most_pixels)
    turned = (
        _tiles((shape[1], shape[0]), contract, halo, wishes.tile, most_pixels)
        if any(view.turns % 2 for view in views)
        else None
    )
    sections = source.sections if computed is None else computed
    tiles = None if sections is None else sections * len(section.tiles) * len(views)
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
            neighbours=contract.neighbours,
            familiar=None if contract.familiar is None else Familiar.from_plain(contract.familiar),
            exact=contract.exact,
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
        working_bytes=working * (_OPEN_SECTIONS + 2 * contract.neighbours),
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
