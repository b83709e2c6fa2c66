import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isbi_infer.errors import ModelError, ResourceError
from isbi_infer.pixels.normalise import intensity_statistics, normalise
from isbi_infer.plan.symmetry import ALL_EIGHT, IDENTITY
from isbi_infer.plan.tiles import plan_section
from isbi_infer.run.pipeline import run_sections
from isbi_infer.run.section import Settings


class Blur:
    """A small real network in NumPy: the mean of the 5x5 neighbourhood, zeros outside; its context is 2 pixels."""

    def __init__(self, most_pixels=None):
        self.most_pixels = most_pixels
        self.batches = []
        self.stopped = threading.Event()

    def run(self, batch_NCYX, out=None):
        self.batches.append(batch_NCYX.shape)
        if self.most_pixels and batch_NCYX.size > self.most_pixels:
            raise ResourceError(f"{batch_NCYX.size} pixels are more than {self.most_pixels}")
        padded = np.pad(batch_NCYX, ((0, 0), (0, 0), (2, 2), (2, 2)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(2, 3))
        return windows.mean(axis=(4, 5), dtype=np.float64).astype(np.float32)

    def stop(self):
        self.stopped.set()


def settings_for(tile, *, batch=1, lanes=1, symmetries=IDENTITY, fixed_batch=False):
    def plan(shape, halvings):
        whole = plan_section(shape, stride=4, halo=4, border=3, tile=tile)
        if not halvings:
            return whole
        area = whole.tile_shape[0] * whole.tile_shape[1] // 2**halvings
        return plan_section(shape, stride=4, halo=4, border=3, tile=tile, most_pixels=area)

    return Settings(
        plan=plan, batch=lambda _: batch, lanes=lanes, symmetries=symmetries, fixed_batch=fixed_batch
    )


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
    lanes=st.integers(1, 3),
    fixed=st.booleans(),
)
def test_any_layout_gives_the_whole_image_results_in_order(
    sections, height, width, tile, batch, lanes, fixed
):
    stack_ZYX = stack(sections, height, width)
    layout = settings_for(tile, batch=batch, lanes=lanes, fixed_batch=fixed)
    results = list(run_sections(stack_ZYX, Blur(), layout))
    assert len(results) == sections
    for section_YX, result_YX in zip(stack_ZYX, results, strict=True):
        assert (result_YX == whole(section_YX)).all()


@given(height=st.integers(1, 40), width=st.integers(1, 40), lanes=st.integers(1, 2), batch=st.integers(1, 5))
def test_all_eight_views_are_averaged(height, width, lanes, batch):
    (section_YX,) = stack(1, height, width)
    layout = settings_for(20, batch=batch, lanes=lanes, symmetries=ALL_EIGHT)
    (result_YX,) = run_sections([section_YX], Blur(), layout)
    expected_YX = sum(s.undo(whole(s.apply(section_YX))).astype(np.float64) for s in ALL_EIGHT) / 8
    assert (result_YX == expected_YX.astype(np.float32)).all()


def test_the_eight_views_are_different_and_undone():
    (section_YX,) = stack(1, 5, 7)
    views = [symmetry.apply(section_YX) for symmetry in ALL_EIGHT]
    assert len({view.tobytes() + bytes(view.shape) for view in views}) == 8
    for symmetry, view in zip(ALL_EIGHT, views, strict=True):
        assert (symmetry.undo(view) == section_YX).all()


@pytest.mark.parametrize("most_pixels", [1200, 500, 290])
@pytest.mark.parametrize("lanes", [1, 2])
def test_too_little_memory_halves_the_batch_then_the_tile_and_changes_nothing(most_pixels, lanes, caplog):
    stack_ZYX = stack(3, 70, 50)
    backend = Blur(most_pixels)
    results = list(run_sections(stack_ZYX, backend, settings_for(32, batch=4, lanes=lanes)))
    for section_YX, result_YX in zip(stack_ZYX, results, strict=True):
        assert (result_YX == whole(section_YX)).all()
    assert "not enough memory" in caplog.text
    refused = sum(np.prod(shape) > most_pixels for shape in backend.batches)
    assert refused < len(backend.batches) / 2  # it learns


def test_too_little_memory_for_the_smallest_tile_ends_the_run():
    with pytest.raises(ResourceError):
        list(run_sections(stack(2, 70, 50), Blur(100), settings_for(32, batch=4, lanes=2)))


def test_a_fixed_batch_is_always_full():
    backend = Blur()
    list(run_sections(stack(3, 70, 50), backend, settings_for(32, batch=4, fixed_batch=True)))
    assert {shape[0] for shape in backend.batches} == {4}
    assert len(set(backend.batches)) == 1


def test_sections_share_batches():
    backend = Blur()
    list(run_sections(stack(8, 20, 20), backend, settings_for(64, batch=4)))
    assert [shape[0] for shape in backend.batches] == [4, 4]


def test_an_error_of_the_model_reaches_the_caller_and_no_thread_stays():
    class Broken(Blur):
        def run(self, batch_NCYX, out=None):
            raise ModelError("broken")

    before = threading.active_count()
    with pytest.raises(ModelError, match="broken"):
        list(run_sections(stack(20, 20, 20), Broken(), settings_for(64, batch=2, lanes=2)))
    assert threading.active_count() == before


def test_leaving_early_stops_what_is_being_computed():
    class Slow(Blur):
        def run(self, batch_NCYX, out=None):
            if self.stopped.wait(60 if len(self.batches) else 0):
                raise ModelError("terminated")
            return super().run(batch_NCYX)

    backend = Slow()
    results = run_sections(stack(20, 20, 20), backend, settings_for(64))
    next(results)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 30
    assert backend.stopped.is_set()
