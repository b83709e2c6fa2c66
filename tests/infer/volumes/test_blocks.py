"""Blocks, shares, runs that are killed, and verifying: always the bytes of the run in one piece."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack
from volume_files import pixels, write_omezarr

from isbi_infer import Segmenter
from isbi_infer.errors import ImageError
from isbi_infer.run.volume import VolumeOptions
from isbi_infer.volumes import open_source

PROGRAM = Path(sys.executable).with_name("isbi-infer")
RELEASED = ("--model", "isbi2012-unet-b32", "--precision", "int8")
ASKED = (*RELEASED, "--provider", "cpu", "--tile", "320", "--quiet")


def infer(*arguments, asked=ASKED):
    command = [PROGRAM, *map(str, arguments), *asked]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def asked_of_tiny(tiny):
    return ("--model", tiny, *ASKED[len(RELEASED) :])


@pytest.fixture
def infer_tiny(asked_of_tiny):
    """Run isbi-infer with the model of one convolution."""
    return partial(infer, asked=asked_of_tiny)


@pytest.fixture
def tiny_tiles(tiny):
    return Segmenter(tiny, provider="cpu", tile=320)


def verify(out, model):
    command = [PROGRAM, "verify", out, "--model", model]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def files(folder):
    """Return the bytes of every file below a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("block", "empty"),
    [
        ("1,256,256", "9 of 45"),
        pytest.param("2,512,256", "6 of 18", marks=pytest.mark.more),
        ("5,768,768", ""),
    ],
)
def test_a_result_does_not_depend_on_its_blocks_and_those_without_tissue_are_counted(
    tmp_path, tiff, expected_ZYX, block, empty
):
    done = infer(tiff, "-o", tmp_path / "out.ome.zarr", "--block", block)
    assert (done.returncode, done.stdout) == (0, "")
    np.testing.assert_array_equal(pixels(tmp_path / "out.ome.zarr"), expected_ZYX)
    note = f"{empty} blocks hold no tissue: left out, and stored as membrane"
    assert (note in done.stderr) if empty else ("no tissue" not in done.stderr)


def test_what_is_left_of_a_run_that_was_killed_as_it_cleaned_up_goes_with_the_next(
    tmp_path, tiff, infer_tiny
):
    out = tmp_path / "out.ome.zarr"
    assert infer_tiny(tiff, "-o", out).returncode == 0
    before = files(out)
    (tmp_path / "out.ome.zarr.partial" / "statistics").mkdir(parents=True)
    done = infer_tiny(tiff, "-o", out, "--resume")
    assert done.returncode == 0
    assert "is finished already" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.ome.zarr"]
    assert files(out) == before


def test_a_missing_chunk_is_said_by_the_command_and_leaves_with_4_under_strict(tmp_path):
    stack_ZYX, _ = synthetic_stack(2, 128, 128)
    volume = write_omezarr(tmp_path / "in.ome.zarr", [stack_ZYX])
    (volume / "s0" / "c" / "0" / "1" / "0").unlink()
    done = infer(volume, "-o", tmp_path / "out.ome.zarr")
    assert done.returncode == 0
    assert "chunks are missing in 2 sections (0, 1): read as the fill value" in done.stderr
    refused = infer(volume, "-o", tmp_path / "strict.ome.zarr", "--strict")
    assert refused.returncode == 4
    (line,) = refused.stderr.splitlines()[-1:]
    assert "in.ome.zarr: section 0 cannot be read (NOT_FOUND" in line
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "strict.ome.zarr").exists()


def test_shares_in_any_order_make_up_the_whole_and_the_last_one_completes_it(tmp_path, tiff, expected_ZYX):
    out = tmp_path / "out.ome.zarr"
    for share in ("2/3", "1/3"):
        done = infer(tiff, "-o", out, "--block", "1,256,256", "--shard", share)
        assert done.returncode == 0
        assert "of other shares are missing yet" in done.stderr
        assert not (out / "zarr.json").exists()
    assert infer(tiff, "-o", out, "--block", "1,256,256", "--shard", "3/3").returncode == 0
    np.testing.assert_array_equal(pixels(out), expected_ZYX)


