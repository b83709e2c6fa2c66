"""``isbi-train download, split, merge, augment, analyse`` as typed: files, exit codes, one line where it fails."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack
from typer.testing import CliRunner

from isbi_models import default_model
from isbi_train.cli import app

MODEL = default_model().path
PROGRAM = Path(sys.executable).with_name("isbi-train")


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def failed(code, *arguments):
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("isbi-train: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture
def data(tmp_path, write_labelled):
    """A folder of five synthetic sections and their labels."""
    folder = tmp_path / "data"
    folder.mkdir()
    return write_labelled(folder, *synthetic_stack(5, 64, 64))


def test_the_road_from_a_stack_through_its_sections_and_back_to_an_analysis(data, tmp_path):
    stack, sections, merged = data / "train-volume.tif", tmp_path / "s", tmp_path / "merged.tif"
    assert run("split", stack, sections).stdout == f"5 sections -> {sections / '00.tif'} to 04.tif\n"
    assert run("merge", sections, merged).stdout == f"5 sections -> {merged}\n"
    np.testing.assert_array_equal(tifffile.imread(merged), tifffile.imread(stack))
    result = run("analyse", MODEL, merged, "--out", tmp_path / "a", "--provider", "cpu")
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "a" / "submission.tif") in result.stdout
    assert tifffile.imread(tmp_path / "a" / "submission.tif").shape == (5, 64, 64)


def test_augment_writes_pairs_and_says_how_fast(data, tmp_path):
    out = tmp_path / "pairs"
    result = run("augment", "--data", data, "--out", out, "--count", 3, "--sections", "0:4", "--crop", 32)
    assert result.exit_code == 0, result.output
    assert "3 pairs of sections 0:4" in result.stdout
    assert "pairs/s" in result.stdout
    assert result.stderr.splitlines()[0] == f"3 pairs of 32 x 32 pixels: 6.1 kB in {out}"
    assert "free; ask for fewer" in failed(
        6, "augment", "--data", data, "--out", tmp_path / "many", "--sections", "0:4", "--count", 10**15
    )
    assert not (tmp_path / "many").exists()
    assert tifffile.imread(out / "images-00000-00002.tif").shape == (3, 32, 32)
    assert "is there already" in failed(2, "augment", "--data", data, "--out", out, "--sections", "0:4")


def test_augment_takes_labels_of_other_kinds(data, tmp_path):
    drawn = tmp_path / "membranes.tif"
    tifffile.imwrite(drawn, 255 - tifffile.imread(data / "train-labels.tif"), photometric="minisblack")
    shared = ("augment", "--count", 2, "--sections", "0:4", "--quiet")
    stack = data / "train-volume.tif"
    assert run(*shared, "--data", data, "--out", tmp_path / "a").stdout == ""
    run(*shared, "--data", stack, "--labels", drawn, "--labels-are", "membrane", "--out", tmp_path / "b")
    a, b = (tmp_path / name / "labels-00000-00001.tif" for name in "ab")
    np.testing.assert_array_equal(tifffile.imread(a), tifffile.imread(b))


def test_fewer_sections_than_are_drawn_from_is_one_line(data, tmp_path):
    message = failed(2, "augment", "--data", data, "--out", tmp_path / "pairs")
    assert "0:25" in message
    assert "some of 0:5" in message
    assert not (tmp_path / "pairs").exists()


def test_errors_are_one_line_and_an_exit_code(data, tmp_path):
    stack = data / "train-volume.tif"
    assert "gone.tif" in failed(4, "split", tmp_path / "gone.tif", tmp_path / "s")
    assert "no such folder" in failed(6, "split", stack, stack / "s")
    assert "holds no TIFF" in failed(4, "merge", tmp_path, tmp_path / "x.tif")
    assert "gone.onnx" in failed(5, "analyse", tmp_path / "gone.onnx", stack, "--out", tmp_path / "a")
    assert "--labels" in failed(2, "augment", "--data", stack, "--out", tmp_path / "p")
    closed = failed(3, "download", "--data", tmp_path / "d", "--url", "http://127.0.0.1:9/data.zip")
    assert "put train-volume.tif, train-labels.tif, test-volume.tif into" in closed
    assert "another stack" in failed(2, "download", "--data", data)
    (tmp_path / "z.zip").write_bytes(b"PK")
    assert "no whole zip" in failed(4, "download", "--data", tmp_path / "d", "--archive", tmp_path / "z.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "z.zip"]


def test_a_stopped_augment_leaves_whole_files_only(data, tmp_path):
    out = tmp_path / "pairs"
    command = [
        PROGRAM,
        "augment",
        "--data",
        data,
        "--out",
        out,
        "--count",
        "100000",
        "--sections",
        "0:5",
        "--quiet",
    ]
    process = subprocess.Popen(
        [*map(str, command)], env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
    )
    while len(list(out.glob("labels-*"))) < 2 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 143
    assert said.count("\n") == 1
    assert not (out / "augmented.json").exists()
    names = [path.name for path in out.iterdir()]
    assert not [name for name in names if name.startswith(".")]
    for path in out.glob("*.tif"):
        assert tifffile.imread(path).shape == (100, 64, 64)


def test_help_is_quick_and_brings_in_no_torch():
    code = "import sys, isbi_train.cli; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code]).returncode == 0
    commands = run("--help").stdout
    for name in ("download", "split", "merge", "augment", "analyse"):
        assert name in commands
