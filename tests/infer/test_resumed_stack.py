"""TIFF runs that were killed and are gone on with: the same bytes, and only as they were begun."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack

from isbi_infer import BusyError, OutputError, Segmenter
from isbi_infer.files import replacing
from isbi_infer.run.stack import KeptSections
from isbi_infer.run.volume import VolumeOptions
from isbi_infer.volumes import open_source
from isbi_infer.volumes.protocol import Block

PROGRAM = Path(sys.executable).with_name("isbi-infer")
ASKED = ("--provider", "cpu", "--precision", "int8", "--quiet")


def command(*arguments):
    return [str(argument) for argument in (PROGRAM, *arguments, *ASKED)]


def infer(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    path = tmp_path_factory.mktemp("stack") / "stack.tif"
    image_ZYX = synthetic_stack(12, 256, 256)[0]
    image_ZYX[0] = 7
    tifffile.imwrite(path, image_ZYX, imagej=True, metadata={"axes": "ZYX"})
    return path


def kept(out):
    return out.with_name(out.name + ".partial") / "sections"


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.more)])
def test_a_run_that_is_killed_at_random_moments_goes_on_and_gives_the_same_bytes(
    tmp_path, stack, kills, figures
):
    figures(kills=kills)
    whole, out = tmp_path / "whole.tif", tmp_path / "out.tif"
    assert infer(stack, "-o", whole).returncode == 0
    moments = random.Random(kills)
    for _ in range(kills):
        process = subprocess.Popen(command(stack, "-o", out, "--resume"), stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(0.3, 2.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = infer(stack, "-o", out, "--resume")
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.tif", "whole.tif"]


def begun(tmp_path, stack):
    """Begin a run and stop it once it has kept a section; return its output and what it said."""
    out = tmp_path / "out.tif"
    process = subprocess.Popen(command(stack, "-o", out, "--resume"), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    one = 256 * 256 * np.dtype(np.float32).itemsize  # a section counts once it is on the disk
    while not (kept(out).exists() and kept(out).stat().st_size > 2 * one):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (0, 130)
    if process.returncode == 0:
        pytest.skip("the machine is too fast to be interrupted")
    return out, said


def test_ctrl_c_says_how_to_go_on_and_the_next_run_says_what_was_there(tmp_path, stack):
    out, said = begun(tmp_path, stack)
    assert "are done and kept; to go on, run it again with --resume" in said
    assert not out.exists()
    done = infer(stack, "-o", out, "--resume")
    assert done.returncode == 0
    assert "of 12 sections were there already" in done.stderr
    assert "section 0 is blank" in done.stderr


def test_a_run_goes_on_only_as_it_was_begun(tmp_path, stack):
    out, _ = begun(tmp_path, stack)
    other = infer(stack, "-o", out, "--resume", "--dtype", "uint8")
    assert other.returncode == 2
    assert "was begun by another run" in other.stderr
    assert "dtype: 'float32', now 'uint8'" in other.stderr
    assert kept(out).exists()


def sections(folder):
    return KeptSections(folder / "sections", (4, 5), np.dtype(np.float32))


def written(folder, count):
    """Keep sections; return them."""
    values = np.random.default_rng(0).random((count, 4, 5), np.float32)
    with sections(folder) as sink:
        for z, section_YX in enumerate(values):
            sink.write(Block(z, (z, z + 1), (0, 4), (0, 5)), section_YX[None])
    return values


@pytest.mark.parametrize("cut", [1, 4, 50, 84])
def test_what_is_left_of_a_torn_section_is_cut_off(tmp_path, cut):
    values = written(tmp_path, 3)
    content = (tmp_path / "sections").read_bytes()
    (tmp_path / "sections").write_bytes(content[:-cut])
    with sections(tmp_path) as found:
        assert found.count == 2
        np.testing.assert_array_equal(list(found), values[:2])
        assert (tmp_path / "sections").stat().st_size == 2 * (4 * 5 * 4 + 4)


@pytest.mark.parametrize("place", range(0, 84, 7))
def test_a_section_with_a_flipped_byte_is_not_taken(tmp_path, place):
    written(tmp_path, 2)
    content = bytearray((tmp_path / "sections").read_bytes())
    content[84 + place] ^= 1
    (tmp_path / "sections").write_bytes(content)
    with sections(tmp_path) as found:
        assert found.count == 1


def test_sections_that_are_damaged_while_they_are_held_are_an_error(tmp_path):
    written(tmp_path, 1)
    with sections(tmp_path) as found:
        with (tmp_path / "sections").open("r+b") as file:
            file.write(b"\xff" * 8)
        with pytest.raises(OutputError, match="section 0 is damaged"):
            list(found)


def interrupted(segmenter, stack, out):
    """Begin a run and stop it once it has kept a section; return its tiles."""
    totals = []

    def stop(_, total):
        totals.append(total)
        if kept(out).exists() and kept(out).stat().st_size:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segmenter.segment_file(stack, out, options=VolumeOptions(resume=True), progress=stop)
    return totals[0]


def test_a_run_goes_on_in_the_memory_that_it_is_allowed_now_with_the_same_bytes(tmp_path):
    stack, whole, out = tmp_path / "stack.tif", tmp_path / "whole.tif", tmp_path / "out.tif"
    tifffile.imwrite(stack, synthetic_stack(3, 400, 440)[0], photometric="minisblack")
    large = Segmenter("isbi2012-unet-b32", provider="cpu")
    large.segment_file(stack, whole)
    assert interrupted(large, stack, out) == 3  # a tile a section
    with open_source(stack) as source:
        small = Segmenter(
            "isbi2012-unet-b32", provider="cpu", memory=large.plan_source(source).memory_bytes // 2
        )
        tiles = len(small.plan_source(source).section.tiles)
    assert tiles > 1
    totals = []
    done = small.segment_file(
        stack, out, options=VolumeOptions(resume=True), progress=lambda _, total: totals.append(total)
    )
    assert set(totals) == {tiles * (3 - kept_before(done))}
    assert out.read_bytes() == whole.read_bytes()


def kept_before(done):
    """Return how many sections were there already, as a run says."""
    (said,) = [note for note in done.notes if "were there already" in note]
    return int(said.split()[0])


def test_the_speed_of_a_run_that_went_on_counts_what_it_computed(tmp_path, stack):
    out = tmp_path / "out.tif"
    segmenter = Segmenter(provider="cpu")
    interrupted(segmenter, stack, out)
    done = segmenter.segment_file(stack, out, options=VolumeOptions(resume=True))
    computed = (12 - kept_before(done)) * 256 * 256
    assert done.megapixels_per_second * done.seconds * 1e6 == pytest.approx(computed)


def test_a_run_that_can_be_gone_on_with_is_refused_at_once_while_another_writes_its_output(tmp_path, stack):
    out = tmp_path / "out.tif"

    def computed(done, total):
        raise AssertionError("a tile was computed")

    with replacing(out) as temporary:
        temporary.write_bytes(b"of the other run")
        with pytest.raises(BusyError, match="another run is writing it"):
            Segmenter(provider="cpu").segment_file(
                stack, out, options=VolumeOptions(resume=True), progress=computed
            )
    assert out.read_bytes() == b"of the other run"
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