@pytest.mark.parametrize(
    ("kills", "model"), [(3, "tiny"), pytest.param(12, "released", marks=pytest.mark.more)]
)
def test_a_run_that_is_killed_at_random_moments_goes_on_and_gives_the_same_bytes(
    tmp_path, tiff, asked_of_tiny, kills, model, figures
):
    figures(kills=kills)
    options = asked_of_tiny if model == "tiny" else ASKED
    whole, killed = tmp_path / "whole.ome.zarr", tmp_path / "killed.ome.zarr"
    asked = ("--block", "1,256,256", "--pyramid")
    started = time.monotonic()
    assert infer(tiff, "-o", whole, *asked, asked=options).returncode == 0
    takes = time.monotonic() - started
    moments = random.Random(2012)
    done = 0
    while done < kills:
        if killed.exists():  # it was faster than the signal: begin again
            assert files(killed) == files(whole)
            shutil.rmtree(killed)
        resume = ["--resume"] if killed.with_name("killed.ome.zarr.partial").exists() else []
        process = subprocess.Popen(
            [PROGRAM, tiff, "-o", killed, *asked, *resume, *options], stderr=subprocess.DEVNULL
        )
        time.sleep(moments.uniform(0.1, 0.9) * takes)
        process.send_signal(signal.SIGKILL)
        done += process.wait() == -signal.SIGKILL
    last = infer(tiff, "-o", killed, *asked, "--resume", asked=options)
    assert last.returncode == 0, last.stderr
    assert files(killed) == files(whole)
    assert not list(tmp_path.glob("killed*.partial*"))


def test_a_run_goes_on_only_as_it_was_begun(tmp_path, tiff, infer_tiny):
    out = tmp_path / "out.ome.zarr"
    assert infer_tiny(tiff, "-o", out, "--block", "1,256,256", "--shard", "1/9").returncode == 0
    other = infer_tiny(tiff, "-o", out, "--block", "1,256,256", "--pixel-size", "5", "--resume")
    assert other.returncode == 2
    assert "was begun by another run" in other.stderr
    assert other.stderr.count("\n") == 1


def test_a_result_that_is_there_is_not_replaced_unasked(tmp_path, tiff, infer_tiny, tiny_ZYX):
    out = tmp_path / "out.ome.zarr"
    assert infer_tiny(tiff, "-o", out).returncode == 0
    again = infer_tiny(tiff, "-o", out)
    assert again.returncode == 2
    assert "is there already; --overwrite replaces it" in again.stderr
    assert infer_tiny(tiff, "-o", out, "--overwrite").returncode == 0
    np.testing.assert_array_equal(pixels(out), tiny_ZYX)


ODD = {"backslash": rb"a\b", "no UTF-8": b"bad\xff"}


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
@pytest.mark.parametrize("kind", ODD)
def test_a_name_that_tensorstore_would_take_for_another_is_refused_before_any_work(tmp_path, tiff, kind):
    name = os.fsdecode(ODD[kind])
    for out in (tmp_path / f"{name}.zarr", tmp_path / name / "out.zarr"):
        out.parent.mkdir(exist_ok=True)
        refused = infer(tiff, "-o", out)
        assert refused.returncode == 6, refused.stderr
        assert refused.stderr.count("\n") == 1
        assert kind in refused.stderr
    assert [*tmp_path.rglob("*")] == [tmp_path / name]
    write_omezarr(tmp_path / "in.zarr", [np.zeros((1, 8, 8), np.uint8)])
    os.rename(tmp_path / "in.zarr", tmp_path / f"{name}.zarr")
    with pytest.raises(ImageError, match=rf"{kind}.*; rename it"):
        open_source(tmp_path / f"{name}.zarr")


@pytest.mark.parametrize(
    "name",
    ["a\nb.zarr", "-o.zarr", "a .zarr", "a#b?c%20d.zarr", pytest.param("n" * 250 + ".zarr", id="longest")],
)
def test_a_volume_of_an_odd_name_is_written_and_read(tmp_path, name):
    tifffile.imwrite(tmp_path / "in.tif", np.random.default_rng(0).integers(0, 200, (2, 32, 32), np.uint8))
    done = infer(tmp_path / "in.tif", "-o", tmp_path / name)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.tif", name])
    with open_source(tmp_path / name) as source:
        assert source.read(1).shape == (32, 32)


