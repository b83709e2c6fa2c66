"""Runs with --resume whose disk fills up: real processes under a limit on file sizes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from tiny_files import tiny_onnx

PROGRAM = Path(sys.executable).with_name("isbi-infer")


@pytest.fixture
def small(tmp_path):
    """A stack whose sections are smaller than a buffer, and a tiny model."""
    image_ZYX = np.random.default_rng(0).integers(0, 200, (8, 32, 32), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", image_ZYX, photometric="minisblack")
    (tmp_path / "tiny.onnx").write_bytes(tiny_onnx())
    return tmp_path


def infer(folder, out, limit="unlimited"):
    asked = "--model tiny.onnx --provider cpu --resume --quiet"
    line = f"ulimit -f {limit}; exec {PROGRAM} stack.tif -o {out} {asked}"
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False)


def left(folder):
    return {path.name for path in folder.iterdir()} - {"stack.tif", "tiny.onnx"}


@pytest.mark.skipif(os.name == "nt", reason="there are no resource limits")
@pytest.mark.parametrize(
    ("kB", "done"),
    [(0, 0), (1, 0), (21, 5), *(pytest.param(*each, marks=pytest.mark.more) for each in ((3, 0), (9, 2)))],
)
def test_a_disk_that_fills_up_is_6_and_what_is_said_to_be_kept_is(small, kB, done):
    full = infer(small, "out.tif", kB)
    assert full.returncode == 6, full.stderr
    (said,) = [each for each in full.stderr.splitlines() if ": note: " not in each]
    assert str(small) in said
    assert "File too large" in said
    assert (f"{done} of 8 sections are done and kept" in full.stderr) == (done > 0)
    assert left(small) == ({"out.tif.partial"} if done else set())
    if done:
        again = infer(small, "out.tif")
        assert again.returncode == 0, again.stderr
        assert f"{done} of 8 sections were there already" in again.stderr


def test_a_name_of_the_greatest_length_can_be_gone_on_with(small):
    out = "n" * 251 + ".tif"
    done = infer(small, out)
    assert done.returncode == 0, done.stderr
    assert left(small) == {out}


@pytest.mark.skipif(os.name == "nt", reason="there are no resource limits")
def test_a_plan_that_does_not_fit_leaves_nothing(tmp_path):
    script = """
import resource, sys
from pathlib import Path
from isbi_infer.files import folder_in_use, write_once
from isbi_infer.terminal import exit_codes
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with exit_codes("program"), folder_in_use(Path(sys.argv[1])):
    write_once(Path(sys.argv[1]) / "plan.json", b" " * 2000)
"""
    command = [sys.executable, "-c", script, tmp_path / "out.tif.partial"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert "plan.json: cannot be written (File too large)" in done.stderr
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []
