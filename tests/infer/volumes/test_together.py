"""Runs into one volume at the same time, and what is asked of a volume that is there: nothing mixed, nothing lost."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack
from test_blocks import infer
from volume_files import pixels

from isbi_infer import BusyError, OutputError, Segmenter
from isbi_infer.files import locked_folder
from isbi_infer.run.volume import VolumeOptions
from isbi_infer.volumes.zarr import unfinished
from isbi_infer.volumes.zarr.writer import OmeZarrSink

BLOCK = ("--block", "1,256,256")
LEFT = ("is put in place by another run", "was completed by another run")


@pytest.fixture(scope="module")
def segmenter(tiny):
    return Segmenter(tiny, provider="cpu")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.ome.zarr"


def options(share=(1, 1), **others):
    return VolumeOptions(block=(1, 256, 256), share=share, **others)


class Standing:
    """A run in a thread that stands still once it has begun, until it is let go."""

    def __init__(self, run):
        self._begun, self._go = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._run = self._pool.submit(run, self._stand)

    def _stand(self, done, total):
        self._begun.set()
        assert self._go.wait(60)

    def __enter__(self):
        assert self._begun.wait(60)
        return self

    def finish(self):
        self._go.set()
        return self._run.result(60)

    def __exit__(self, *_):
        self._go.set()
        self._pool.shutdown()


def test_a_run_that_overwrites_leaves_with_8_while_a_share_is_at_work(out, tiff, segmenter, tiny_ZYX):
    def share(progress):
        return segmenter.segment_file(tiff, out, options=options((1, 2)), progress=progress)

    with Standing(share) as standing:
        with pytest.raises(BusyError, match="another run, or a share of one, is writing into this folder"):
            segmenter.segment_file(tiff, out, emit="membrane", options=options(overwrite=True))
        standing.finish()
    segmenter.segment_file(tiff, out, options=options((2, 2)))
    np.testing.assert_array_equal(pixels(out), tiny_ZYX)


def test_a_run_that_overwrites_takes_the_folder_of_shares_that_were_killed(out, tiff, segmenter, tiny_ZYX):
    segmenter.segment_file(tiff, out, emit="membrane", options=options((1, 2)))
    (out.with_name(out.name + ".partial") / ".share-2-of-2.lock").write_text("{}")  # of a killed one
    segmenter.segment_file(tiff, out, options=options(overwrite=True))
    np.testing.assert_array_equal(pixels(out), tiny_ZYX)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_nothing_begins_in_a_folder_while_another_run_clears_it(out, tiff, segmenter, monkeypatch):
    monkeypatch.setattr(unfinished, "_PATIENCE_S", 0)
    partial = out.with_name(out.name + ".partial")
    partial.mkdir()
    with locked_folder(partial, name=".begin.lock"), pytest.raises(BusyError):
        segmenter.segment_file(tiff, out, options=options((1, 2)))
    segmenter.segment_file(tiff, out, options=options((1, 2)))


def test_a_run_that_waits_for_another_one_to_begin_tries_less_and_less_often(out, monkeypatch):
    waits = []
    clock = SimpleNamespace(monotonic=lambda: sum(waits), sleep=waits.append)
    monkeypatch.setattr(unfinished, "time", clock)
    work = unfinished.Unfinished(out)
    work.folder.mkdir()
    with (
        locked_folder(work.folder, name=".begin.lock"),
        pytest.raises(BusyError),
        work.held((1, 2), overwrite=False),
    ):
        pass
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.05, 5)
    assert 60 < sum(waits) < 70
    assert len(waits) < 25


def test_a_share_whose_folder_was_made_anew_leaves_it_to_the_other_run(out, tiff, segmenter):
    partial = out.with_name(out.name + ".partial")

    def share(progress):
        return segmenter.segment_file(tiff, out, options=options((2, 2)), progress=progress)

    segmenter.segment_file(tiff, out, options=options((1, 2)))
    with Standing(share) as standing:
        (partial / "plan.json").write_text("{}")
        with pytest.raises(BusyError, match=r"another run has begun in .* meanwhile"):
            standing.finish()
    assert not out.exists()
    assert partial.exists()


class Handed:
    """A sink that keeps what it is handed of a result; with the first section it does something else."""

    def __init__(self, at_first=lambda: None):
        self._at_first = at_first
        self.sections = []

    def write(self, block, values_ZYX):
        if not self.sections:
            self._at_first()
        self.sections += list(values_ZYX)

    def finish(self):
        return ()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def all_but_completed(tiff, out, segmenter):
    """Compute all blocks by two shares, the second of which leaves the result to another; return its notes."""
    segmenter.segment_file(tiff, out, options=options((1, 2)))
    with locked_folder(out.with_name(out.name + ".partial"), name=".finish.lock"):
        return segmenter.segment_file(tiff, out, options=options((2, 2))).notes


@pytest.mark.parametrize("pyramid", [False, True])
def test_shares_that_find_all_blocks_there_at_once_both_end_well(
    tmp_path, tiff, segmenter, tiny_ZYX, pyramid, monkeypatch
):
    complete = unfinished.Unfinished.complete
    for number in range(3):
        out = tmp_path / f"out{number}.ome.zarr"
        all_but_completed(tiff, out, segmenter)
        meeting = threading.Barrier(2)

        def meet(work, meeting=meeting, **how):
            meeting.wait(60)
            return complete(work, **how)

        def share(index, out=out):
            handed = Handed()
            how = options((index, 2), pyramid=pyramid)
            return segmenter.segment_file(tiff, out, options=how, also=(handed,)).notes, handed.sections

        monkeypatch.setattr(unfinished.Unfinished, "complete", meet)
        with ThreadPoolExecutor(2) as pool:
            ended = list(pool.map(share, (1, 2)))
        monkeypatch.undo()
        np.testing.assert_array_equal(pixels(out), tiny_ZYX)
        assert (out / "1").exists() == pyramid
        left = [any(f"{out} {did}" in " ".join(notes) for did in LEFT) for notes, _ in ended]
        assert sorted(left) == [False, True]
        np.testing.assert_array_equal(ended[left.index(False)][1], tiny_ZYX)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_result_is_handed_over_whole_while_another_share_that_finds_all_blocks_there_ends(
    out, tiff, segmenter, tiny_ZYX
):
    all_but_completed(tiff, out, segmenter)
    others = []

    def another():
        others.extend(segmenter.segment_file(tiff, out, options=options((1, 2))).notes)

    handed = Handed(another)
    segmenter.segment_file(tiff, out, options=options((2, 2)), also=(handed,))
    assert f"{out} is put in place by another run" in others
    np.testing.assert_array_equal(handed.sections, tiny_ZYX)
    np.testing.assert_array_equal(pixels(out), tiny_ZYX)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("when", ["it counts its own blocks", "it counts those of others", "it completes it"])
def test_a_share_hands_over_what_another_one_puts_in_place_before(
    out, tiff, segmenter, tiny_ZYX, monkeypatch, when
):
    all_but_completed(tiff, out, segmenter)
    done, complete = OmeZarrSink.done, unfinished.Unfinished.complete

    def another():
        monkeypatch.undo()
        segmenter.segment_file(tiff, out, options=options((1, 2)))
        assert out.exists()

    def done_later(sink, block):
        if block.index % 2 == (when == "it counts its own blocks"):  # the second share has the odd ones
            another()
        return done(sink, block)

    def complete_later(work, **how):
        another()
        return complete(work, **how)

    if when == "it completes it":
        monkeypatch.setattr(unfinished.Unfinished, "complete", complete_later)
    else:
        monkeypatch.setattr(OmeZarrSink, "done", done_later)
    handed, tiles = Handed(), []
    notes = segmenter.segment_file(
        tiff, out, options=options((2, 2)), also=(handed,), progress=lambda done, _: tiles.append(done)
    ).notes
    assert not any(tiles)
    assert f"{out} was completed by another run" in notes
    assert not any("missing yet" in note for note in notes)
    np.testing.assert_array_equal(handed.sections, tiny_ZYX)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_who_finds_a_volume_in_place_leaves_the_folder_to_the_run_that_is_still_at_it(out):
    out.mkdir()
    (out / "zarr.json").write_text("{}")
    work = unfinished.Unfinished(out)
    work.folder.mkdir()
    with locked_folder(work.folder, name=".finish.lock"):
        work.leave()
        assert work.begun
    work.leave()
    assert not work.begun
    work.leave()


def test_a_share_leaves_a_result_to_the_one_that_is_completing_it(out, tiff, segmenter, tiny_ZYX):
    notes = all_but_completed(tiff, out, segmenter)
    assert f"{out} is put in place by another run" in notes
    assert not out.exists()
    segmenter.segment_file(tiff, out, options=options((2, 2)))  # had that one been killed
    np.testing.assert_array_equal(pixels(out), tiny_ZYX)


@pytest.mark.parametrize("there", ["folder", "file"])
def test_what_is_no_result_is_not_gone_on_with_and_is_said_before_any_work(out, tiff, segmenter, there):
    if there == "folder":
        out.mkdir()
        (out / "mine.txt").write_text("notes")
    else:
        out.write_text("notes")

    def computed(done, total):
        raise AssertionError("a tile was computed")

    with pytest.raises(OutputError, match="is there already, and is no OME-Zarr"):
        segmenter.segment_file(tiff, out, options=options(resume=True), progress=computed)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_finished_volume_without_smaller_resolutions_is_not_said_to_have_them(out, tiff, tiny):
    asked = ("--model", tiny, "--provider", "cpu")
    assert infer(tiff, "-o", out, asked=asked).returncode == 0
    refused = infer(tiff, "-o", out, "--resume", "--pyramid", asked=asked)
    assert refused.returncode == 2
    assert "is finished, without smaller resolutions; --overwrite makes it again" in refused.stderr
    assert infer(tiff, "-o", out, "--overwrite", "--pyramid", asked=asked).returncode == 0
    again = infer(tiff, "-o", out, "--resume", "--pyramid", asked=asked)
    assert again.returncode == 0, again.stderr
    assert (out / "1").exists()


@pytest.fixture
def labelled(tmp_path):
    """A stack and labels of it, by their paths."""
    for name, stack_ZYX in zip(("stack.tif", "truth.tif"), synthetic_stack(3, 96, 300), strict=True):
        tifffile.imwrite(tmp_path / name, stack_ZYX, photometric="minisblack")
    return tmp_path / "stack.tif", tmp_path / "truth.tif"


def test_a_finished_volume_is_scored_when_it_is_asked_for_again(out, labelled, tiny):
    stack, truth = labelled
    asked = ("--model", tiny, "--provider", "cpu", "--label", truth)
    whole = infer(stack, "-o", out, *BLOCK, asked=asked)
    assert whole.returncode == 0, whole.stderr
    again = infer(stack, "-o", out, *BLOCK, "--resume", asked=asked)
    assert again.returncode == 0, again.stderr
    did, *scores = again.stdout.splitlines()
    assert did.endswith(f": 3 sections and nothing left to compute -> {out}")
    assert scores == whole.stdout.splitlines()[1:]
    assert len(scores) == 2


def test_a_share_says_that_there_are_no_scores_yet_and_the_last_one_has_them(out, labelled, tiny):
    stack, truth = labelled
    ids = out.with_name("ids.tif")
    asked = ("--model", tiny, "--provider", "cpu", "--label", truth, "--labels", ids, *BLOCK)
    first = infer(stack, "-o", out, "--shard", "1/2", asked=asked)
    assert first.returncode == 0, first.stderr
    assert f"{truth}: no scores against it yet, for the result is not in place" in first.stderr
    how = "once all shares are, run it again with --resume instead of --shard, and"
    assert f"{ids}: no ids in it yet, for the result is not in place; {how} --labels {ids}" in first.stderr
    assert not ids.exists()
    last = infer(stack, "-o", out, "--shard", "2/2", asked=asked)
    assert last.returncode == 0, last.stderr
    assert "V_rand " in last.stdout
    assert "yet" not in last.stderr
    assert tifffile.imread(ids).shape == (3, 96, 300)
    late = infer(stack, "-o", out, "--shard", "1/2", asked=asked)  # as a scheduler that asks twice does
    assert late.returncode == 0, late.stderr
    assert late.stdout.splitlines()[-2:] == last.stdout.splitlines()[-2:]
