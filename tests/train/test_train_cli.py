"""``isbi-train fit`` as a process: files, exit codes, and one line where something is wrong."""

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import forked
import lists_at_hand
import pytest
import torch
from typer.testing import CliRunner

from isbi_train.cli import app
from isbi_train.networks.checkpoint import load_checkpoint

SMALL = ["--base", "2", "--depth", "2", "--crop", "32", "--batch", "2", "--epochs", "2", "--hold-out", "1"]
TINY = [*SMALL, "--device", "cpu", "--precision", "fp32"]


isbi_train = partial(forked.run, "isbi-train")


@pytest.fixture(scope="module")
def installed():
    """Run the program as a user starts it."""

    def run(*arguments, **variables):
        program = Path(sys.executable).with_name("isbi-train")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error", **variables}
        command = [program, *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def test_fit_trains_and_names_the_next_step(installed, tmp_path, sample, write_labelled):
    data, out = write_labelled(tmp_path, *sample), tmp_path / "runs" / "first"
    done = installed("fit", "--data", data, "--out", out, *TINY, "--seed", 7)
    assert done.returncode == 0, done.stderr
    assert "epoch    2  loss 0." in done.stdout
    assert done.stdout.splitlines()[-1] == f"{out / 'model.pth'}: next, isbi-export {out / 'model.pth'}"
    sections, what, steps, *_ = done.stderr.splitlines()
    assert re.fullmatch(r"sections 0-\d+ train, \d validate \(of \d, from 0\)", sections)
    assert re.fullmatch(r"pixels of .+; unet, \S+ k weights \(base 2, depth 2, .*; cpu in fp32", what)
    assert re.fullmatch(r"\d+ steps of 2 crops of 32 x 32, \d+ an epoch; threads: 1", steps)
    model = load_checkpoint(out / "model.pth")
    assert (model.network.base, model.train.seed, model.epoch) == (2, 7, 2)
    assert [entry["epoch"] for entry in json.loads((out / "history.json").read_text())] == [2]


def test_a_quiet_run_says_what_is_left_out_and_what_was_damaged_and_nothing_else(
    tmp_path, sample, write_labelled
):
    image_ZYX, label_ZYX = sample
    blank_ZYX = label_ZYX.copy()
    blank_ZYX[0] = 0
    data, out = write_labelled(tmp_path, image_ZYX, blank_ZYX), tmp_path / "run"
    done = isbi_train("fit", "--data", data, "--out", out, *TINY, "--quiet")
    assert (done.returncode, done.stdout) == (0, "")
    (said,) = done.stderr.splitlines()
    assert "labels hold a single value in section 0 (from 0)" in said
    (out / "progress.previous.pth").write_bytes((out / "progress.pth").read_bytes())
    (out / "progress.pth").write_bytes(b"PK")
    done = isbi_train("fit", "--resume", "--out", out, "--quiet")
    assert (done.returncode, done.stdout) == (0, "")
    assert f"going on from {out / 'progress.previous.pth'}" in done.stderr


def test_who_stops_a_run_on_a_terminal_sees_steps_and_then_one_message(
    terminal, tmp_path, sample, write_labelled
):
    data, out = write_labelled(tmp_path, *sample), tmp_path / "run"
    options = ["fit", "--data", data, "--out", out, *TINY, "--epochs", "4000"]
    program = Path(sys.executable).with_name("isbi-train")
    shown = terminal(program, *options, columns=60, at_line=("V_rand 0.", signal.SIGINT))
    assert shown.code == 130
    steps = [frame for frame in shown.frames if re.match(r"step \d+/\d+ ", frame)]
    assert any("loss 0." in frame and " left" in frame for frame in steps)
    assert max(map(len, steps)) < 60
    assert any(re.match(r"epoch    2  loss 0\.", line) for line in shown.lines)  # above the line of progress
    last = shown.text.partition("isbi-train: ")[2].split()
    assert " ".join(last[:3]) == "stopped by Ctrl-C;"
    assert " ".join(last).endswith("--resume goes on from there")
    assert shown.text.count("isbi-train: ") == 1


@pytest.mark.more
def test_the_classic_architecture_needs_no_other_flag_than_its_name(tmp_path, sample, write_labelled):
    data, out = write_labelled(tmp_path, *sample), tmp_path / "run"
    done = isbi_train("fit", "--data", data, "--out", out, "--arch", "valid-unet", *TINY, "--crop", 32)
    assert done.returncode == 0, done.stderr
    network = load_checkpoint(out / "model.pth").network
    assert (network.arch, network.unshuffle, network.dropout) == ("valid-unet", 1, 0.0)
    refused = isbi_train("fit", "--data", data, "--out", out, "--arch", "valid-unet", "--unshuffle", 2, *TINY)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "unshuffle 2 does not go with arch valid-unet" in refused.stderr


def test_a_folder_without_data_is_one_line_and_exit_code_4(tmp_path):
    out = tmp_path / "run"
    failed = isbi_train("fit", "--data", tmp_path / "nowhere", "--out", out, *TINY)
    assert failed.returncode == 4
    assert failed.stderr.count("\n") == 1
    assert failed.stderr.startswith("isbi-train: ")
    assert "nowhere" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not out.exists()


def test_settings_come_from_recipe_file_and_flags_and_repeat_the_run(tmp_path, sample, write_labelled):
    data, out, again = write_labelled(tmp_path, *sample), tmp_path / "run", tmp_path / "again"
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nepochs = 2\ncrop = 32\nbatch = 2\nhold_out = 1\nseed = 5\n")
    flags = ["--device", "cpu", "--precision", "fp32", "--base", "2", "--depth", "2"]
    options = ["--data", data, "--recipe", "released", "--settings", file, *flags, "--set", "train.seed=7"]
    done = isbi_train("fit", "--out", out, *options, "--calibrate")
    assert done.returncode == 0, done.stderr
    model = load_checkpoint(out / "model.pth")
    assert (model.network.base, model.network.dropout) == (2, 0.25)  # flag, recipe
    assert (model.train.weight_decay, model.train.epochs, model.train.seed) == (
        0.05,
        2,
        7,
    )  # recipe, file, flag
    assert model.train.calibrate

    repeated = isbi_train("fit", "--out", again, "--settings", out / "settings.toml")
    assert repeated.returncode == 0, repeated.stderr
    assert all(
        torch.equal(weight, model.state_dict[name])
        for name, weight in load_checkpoint(again / "model.pth").state_dict.items()
    )
    assert (again / "settings.toml").read_bytes() == (out / "settings.toml").read_bytes()

    resumed = isbi_train("fit", "--out", out, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    refused = isbi_train("fit", "--out", out, "--resume", "--batch", "3")
    assert refused.returncode == 2
    assert "batch: 2 -> 3" in refused.stderr


def test_bad_settings_are_one_line_and_exit_code_2(tmp_path):
    file = tmp_path / "bad.toml"
    file.write_text("[train]\nepochs = 'many'\n")
    for options, message in (
        (["--settings", file], f"{file}: train.epochs is 'many'; expected a whole number"),
        (["--settings", tmp_path / "bade.toml"], f"(No such file or directory); did you mean {file}?"),
        (["--recipe", "best"], "no recipe 'best'; choose from"),
        (["--recipe", "relaesed"], "did you mean released?"),
        (["--set", "train.epoch=3"], "did you mean epochs?"),
        (["--fold", "1"], "give N too"),
        (["--folds-of", "fly"], "give N too"),
        (["--folds", "2", "--folds-of", "fly", "--data", tmp_path], "give the list with --stacks"),
        (["--folds", "2", "--stacks", file], "name it with --folds-of"),
        (["--set", "noise"], "expected SECTION.KEY=VALUE"),
        (["--epochs", "0"], "epochs 0 is below 1"),
        ([], "add --data"),
    ):
        failed = CliRunner().invoke(app, ["fit", "--out", str(tmp_path / "run"), *map(str, options)])
        assert failed.exit_code == 2, failed.stderr
        assert failed.stderr.count("\n") == 1
        assert message in failed.stderr
    assert not (tmp_path / "run").exists()


def test_folds_are_reported_with_mean_and_spread(tmp_path, sample, write_labelled):
    data, out = write_labelled(tmp_path, *sample), tmp_path / "run"
    done = isbi_train("fit", "--data", data, "--out", out, *TINY, "--folds", 2)
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "folds.json").read_text())
    mean, spread = found["mean"]["v_rand_thin"], found["spread"]["v_rand_thin"]
    assert f"V_rand {mean:.4f} +- {spread:.4f} over 2 of 2 folds" in done.stdout
    assert f"fold 1  sections 2:4  epoch 2  V_rand {found['per_fold'][1]['v_rand_thin']:.4f}" in done.stdout


