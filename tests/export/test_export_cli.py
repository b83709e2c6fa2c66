"""``isbi-export``: files, exit codes, and one line where something is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from isbi_export.cli import app


@pytest.fixture(scope="module")
def isbi_export():
    """Run the installed program in a process of its own."""

    def run(*arguments):
        program = Path(sys.executable).with_name("isbi-export")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [program, *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def command():
    """Run the command in this process, which has loaded torch already."""
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


def test_json_is_one_object_about_the_files_asked_for(isbi_export, trained, published, tmp_path):
    done = isbi_export(trained, "--output", tmp_path, "--formats", "onnx", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (file,) = json.loads(done.stdout)["files"]
    assert file["path"] == str(tmp_path / "model.onnx")
    assert file["file_format"] == "onnx"
    assert 0 < file["largest"] <= 1e-5
    assert file["changed"] == 0
    assert [1, 1, 8, 8] in file["shapes"]
    assert os.listdir(tmp_path) == ["model.onnx"]
    # The same as another process wrote.
    assert (tmp_path / "model.onnx").read_bytes() == (published / "model.onnx").read_bytes()


def test_a_line_tells_how_far_each_file_is_from_the_checkpoint(command, save, tmp_path):
    done = command(save(), "--formats", " torchscript,")
    assert (done.exit_code, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{tmp_path / 'model.pt'}: differs from the checkpoint by at most ")
    assert sorted(os.listdir(tmp_path)) == ["model.pt", "model.pth"]


def test_a_foreign_checkpoint_is_one_line_and_exit_code_5(isbi_export, tmp_path):
    (tmp_path / "model.pth").write_bytes(b"no checkpoint")
    failed = isbi_export(tmp_path / "model.pth")
    assert failed.returncode == 5
    assert failed.stdout == ""
    assert failed.stderr.startswith(f"isbi-export: {tmp_path / 'model.pth'}: not a readable checkpoint")
    assert failed.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["model.pth"]


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (["--output", "/dev/null/nowhere"], 6, "/dev/null/nowhere"),
        (["--formats", "onxx"], 2, "choose from onnx, torchscript"),
        (["--formats", ","], 2, "choose from onnx, torchscript"),
    ],
)
def test_what_goes_wrong_is_one_line_and_its_exit_code(command, save, tmp_path, options, code, named):
    failed = command(save(), *options)
    assert failed.exit_code == code
    assert failed.stdout == ""
    assert failed.stderr.startswith("isbi-export: ")
    assert failed.stderr.count("\n") == 1
    assert named in failed.stderr
    assert os.listdir(tmp_path) == ["model.pth"]