def test_verify_computes_blocks_again_and_finds_what_was_changed(tmp_path, tiff, tiny, infer_tiny):
    out = tmp_path / "out.ome.zarr"
    assert infer_tiny(tiff, "-o", out, "--block", "1,256,256").returncode == 0
    sound = verify(out, tiny)
    assert sound.returncode == 0
    assert "all the same" in sound.stdout
    shards = sorted(path for path in (out / "0" / "c").rglob("*") if path.is_file())
    same_size = [(a, b) for a in shards for b in shards if a != b and a.stat().st_size != b.stat().st_size]
    (one, other), *_ = same_size
    shutil.copyfile(other, one)  # a whole shard, but of another place
    changed = verify(out, tiny)
    assert changed.returncode != 0
    assert str(out) in changed.stderr
    assert "Traceback" not in changed.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path, tiff):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    done = infer(tiff, "-o", closed / "out.ome.zarr")
    assert done.returncode == 6
    assert "closed" in done.stderr


def test_a_missing_tensorstore_is_named_before_any_work_and_nothing_is_left(tmp_path, tiff):
    script = (
        "import sys\n"
        "sys.modules['tensorstore'] = None\n"
        "from isbi_infer.cli import main\n"
        f"sys.argv = ['isbi-infer', {str(tiff)!r}, '-o', {str(tmp_path / 'out.ome.zarr')!r}]\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == "isbi-infer: tensorstore not installed; run: pip install 'isbi-infer[volume]'\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [["--pyramid"], ["--block", "1,256,256"], ["--shard", "1/2"]])
def test_what_is_for_omezarr_is_refused_for_tiff(tmp_path, tiff, option):
    done = infer(tiff, "-o", tmp_path / "out.tif", *option)
    assert done.returncode == 2
    assert "are for OME-Zarr; name the output NAME.ome.zarr" in done.stderr
    assert not list(tmp_path.iterdir())


class _Interrupted:
    """A source that lets others complete the volume before its first pixel is read."""

    def __init__(self, source, meanwhile):
        self._source, self._meanwhile = source, meanwhile

    def __getattr__(self, name):
        return getattr(self._source, name)

    def read(self, z, window=None):
        if self._meanwhile:
            self._meanwhile.pop()()
        return self._source.read(z, window)


def test_a_run_whose_volume_others_complete_meanwhile_leaves_it_whole(tmp_path, tiff, tiny_tiles, tiny_ZYX):
    out = tmp_path / "out.ome.zarr"

    def options(*share):
        return VolumeOptions(block=(2, 512, 512), share=share)

    def complete():
        for index in (1, 2, 3):
            tiny_tiles.segment_file(tiff, out, options=options(index, 3))
        assert out.exists()

    with open_source(tiff) as source:
        done = tiny_tiles.segment_file(_Interrupted(source, [complete]), out, options=options(1, 2))
    assert f"{out} was completed by another run" in done.notes
    np.testing.assert_array_equal(pixels(out), tiny_ZYX)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.ome.zarr"]


def test_a_torn_shard_keeps_the_last_share_from_completing_and_is_computed_again(
    tmp_path, tiff, tiny_tiles, tiny_ZYX
):
    out = tmp_path / "out.ome.zarr"
    options = VolumeOptions(block=(2, 512, 512), share=(1, 2))
    tiny_tiles.segment_file(tiff, out, options=options)
    shards = {path: path.read_bytes() for path in (tmp_path / "out.ome.zarr.partial").rglob("c/*/*/*")}
    assert len(shards) > 3
    torn = sorted(shards)[1]
    torn.write_bytes(shards[torn][:40])
    tiny_tiles.segment_file(tiff, out, options=replace(options, share=(2, 2)))
    assert not out.exists()
    tiny_tiles.segment_file(tiff, out, options=replace(options, share=(1, 2)))
    np.testing.assert_array_equal(pixels(out), tiny_ZYX)