def test_folds_of_one_stack_of_a_list_are_reported(tmp_path):
    listed, out = lists_at_hand.write_list(tmp_path) / "stacks.toml", tmp_path / "run"
    size = ("--resample", 8, "--steps", 4, "--epochs", 1)
    done = isbi_train(
        "fit", "--stacks", listed, "--out", out, *TINY, *size, "--folds", 2, "--folds-of", "fly"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "folds.json").read_text())
    assert f"fold 1  sections 2:4  epoch 1  V_rand {found['per_fold'][1]['v_rand_thin']:.4f}" in done.stdout
    assert all((out / f"fold-{fold}" / "training.html").exists() for fold in range(2))


@pytest.mark.parametrize(("asked", "expected"), [(None, "PASSIVE"), ("active", "ACTIVE")])
def test_waiting_threads_leave_their_core_unless_the_user_says_otherwise(
    installed, tmp_path, monkeypatch, asked, expected
):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    variables = {"OMP_WAIT_POLICY": asked} if asked else {}
    # OpenMP itself says what it goes by, as soon as torch is loaded.
    done = installed(
        "fit", "--data", tmp_path, "--out", tmp_path / "run", OMP_DISPLAY_ENV="true", **variables
    )
    assert f"OMP_WAIT_POLICY = '{expected}'" in done.stderr


def test_as_many_threads_train_as_are_asked_for(tmp_path, sample, write_labelled):
    data = write_labelled(tmp_path, *sample)
    done = isbi_train("fit", "--data", data, "--out", tmp_path / "run", *TINY, "--threads", 3)
    assert "threads: 3" in done.stderr
    refused = isbi_train("fit", "--data", data, "--out", tmp_path / "none", *TINY, "--threads", 0)
    assert refused.returncode == 2
    assert "--threads" in refused.stderr
