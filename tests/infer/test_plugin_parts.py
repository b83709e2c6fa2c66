"""What the napari plugin does without napari: jobs beside a viewer, and arrays that are read as they are shown."""

import sys
import threading

import numpy as np
import pytest
from drawn import synthetic_stack

from isbi_infer import ImageError, Segmenter, UsageError
from isbi_infer.napari.fine_tuning import follow, sections_named, unused
from isbi_infer.napari.jobs import Job
from isbi_infer.napari.layers import OutlinesOf, ShownSections, SourceArray
from isbi_infer.volumes import StackInfo, open_source, write_stack


def ended(work):
    """Run a job to its end and return what it reported."""
    job = Job(work)
    job.start()
    assert job.join(30)
    return [(report.kind, report.text) for report in job.reports()]


def test_a_job_ends_with_one_report_whatever_happens():
    assert ended(lambda job: job.report("note", "half way")) == [("note", "half way"), ("done", "")]

    def fail(error):
        raise error

    assert ended(lambda job: fail(UsageError("it is wrong"))) == [("failed", "it is wrong")]
    assert ended(lambda job: fail(MemoryError())) == [
        ("failed", "not enough memory; choose a part of the stack")
    ]
    ((kind, text),) = ended(lambda job: fail(KeyError("lost\nthing")))
    assert (kind, "\n" in text) == ("failed", False)


def test_a_job_that_is_cancelled_ends_at_its_next_step():
    begun = threading.Event()

    def count(job):
        for done in range(10**9):
            job.step(done, 10**9)
            begun.set()

    job = Job(count)
    job.start()
    assert begun.wait(30)
    job.cancel()
    assert job.join(30)
    assert list(job.reports())[-1].kind == "cancelled"


def test_sections_that_are_asked_for_last_come_first():
    taken = []
    job = Job(lambda job: [taken.append(z) or (z == 1 and job.cancel()) for z in job.asked()])
    for z in (1, 2, 3):
        job.ask(z)
    job.start()
    assert job.join(30)
    assert taken == [3, 2, 1]


def test_a_program_that_is_cancelled_is_stopped_and_one_that_fails_is_quoted():
    job = Job(lambda job: follow([sys.executable, "-c", "import time; print('begun'); time.sleep(600)"], job))
    job.start()
    reports = []
    while not reports:
        reports += job.reports()
    assert reports[0].text == "begun"
    job.cancel()
    assert job.join(30)
    assert [report.kind for report in job.reports()] == ["cancelled"]
    said = ended(lambda job: follow([sys.executable, "-c", "raise SystemExit('no such thing')"], job))
    assert said[-1] == ("failed", "no such thing")


@pytest.mark.parametrize(
    "key", [1, -1, slice(0, 2), (0, slice(2, 5), 3), (..., 4), ([2, 0], slice(None)), ...]
)
def test_a_source_is_indexed_like_an_array(tmp_path, key):
    stack_ZYX = np.arange(3 * 6 * 7, dtype=np.uint8).reshape(3, 6, 7)
    write_stack(tmp_path / "stack.tif", stack_ZYX, like=StackInfo(shape=stack_ZYX.shape), dtype="uint8")
    with open_source(tmp_path / "stack.tif") as source:
        array = SourceArray(source)
        assert (array.shape, array.dtype, array.ndim, array.size) == ((3, 6, 7), np.uint8, 3, 126)
        np.testing.assert_array_equal(array[key], stack_ZYX[key])


def test_a_section_that_is_not_there_is_asked_for_and_clear_and_a_half_result_is_none():
    asked = []
    sections = ShownSections((3, 4, 5), asked.append, most=2 * 4 * 20)
    outlines = OutlinesOf(sections, 0.5)
    assert np.isnan(sections[0]).all()
    assert not outlines[0].any()
    assert asked == [0]
    for z in range(3):
        sections.put(z, np.tile(np.float32([0, 1, 1, 1, 1]), (4, 1)))
    assert sections.there == (1, 2)  # what was put first goes first
    assert outlines[1].tolist() == [[1, 0, 0, 0, 0]] * 4
    with pytest.raises(ImageError, match="2 of 3 sections are computed"):
        np.asarray(sections)


def test_sections_to_train_on_are_numbers_and_ranges():
    assert sections_named("all", 3) == [0, 1, 2]
    assert sections_named("0-2, 4", 5) == [0, 1, 2, 4]
    for text in ("3-1", "7", "one"):
        with pytest.raises(UsageError, match="is no section from 0 to 4"):
            sections_named(text, 5)


def test_a_new_run_goes_into_a_folder_of_its_own(tmp_path):
    (tmp_path / "run").mkdir()
    assert unused(tmp_path).name == "run-2"


class Kept:
    def __init__(self):
        self.sections = []

    def write(self, block, values_ZYX):
        self.sections += list(values_ZYX)


def test_a_source_goes_into_sinks_of_the_caller_s_until_progress_raises(tmp_path):
    image_ZYX = synthetic_stack(2, 64, 64)[0]
    write_stack(tmp_path / "stack.tif", image_ZYX, like=StackInfo(shape=image_ZYX.shape), dtype="uint8")
    segmenter, kept, counted = Segmenter(provider="cpu"), Kept(), []
    with open_source(tmp_path / "stack.tif") as source:
        segmenter.segment_source(source, [kept], progress=lambda done, total: counted.append((done, total)))
        np.testing.assert_array_equal(kept.sections, segmenter(image_ZYX))
        assert counted[-1] == (2, 2)

        def stop(done, total):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            segmenter.segment_source(source, [kept], progress=stop)
        assert len(kept.sections) == 2
