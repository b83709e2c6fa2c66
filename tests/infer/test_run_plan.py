"""The plan of a run: it goes to JSON and back, it alone decides, and it knows what would change a result."""

import dataclasses
import json
import os
import sys
import time
import types
from typing import get_args

import numpy as np
import pytest
from drawn import synthetic_stack
from hypothesis import given, settings
from hypothesis import strategies as st

from isbi_infer import Segmenter, UsageError
from isbi_infer.backends.base import Arithmetic, Backend, Device
from isbi_infer.backends.cores import processor_kind
from isbi_infer.model import devices
from isbi_infer.model.opening import open_model
from isbi_infer.plan import deciding
from isbi_infer.plan.run import ModelRecord, RunPlan, SourceRecord, Wishes, parse_plan
from isbi_infer.plan.scaling import Scaling
from isbi_infer.plan.symmetry import ALL_EIGHT, IDENTITY
from isbi_infer.plan.tiles import plan_section
from isbi_infer.run.pipeline import compute_sections
from isbi_infer.volumes import PixelSize

sizes = st.integers(1, 3000)
texts = st.text(max_size=20)


@st.composite
def plans(draw):
    shape = draw(st.tuples(sizes, sizes))
    halo = 16 * draw(st.integers(0, 6))
    section = plan_section(
        shape,
        stride=16,
        halo=halo,
        border=draw(st.integers(0, 40)),
        tile=2 * halo + 16 * draw(st.integers(1, 40)),
    )
    scale = st.floats(0.01, 100)
    pixel_size = st.builds(
        PixelSize, y_nm=st.floats(0.1, 1e4), x_nm=st.floats(0.1, 1e4), z_nm=st.none() | st.floats(0.1, 1e4)
    )
    return RunPlan(
        source=SourceRecord(
            name=draw(texts),
            sections=draw(st.none() | sizes),
            shape=shape,
            dtype=draw(st.sampled_from(["uint8", "float32"])),
            pixel_size=draw(st.none() | pixel_size),
            fingerprint=draw(texts),
        ),
        model=ModelRecord(
            sha256=draw(texts), normalisation="section-zscore", input_dtype="float32", output_dtype="uint8"
        ),
        device=draw(texts),
        precision=draw(texts),
        runtime=draw(texts),
        processor=draw(texts),
        scaling=draw(st.none() | st.builds(Scaling, y=scale, x=scale)),
        section=section,
        turned=draw(st.sampled_from([None, section])),
        views=draw(st.sampled_from([IDENTITY, ALL_EIGHT])),
        batch=draw(st.integers(1, 64)),
        fixed_batch=draw(st.booleans()),
        workers=draw(st.integers(1, 64)),
        all_cores=draw(st.booleans()),
        emit=draw(st.sampled_from(["cell", "membrane"])),
        dtype=draw(st.sampled_from(["float32", "uint8"])),
        memory_bytes=draw(st.integers(0, 2**50)),
        notes=tuple(draw(st.lists(texts, max_size=3))),
    )


@given(plan=plans())
@settings(max_examples=settings().max_examples * 2)
def test_a_plan_comes_back_from_json_as_it_was(plan):
    again = parse_plan(plan.to_json())
    assert again == plan
    assert again.section.tiles == plan.section.tiles
    assert again.to_json() == plan.to_json()
    assert plan.differences(again) == ()


@given(plan=plans(), cut=st.floats(0, 1))
def test_a_plan_that_was_cut_is_refused(plan, cut):
    text = plan.to_json()
    with pytest.raises(UsageError, match="not a readable plan"):
        parse_plan(text[: int(cut * (len(text) - 1))])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda plain: plain.update(schema=99), "schema 99"),
        (lambda plain: plain.pop("batch"), "batch"),
        (lambda plain: plain.update(batch="four"), "plan.batch"),
        (lambda plain: plain.update(batch=True), "plan.batch"),
        (lambda plain: plain.update(surprise=1), "surprise"),
        (lambda plain: plain["section"].update(shape=[1, 2, 3]), "plan.section.shape"),
        (lambda plain: plain.update(emit="both"), "plan.emit"),
    ],
)
def test_a_plan_with_a_wrong_field_is_refused_by_its_name(segmenter, change, said):
    plain = json.loads(segmenter.plan((3, 40, 50)).to_json())
    change(plain)
    with pytest.raises(UsageError, match=said):
        parse_plan(json.dumps(plain))


def test_differences_name_what_would_change_a_result_and_nothing_else(segmenter):
    plan = segmenter.plan((3, 400, 500))
    other = dataclasses.replace(plan, device="cuda", precision="fp16", notes=("a note",), memory_bytes=1)
    other = dataclasses.replace(other, source=dataclasses.replace(plan.source, name="moved.tif"))
    assert plan.differences(other) == ("device: 'cpu', now 'cuda'", "precision: 'int8', now 'fp16'")
    changed = dataclasses.replace(plan, source=dataclasses.replace(plan.source, fingerprint="9 bytes"))
    assert plan.differences(changed) == ("source.fingerprint: '', now '9 bytes'",)


