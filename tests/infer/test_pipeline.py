import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
from drawn import synthetic_stack
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from isbi_infer.backends.base import Arithmetic, Backend, Stop
from isbi_infer.errors import ImageError, ModelError, ResourceError
from isbi_infer.pixels.normalise import intensity_statistics, normalise
from isbi_infer.pixels.statistics import section_statistics
from isbi_infer.plan.run import ModelRecord, RunPlan, SourceRecord
from isbi_infer.plan.symmetry import ALL_EIGHT, IDENTITY
from isbi_infer.plan.tiles import plan_section
from isbi_infer.run.pipeline import compute_sections


class Blur(Backend):
    """A small real network in NumPy: the sigmoid of the mean of 5x5 pixels, zeros outside; its context is 2 pixels."""

    arithmetic = Arithmetic(name="fp32", file="float32", memory=1.0)
    workers, inputs, outputs, version = 1, [], [], "numpy"

    def __init__(self, most_pixels=None):
        self.most_pixels = most_pixels
        self.batches = []
        self.stops = []

    def run(self, batch_NCYX, *statistics_N111, out=None, stop=None):
        return self._compute(batch_NCYX, statistics_N111, out, stop)

    def _compute(self, batch_NCYX, statistics_N111, out, stop):
        self.batches.append(batch_NCYX.shape)
        if self.most_pixels and batch_NCYX.size > self.most_pixels:
            raise ResourceError(f"{batch_NCYX.size} pixels are more than {self.most_pixels}")
        padded = np.pad(batch_NCYX, ((0, 0), (0, 0), (2, 2), (2, 2)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(2, 3))
        return (1 / (1 + np.exp(-windows.mean(axis=(4, 5), dtype=np.float64)))).astype(np.float32)

    def _is_lack_of_memory(self, reason):
        return False

    def on_all_cores(self):
        return self

    def new_stop(self):
        self.stops.append(Stop())
        return self.stops[-1]


def plan_for(shape, tile, *, batch=1, workers=1, views=IDENTITY, fixed_batch=False):
    """The plan of a run over sections of one shape."""
    section = plan_section(shape, stride=4, halo=4, border=3, tile=tile)
    return RunPlan(
        source=SourceRecord(name="array", sections=None, shape=shape, dtype="uint8"),
        model=ModelRecord(
            sha256="", normalisation="section-zscore", input_dtype="float32", output_dtype="float32"
        ),
        device="cpu",
        precision="fp32",
        runtime="numpy",
        processor="any",
        scaling=None,
        section=section,
        turned=plan_section(shape[::-1], stride=4, halo=4, border=3, tile=tile) if len(views) > 1 else None,
        views=views,
        batch=batch,
        fixed_batch=fixed_batch,
        workers=workers,
        all_cores=False,
        memory_bytes=0,
    )


def results_of(stack_ZYX, backend, tile, **layout):
    shape = stack_ZYX[0].shape if len(stack_ZYX) else (1, 1)
    return list(compute_sections(plan_for(shape, tile, **layout), stack_ZYX, backend))


def within(seconds, work):
    """What a call returns; a failure where it does not return."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, f"not done within {seconds} s"
    return found[0]


def whole(section_YX):
    height, width = section_YX.shape
    pad = tuple((3, 3 + -(size + 6) % 4) for size in (height, width))
    padded_YX = np.pad(normalise(section_YX, intensity_statistics(section_YX)), pad, mode="reflect")
    return Blur().run(padded_YX[None, None])[0, 0, 3 : 3 + height, 3 : 3 + width]


def stack(sections, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (sections, height, width)).astype(np.uint8)


@given(
    sections=st.integers(0, 5),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    tile=st.sampled_from([12, 20, 32, 64]),
    batch=st.integers(1, 7),
    workers=st.integers(1, 3),
    fixed=st.booleans(),
)
def test_any_layout_gives_the_whole_image_results_in_order(
    sections, height, width, tile, batch, workers, fixed
):
    stack_ZYX = stack(sections, height, width)
    results = results_of(stack_ZYX, Blur(), tile, batch=batch, workers=workers, fixed_batch=fixed)
    assert len(results) == sections
    for section_YX, result_YX in zip(stack_ZYX, results, strict=True):
        assert (result_YX == whole(section_YX)).all()


@given(
    height=st.integers(1, 40), width=st.integers(1, 40), workers=st.integers(1, 2), batch=st.integers(1, 5)
)
def test_all_eight_views_are_averaged(height, width, workers, batch):
    (section_YX,) = stack_ZYX = stack(1, height, width)
    (result_YX,) = results_of(stack_ZYX, Blur(), 20, batch=batch, workers=workers, views=ALL_EIGHT)
    expected_YX = sum(s.undo(whole(s.apply(section_YX))).astype(np.float64) for s in ALL_EIGHT) / 8
    assert (result_YX == expected_YX.astype(np.float32)).all()


def test_the_eight_views_are_different_and_undone():
    (section_YX,) = stack(1, 5, 7)
    views = [symmetry.apply(section_YX) for symmetry in ALL_EIGHT]
    assert len({view.tobytes() + bytes(view.shape) for view in views}) == 8
    for symmetry, view in zip(ALL_EIGHT, views, strict=True):
        assert (symmetry.undo(view) == section_YX).all()


def test_the_statistics_of_a_section_are_those_of_all_its_views(monkeypatch):
    from isbi_infer.run import tissue

    measured = []
    monkeypatch.setattr(
        tissue, "section_statistics", lambda x, **k: measured.append(x) or section_statistics(x, **k)
    )
    results_of(stack(2, 20, 30), Blur(), 20, views=ALL_EIGHT)
    assert len(measured) == 2


@pytest.mark.parametrize("most_pixels", [1200, 500, 290])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("batch", [1, 3, 4, 7])
def test_too_little_memory_halves_the_batch_then_the_tile_and_changes_nothing(
    most_pixels, workers, batch, caplog
):
    stack_ZYX = stack(5, 70, 50)
    backend = Blur(most_pixels)
    results = results_of(stack_ZYX, backend, 32, batch=batch, workers=workers)
    for section_YX, result_YX in zip(stack_ZYX, results, strict=True):
        assert (result_YX == whole(section_YX)).all()
    assert "not enough memory" in caplog.text or batch * 32**2 <= most_pixels
    refused = sum(np.prod(shape) > most_pixels for shape in backend.batches)
    assert refused < len(backend.batches) / 2  # it learns


@pytest.mark.parametrize("batch", [1, 4])
def test_what_a_call_held_that_failed_for_lack_of_memory_is_free_before_a_smaller_one(batch):
    class Holding(Blur):
        def _compute(self, batch_NCYX, statistics_N111, out, stop):
            assert not [held for held in failed if held() is not None]
            held = np.empty(1)  # as a buffer on the device
            if batch_NCYX.size > 300:
                failed.append(weakref.ref(held))
                raise ResourceError("too large")
            return super()._compute(batch_NCYX, statistics_N111, out, stop)

    failed = []
    stack_ZYX = stack(3, 70, 50)
    results = results_of(stack_ZYX, Holding(), 32, batch=batch)
    assert failed
    for section_YX, result_YX in zip(stack_ZYX, results, strict=True):
        assert (result_YX == whole(section_YX)).all()


def test_memory_that_comes_and_goes_among_workers_loses_no_tile():
    """Every call may fail, also when its batch is down to one tile already."""

    class Moody(Blur):
        def _compute(self, batch_NCYX, statistics_N111, out, stop):
            if len(batch_NCYX) > 1 and next(moods) % 3:
                raise ResourceError("at this moment")
            return super()._compute(batch_NCYX, statistics_N111, out, stop)

    moods = iter(range(10**6))
    stack_ZYX = stack(30, 70, 50)
    for section_YX, result_YX in zip(
        stack_ZYX, results_of(stack_ZYX, Moody(), 32, batch=6, workers=3), strict=True
    ):
        assert (result_YX == whole(section_YX)).all()


def test_too_little_memory_for_the_smallest_tile_ends_the_run():
    with pytest.raises(ResourceError, match="not enough memory for the smallest tile"):
        results_of(stack(2, 70, 50), Blur(100), 32, batch=4, workers=2)


def test_a_model_that_may_not_be_tiled_is_not_tiled_for_lack_of_memory_either():
    """Tiles would change its result, without a word."""
    backend, stack_ZYX = Blur(1500), stack(4, 30, 20)
    plan = plan_for((30, 20), 64, batch=4)
    whole_plan = replace(plan, model=replace(plan.model, exact=False))
    for section_YX, result_YX in zip(
        stack_ZYX, compute_sections(whole_plan, stack_ZYX, backend), strict=True
    ):
        assert (result_YX == whole(section_YX)).all()
    assert {shape[0] for shape in backend.batches} > {1}  # batches may be smaller
    backend.most_pixels = 700
    with pytest.raises(
        ResourceError, match="memory for 36 x 28 pixels at once, and tiles would give another"
    ):
        list(compute_sections(whole_plan, stack_ZYX, backend))
    assert len(list(compute_sections(plan, stack_ZYX, backend))) == 4


def test_a_fixed_batch_is_always_full():
    backend = Blur()
    results_of(stack(3, 70, 50), backend, 32, batch=4, fixed_batch=True)
    assert {shape[0] for shape in backend.batches} == {4}
    assert len(set(backend.batches)) == 1


def test_sections_share_batches():
    backend = Blur()
    results_of(stack(8, 20, 20), backend, 64, batch=4)
    assert [shape[0] for shape in backend.batches] == [4, 4]


TISSUE_ZYX, _ = synthetic_stack(6, 40, 60)


@settings(  # each example that hangs takes the whole limit, so no smaller one is looked for
    max_examples=3 * settings().max_examples, phases=[Phase.generate], report_multiple_bugs=False
)
@given(
    kinds=st.lists(st.sampled_from(["full", "little", "blank"]), max_size=len(TISSUE_ZYX)),
    batch=st.integers(1, 8),
    workers=st.integers(1, 2),
    views=st.sampled_from([IDENTITY, ALL_EIGHT]),
    fixed=st.booleans(),
)
def test_a_run_ends_whatever_sections_have_no_tissue_or_little(kinds, batch, workers, views, fixed):
    """Sections that do not fill a batch, with others behind them that are done at once or soon."""
    stack_ZYX = TISSUE_ZYX[: len(kinds)].copy()
    for section_YX, kind in zip(stack_ZYX, kinds, strict=True):
        if kind == "little":
            section_YX[:16], section_YX[:, :30], section_YX[:, 50:] = 0, 0, 0
        if kind == "blank":
            section_YX[:] = 0
    layout = {"batch": batch, "workers": workers, "views": views, "fixed_batch": fixed}
    results = within(60, lambda: results_of(stack_ZYX, Blur(), 20, **layout))
    assert len(results) == len(kinds)
    for section_YX, result_YX in zip(stack_ZYX, results, strict=True):
        (alone_YX,) = results_of(section_YX[None], Blur(), 64, views=views)
        assert (result_YX == alone_YX).all()


def test_sections_that_are_as_large_share_batches_however_many_they_are():
    backend = Blur()
    within(60, lambda: results_of(stack(60, 20, 20), backend, 64, batch=4))
    assert [shape[0] for shape in backend.batches] == [4] * 15


def test_sections_of_another_shape_end_the_run_after_those_before_them():
    sections = [*stack(2, 20, 20), np.zeros((20, 21), np.uint8)]
    results = compute_sections(plan_for((20, 20), 64), sections, Blur())
    assert (next(results) == whole(sections[0])).all()
    next(results)
    with pytest.raises(ImageError, match=r"\(20, 20\), then \(20, 21\)"):
        next(results)


def test_an_error_of_the_model_reaches_the_caller_and_no_thread_stays():
    class Broken(Blur):
        def _compute(self, batch_NCYX, statistics_N111, out, stop):
            raise ModelError("broken")

    before = threading.active_count()
    with pytest.raises(ModelError, match="broken"):
        results_of(stack(20, 20, 20), Broken(), 64, batch=2, workers=2)
    assert threading.active_count() == before


def test_an_iteration_may_end_in_one_of_its_own_threads():
    """As where nobody holds it any more, and it is collected in the thread that happens to run."""
    taken, closed = threading.Event(), threading.Event()
    failed = []

    def sections():
        yield from stack(1, 20, 20)
        assert taken.wait(60)
        try:
            results.close()
        except RuntimeError as error:
            failed.append(error)
        closed.set()
        yield from stack(3, 20, 20)

    results = compute_sections(plan_for((20, 20), 64), sections(), Blur())
    next(results)
    taken.set()
    assert closed.wait(60)
    assert not failed
    assert next(results, None) is None


def test_leaving_early_stops_what_is_being_computed_and_no_other_run():
    class Slow(Blur):
        def _compute(self, batch_NCYX, statistics_N111, out, stop):
            started.set()
            while len(self.batches) and not stop.is_set:
                pass
            return super()._compute(batch_NCYX, statistics_N111, out, stop)

    started, backend, other = threading.Event(), Slow(), Blur()
    results = compute_sections(plan_for((20, 20), 64), stack(20, 20, 20), backend)
    next(results)
    beside = compute_sections(plan_for((20, 20), 64), stack(3, 20, 20), other)
    next(beside)
    results.close()
    assert [stop.is_set for stop in backend.stops] == [True]
    assert len(list(beside)) == 2
    assert threading.active_count() == 1 or not any("worker" in t.name for t in threading.enumerate())


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    tile=st.sampled_from([12, 20, 32, 64]),
    data=st.data(),
)
def test_a_tile_can_be_split_until_nothing_is_left_to_split(height, width, tile, data):
    plan = plan_section((height, width), stride=4, halo=4, border=3, tile=tile)
    whole_tile = data.draw(st.sampled_from(plan.tiles))
    owned = np.zeros((height, width), int)
    waiting, areas = [whole_tile], []
    while waiting:
        one = waiting.pop()
        areas.append([(w.stop - w.start) for w in one.reads])
        parts = plan.split(one)
        waiting += parts
        if not parts:
            owned[one.owns] += 1
            assert all(w.start % 4 == 0 for w in one.reads)
            assert all(c.stop - c.start == o.stop - o.start for c, o in zip(one.crop, one.owns, strict=True))
    assert (owned[whole_tile.owns] == 1).all()
    assert owned.sum() == owned[whole_tile.owns].size
    assert max(np.prod(area) for area in areas) == np.prod(areas[0])
