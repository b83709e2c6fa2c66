"""How far work is: counted in tiles, drawn on a terminal of any width, written now and then into a log."""

import os
import pty
import re
import sys

import numpy as np
import pytest
import tifffile

from isbi_infer import Segmenter
from isbi_infer.terminal.progress import duration, show_progress
from isbi_infer.volumes import open_source


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def log(capsys):
    """Standard error, as a file: call it for what was written since."""
    return lambda: capsys.readouterr().err.splitlines()


@pytest.fixture
def drawn(monkeypatch):
    """Standard error on a terminal of so many columns; call what it returns for what was drawn."""
    opened = []

    def on(columns, **environment):
        for name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name, raising=False)
        known = {
            "TERM": "xterm-256color",
            "COLUMNS": str(columns),
        }  # the tests' own standard input has no size
        for name, value in {**known, **environment}.items():
            monkeypatch.setenv(name, value)
        leader, follower = pty.openpty()
        monkeypatch.setattr(sys, "stderr", os.fdopen(follower, "w"))
        opened.append(leader)

        def read():
            sys.stderr.close()
            found = b""
            try:
                while part := os.read(leader, 4096):
                    found += part
            except OSError:  # Linux ends a terminal's output so
                pass
            return found.decode()

        return read

    yield on
    for leader in opened:
        os.close(leader)


def frames(text):
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return [frame.strip() for frame in re.split(r"[\r\n]+", plain) if frame.strip()]


def test_a_section_is_counted_in_tiles_and_one_of_less_tissue_as_a_whole(synthetic_ZYX):
    segmenter, steps = Segmenter("isbi2012-unet-b32", provider="cpu", tile=208), []
    image_ZYX = synthetic_ZYX.copy()
    image_ZYX[1], image_ZYX[2, :, 120:] = 0, 0  # a blank one, and one with canvas
    segmenter(image_ZYX, progress=lambda done, total: steps.append((done, total)))
    done, totals = zip(*steps, strict=True)
    tiles = len(segmenter.plan(image_ZYX.shape).section.tiles)
    assert tiles > 1
    assert set(totals) == {3 * tiles}
    assert list(done) == sorted(set(done))
    assert (done[0], done[-1]) == (0, 3 * tiles)
    assert any(count % tiles for count in done)


def test_flips_and_rotations_are_counted_too(segmenter, synthetic_ZYX):
    steps = []
    Segmenter(provider="cpu", tta=True)(synthetic_ZYX[0], progress=lambda *counts: steps.append(counts))
    assert (steps[0], steps[-1]) == ((0, 8), (8, 8))


def test_blocks_of_a_volume_are_counted_by_their_tiles(tmp_path, synthetic_ZYX):
    pytest.importorskip("tensorstore")
    from isbi_infer.run.volume import VolumeOptions

    stack, steps = tmp_path / "stack.tif", []

    tifffile.imwrite(stack, synthetic_ZYX, photometric="minisblack")
    segmenter = Segmenter("isbi2012-unet-b32", provider="cpu", tile=208)
    segmenter.segment_file(
        stack,
        tmp_path / "out.ome.zarr",
        options=VolumeOptions(block=(2, 200, 256)),
        progress=lambda *counts: steps.append(counts),
    )
    (total,) = {total for _, total in steps}
    assert total > 3 * len(segmenter.plan(synthetic_ZYX.shape).section.tiles) > 3  # some are of two blocks
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    assert (steps[0][0], steps[-1][0]) == (0, total)


def test_what_progress_raises_ends_the_run_with_nothing_half_written(tmp_path, segmenter, synthetic_ZYX):

    class CancelError(Exception):
        pass

    def cancel(done, total):
        if done:
            raise CancelError

    tifffile.imwrite(tmp_path / "stack.tif", synthetic_ZYX, photometric="minisblack")
    with open_source(tmp_path / "stack.tif") as source, pytest.raises(CancelError):
        segmenter.segment_file(source, tmp_path / "out.tif", progress=cancel)
    assert os.listdir(tmp_path) == ["stack.tif"]
    with pytest.raises(CancelError):
        segmenter(synthetic_ZYX, progress=cancel)
    assert segmenter(synthetic_ZYX[0]).shape == synthetic_ZYX[0].shape  # and it goes on working


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_a_line_never_fills_its_terminal_and_keeps_what_matters_most(drawn, columns):
    clock, read = Clock(), drawn(columns)
    with show_progress("tile", quiet=False, amount=0.25, unit="Mpx", clock=clock) as progress:
        clock.now += 10
        progress(37, 120, "loss 0.2134", "V_rand 0.9512")
    found = frames(read())[-1]
    assert len(found) < columns
    assert found.startswith("tile 37/120")
    assert ("22 s left" in found) == (columns >= 40)
    assert ("loss 0.2134" in found) == (columns >= 40)
    assert ("0.93 Mpx/s" in found) == (columns >= 80)
    assert ("\u2501" in found) == (columns >= 80)  # the bar