def smaller(plan):
    """Return a plan like another, in tiles of half the size."""
    tile = (plan.section.tile_shape[0] // 2, plan.section.tile_shape[1])
    section = dataclasses.replace(plan.section, tile_shape=tile)
    return dataclasses.replace(plan, section=section, batch=2, memory_bytes=plan.memory_bytes // 2)


def test_a_run_is_continued_in_other_tiles_where_no_bit_depends_on_them(segmenter):
    begun = segmenter.plan((3, 400, 900))
    now = smaller(begun)
    for wishes in (Wishes(), Wishes(memory=2**30), Wishes(tile=now.section.tile_shape[0], batch=2)):
        assert begun.hindrances(now, wishes) == ()
        assert begun.continued(now, wishes) == now


@pytest.mark.parametrize(
    ("where", "halo"),
    [
        ({"device": "cuda", "precision": "fp32"}, None),
        ({"device": "cpu", "precision": "fp16"}, None),
        ({}, 32),
    ],
    ids=["a GPU", "kernels that are chosen by size", "a halo that is not exact"],
)
def test_elsewhere_a_run_is_continued_in_its_own_tiles_and_others_that_are_asked_for_are_named(
    segmenter, where, halo
):
    begun = dataclasses.replace(segmenter.plan((3, 400, 900)), **where)
    now = smaller(begun)
    wishes = Wishes(halo=halo)
    assert begun.hindrances(now, wishes) == ()
    assert begun.continued(now, wishes) == begun
    asked = begun.hindrances(now, dataclasses.replace(wishes, memory=2**30))
    assert [line.partition(":")[0] for line in asked] == ["batch", "section.tile_shape"]


def test_the_plan_names_the_processor_by_what_kernels_are_chosen_by(segmenter):
    assert segmenter.plan((8, 8)).processor == processor_kind() != ""


def test_blocks_cover_the_output_once_with_stable_ids(segmenter):
    plan = segmenter.plan((5, 40, 50))
    blocks = list(plan.blocks())
    assert [block.index for block in blocks] == list(range(5))
    assert [block.shape for block in blocks] == [(1, 40, 50)] * 5
    assert [block.z for block in blocks] == [(z, z + 1) for z in range(5)]


def test_the_plan_alone_decides_a_run_whatever_happens_to_memory_cores_and_time(monkeypatch):
    """Memory shrinks to nothing, cores go and the clock jumps after the plan was made: same tiles, same bytes."""
    image_ZYX, _ = synthetic_stack(3, 300, 420)
    segmenter = Segmenter("isbi2012-unet-b32", provider="cpu", tile=208)
    plan, backend = segmenter.plan(image_ZYX.shape), open_model("isbi2012-unet-b32", "cpu").backend
    assert len(plan.section.tiles) > 1
    called = []
    run = type(backend).run
    monkeypatch.setattr(
        type(backend), "run", lambda self, x, *a, **k: called.append(x.shape) or run(self, x, *a, **k)
    )
    expected = list(compute_sections(plan, image_ZYX, backend))
    before = sorted(called)
    called.clear()
    monkeypatch.setattr(deciding, "available_memory", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    found = list(compute_sections(parse_plan(plan.to_json()), image_ZYX, backend))
    assert sorted(called) == before
    assert len(called) == 3 * len(plan.section.tiles)
    for found_YX, expected_YX in zip(found, expected, strict=True):
        assert found_YX.tobytes() == expected_YX.tobytes()


class Abacus(Backend):
    """A runtime of the future: it takes every pixel above the mean for cell."""

    def __init__(self, content, device, arithmetic, threads=None):
        self.device, self.arithmetic, self.workers = device, arithmetic, 2
        self.inputs, self.outputs, self.version = [], [], "abacus 1.0"

    def _compute(self, batch_NCYX, statistics_N111, out, stop):
        return (batch_NCYX > 0).astype(np.float32)

    def _is_lack_of_memory(self, reason):
        return False

    def on_all_cores(self):
        return self


def test_a_new_device_takes_one_row_and_one_class(monkeypatch):
    runtime = types.ModuleType("abacus_runtime")
    runtime.Abacus = Abacus
    monkeypatch.setitem(sys.modules, "abacus_runtime", runtime)
    row = Device(
        name="abacus",
        formats=("onnx",),
        backend="abacus_runtime:Abacus",
        kind="cpu",
        runtime_name="abacus",
        wheels=("abacus",),
        clashes=(),
        remedy="buy one",
        proof="it clicks",
        arithmetic=(Arithmetic(name="fp32", file="float32", memory=1.0),),
        tile_pixels=256**2,
    )
    monkeypatch.setattr(devices, "DEVICES", (row, *devices.DEVICES))
    image_ZYX, _ = synthetic_stack(2, 300, 260)
    segmenter = Segmenter("isbi2012-unet-b32", provider="abacus")
    plan = segmenter.plan(image_ZYX.shape)
    assert (plan.device, plan.precision, plan.runtime, plan.workers) == ("abacus", "fp32", "abacus 1.0", 2)
    assert len(plan.section.tiles) == 3
    expected_ZYX = image_ZYX > image_ZYX.mean(axis=(1, 2), keepdims=True)
    assert (segmenter(image_ZYX) == expected_ZYX).all()
    assert Segmenter().provider == "abacus"  # "auto" takes the first row that runs here
    assert "abacus" in devices.device_names()
    with pytest.raises(UsageError, match="choose auto, cpu, abacus"):
        Segmenter(provider="abakus")


def test_the_names_that_type_checkers_know_are_those_of_the_table():
    assert set(get_args(devices.ProviderName)) == {"auto", *devices.device_names()}
    assert set(get_args(devices.PrecisionName)) == {"auto", *devices.precision_names()}
