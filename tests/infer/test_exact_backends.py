"""The promise, for all that computes here: tiles, batches and threads change no bit of the whole-image result."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precisions import content_of

from isbi_infer import Segmenter
from isbi_infer.errors import DependencyError
from isbi_infer.model.contract import read_contract
from isbi_infer.model.devices import DEVICES, open_backend
from isbi_infer.plan.tiles import plan_section, read_mirrored
from isbi_models import default_model

OFFERED = [
    (row, arithmetic)
    for row in DEVICES
    if row.kind == "cpu" and "onnx" in row.formats
    for arithmetic in row.arithmetic
]


@cache
def opened(row_name, arithmetic_name):
    """Return a backend and its model's contract; skip by name what does not run here."""
    row, arithmetic = next(
        (row, a) for row, a in OFFERED if (row.name, a.name) == (row_name, arithmetic_name)
    )
    return open_backend(content_of(arithmetic.file), row, arithmetic), read_contract(content_of("float32"))


def sections(model, section_YX, plan, batch, callers):
    """Return a section's result by this plan: tiles in batches, in this many threads at once."""
    out_YX = np.full(section_YX.shape, np.nan, np.float32)
    groups = [plan.tiles[i : i + batch] for i in range(0, len(plan.tiles), batch)]

    def compute(tiles):
        batch_NCYX = np.stack([read_mirrored(section_YX, plan.pad, tile.reads)[None] for tile in tiles])
        for tile, result_CYX in zip(tiles, model.run(batch_NCYX), strict=True):
            out_YX[tile.owns] = result_CYX[0][tile.crop]

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(compute, groups))
    return out_YX


@pytest.mark.parametrize(
    ("row_name", "arithmetic_name"),
    [(row.name, arithmetic.name) for row, arithmetic in OFFERED],
    ids=[f"{row.name} {arithmetic.name}" for row, arithmetic in OFFERED],
)
@settings(max_examples=settings().max_examples * 3 // 20)
@given(
    height=st.integers(1, 420),
    width=st.integers(1, 420),
    extra=st.integers(1, 9),
    batch=st.integers(1, 3),
    callers=st.integers(1, 3),
    all_cores=st.booleans(),
    seed=st.integers(0, 100),
)
def test_tiles_equal_the_whole_section_bit_for_bit(
    row_name, arithmetic_name, height, width, extra, batch, callers, all_cores, seed
):
    try:
        model, contract = opened(row_name, arithmetic_name)
    except DependencyError as error:
        pytest.skip(str(error))
    geometry = {"stride": contract.stride, "halo": contract.halo, "border": contract.border}
    section_YX = np.random.default_rng(seed).standard_normal((height, width), dtype=np.float32)
    whole = plan_section(section_YX.shape, **geometry)
    assert len(whole.tiles) == 1
    tiled = plan_section(section_YX.shape, tile=2 * contract.halo + extra * contract.stride, **geometry)
    expected_YX = sections(model, section_YX, whole, 1, 1)
    found_YX = sections(model.on_all_cores() if all_cores else model, section_YX, tiled, batch, callers)
    apart = np.abs(found_YX - expected_YX).max()
    assert apart <= 5 * model.arithmetic.apart  # 0 but for one; NaN, where a pixel was left out, is not


def test_a_precision_that_is_exact_needs_no_note():
    said = {
        (row.name, arithmetic.name): any(
            "tiles may differ from the whole section" in note
            for note in Segmenter(provider=row.name, precision=arithmetic.name).notes
        )
        for row, arithmetic in OFFERED
        if row.name == "cpu" and arithmetic.file in default_model().files
    }
    assert said == {("cpu", "int8"): False, ("cpu", "fp32"): False}