def test_of_a_long_name_the_numbers_stay(drawn):
    read = drawn(40)
    with show_progress(f"{'a' * 60}.tif: tile", quiet=False) as progress:
        progress(3, 12)
    found = frames(read())[-1]
    assert found.startswith("...aaa")
    assert found.endswith("a.tif: tile 3/12")
    assert len(found) < 40


def test_where_nothing_is_counted_yet_the_seconds_pass(drawn):
    clock, read = Clock(), drawn(80)
    with show_progress("opening the model", quiet=False, clock=clock):
        clock.now += 7
    assert frames(read())[-1] == "opening the model  7 s"


def test_what_was_drawn_is_wiped_away(drawn):
    read = drawn(80)
    with show_progress("tile", quiet=False) as progress:
        progress(1, 2)
    assert read().rstrip().endswith("\x1b[2K")


def test_no_color_draws_without_colours(drawn):
    read = drawn(80, NO_COLOR="1")
    with show_progress("tile", quiet=False) as progress:
        progress(1, 2)
    text = read()
    assert "tile 1/2" in text
    assert not re.search(r"\x1b\[[0-9;]*3[0-9][;m]", text)


def test_a_dumb_terminal_is_a_log(drawn):
    read = drawn(80, TERM="dumb")
    with show_progress("tile", quiet=False) as progress:
        progress(1, 2)
    assert read() == ""


def test_a_log_gets_nothing_of_short_work_and_fewer_lines_the_longer_it_takes(log):
    clock = Clock()
    with show_progress("tile", quiet=False, amount=2, unit="Mpx", clock=clock) as progress:
        for done in range(1, 1001):
            clock.now += 1
            progress(done, 1000)
            if done == 1:
                assert log() == []
    lines = log()
    assert lines[0] == "tile 2/1000, 2.00 Mpx/s, 17 min left"
    assert lines[1] == "tile 4/1000, 2.00 Mpx/s, 17 min left"
    places = [int(re.match(r"tile (\d+)/", line)[1]) for line in lines]
    gaps = np.diff(places)
    assert (np.diff(gaps) >= 0).all()
    assert gaps[-1] == 60


def test_a_log_gets_every_stage_where_it_asks_for_them(log):
    with show_progress("reading", quiet=False, every_stage=True) as progress:
        progress.stage("proof one")
        progress.stage("proof two")
    assert log() == ["proof one", "proof two"]


def test_what_was_done_before_does_not_count_for_the_speed(log):
    clock = Clock()
    with show_progress("step", quiet=False, unit="steps", clock=clock) as progress:
        progress.stage("step", already=900)
        clock.now += 10
        progress(910, 1000)
    assert log() == ["step 910/1000, 1.00 steps/s, 90 s left"]


def test_without_a_total_there_is_a_count_and_a_speed(log):
    clock = Clock()
    with show_progress("MB", quiet=False, unit="MB", scale=1e6, clock=clock) as progress:
        clock.now += 4
        progress(12_000_000, 0)
    assert log() == ["MB 12, 3.00 MB/s, 4 s"]


def test_quiet_shows_nothing(log):
    clock = Clock()
    with show_progress("tile", quiet=True, every_stage=True, clock=clock) as progress:
        clock.now += 100
        progress.stage("another")
        progress(1, 2)
    assert log() == []


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "0 s"),
        (99, "99 s"),
        (200, "3 min 20 s"),
        (1500, "25 min"),
        (5000, "1 h 23 min"),
        (3e5, "3 days"),
    ],
)
def test_a_time_is_said_in_what_matters_of_it(seconds, said):
    assert duration(seconds) == said
