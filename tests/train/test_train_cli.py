"""``isbi-train fit`` as a process: files, exit codes, and one line where something is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from isbi_train.checkpoint import load_checkpoint

SMALL = ["--base", "2", "--depth", "2", "--crop", "32", "--batch", "2", "--epochs", "2", "--hold-out", "1"]
TINY = [*SMALL, "--device", "cpu", "--precision", "float32"]


@pytest.fixture(scope="module")
def isbi_train():
    def run(*arguments):
        program = Path(sys.executable).with_name("isbi-train")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
        command = [program, *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def test_fit_trains_and_names_the_next_step(isbi_train, tmp_path, sample, write_labelled):
    data, out = write_labelled(tmp_path, *sample), tmp_path / "runs" / "first"
    done = isbi_train("fit", "--data", data, "--out", out, *TINY, "--seed", 7)
    assert done.returncode == 0, done.stderr
    assert "epoch    2  training loss 0." in done.stdout
    assert f"isbi-export {out / 'model.pth'}" in done.stdout
    model = load_checkpoint(out / "model.pth")
    assert (model.network.base, model.train.seed, model.epoch) == (2, 7, 2)
    assert [entry["epoch"] for entry in json.loads((out / "history.json").read_text())] == [2]


def test_a_folder_without_data_is_one_line_and_exit_code_4(isbi_train, tmp_path):
    out = tmp_path / "run"
    failed = isbi_train("fit", "--data", tmp_path / "nowhere", "--out", out, *TINY)
    assert failed.returncode == 4
    assert failed.stderr.count("\n") == 1
    assert failed.stderr.startswith("isbi-train: ")
    assert "nowhere" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not out.exists()
