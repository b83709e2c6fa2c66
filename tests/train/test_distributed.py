"""Data-parallel training: two real processes on gloo against one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import forked
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from isbi_infer.errors import UsageError
from isbi_infer.files import locked_folder
from isbi_train.data.labelled import load_labelled
from isbi_train.networks.checkpoint import load_checkpoint
from isbi_train.networks.whole import predict_whole
from isbi_train.training.distributed import SINGLE_PROCESS, ProcessGroup, SharedDropout2d, torchrun_processes

NETWORK = {"base": 2, "depth": 2, "dropout": 0.3}
TRAIN = {
    "epochs": 2,
    "checkpoint_epochs": 1,
    "crop": 32,
    "batch": 4,
    "hold_out": 1,
    "device": "cpu",
    "precision": "float32",
}
TRAIN |= {"learning_rate": 5e-3, "warmup_steps": 2, "average": 0.5}
TRAIN |= {"affinity_weight": 0.3, "deep_weight": 0.3, "cldice_weight": 0.3}
FLAGS = [f"network.{key}={value}" for key, value in NETWORK.items()]
FLAGS = [f"--set={flag}" for flag in FLAGS + [f"train.{key}={value}" for key, value in TRAIN.items()]]

# Real float32, whatever oneDNN is allowed otherwise: what is compared differs by rounding alone.
EXACT = {"ONEDNN_DEFAULT_FPMATH_MODE": "STRICT", "DNNL_DEFAULT_FPMATH_MODE": "STRICT"}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # the tests' own settings


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def of_two(rank, port):
    """Return what torchrun tells a process."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {**address, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}


def start(rank, port, *arguments, **variables):
    inherited = {name: value for name, value in os.environ.items() if name not in THREADS}
    environment = {**inherited, **of_two(rank, port), **variables}
    command = [sys.executable, "-W", "error", "-m", "isbi_train", "fit", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


@pytest.fixture(scope="module")
def data(tmp_path_factory, sample, write_labelled):
    return write_labelled(tmp_path_factory.mktemp("data"), *sample)


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """One process's run."""
    out = tmp_path_factory.mktemp("alone")
    forked.run("isbi-train", "fit", "--data", data, "--out", out, *FLAGS, **EXACT).check_returncode()
    return out


def test_torchrun_with_two_processes_gives_the_result_of_one(data, alone, tmp_path):
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        free_port(),
    ]
    command = [*launch, "-m", "isbi_train", "fit", "--data", data, "--out", tmp_path, *FLAGS]
    environment = {**os.environ, **EXACT, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch    2") == 1  # one process speaks
    assert sorted(os.listdir(tmp_path)) == sorted(os.listdir(alone))
    for ours, theirs in zip(
        *(json.loads((folder / "history.json").read_text()) for folder in (tmp_path, alone)), strict=True
    ):
        for key in ("epoch", "training_loss", "loss"):  # V_rand jumps where a pixel crosses a threshold
            assert ours[key] == pytest.approx(theirs[key], abs=1e-4), key
    # Adam blows up rounding where a weight does not matter, so what the weights do is compared.
    image_ZYX = load_labelled(data).image_ZYX
    found, expected = (
        predict_whole(load_checkpoint(folder / "model.pth").load_network(), image_ZYX, stride=8, border=0)
        for folder in (tmp_path, alone)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_a_signal_to_one_process_stops_both_with_their_progress_saved(data, tmp_path):
    port = free_port()
    arguments = ["fit", "--data", data, "--out", tmp_path, *FLAGS, "--epochs", "40000"]
    programs = [forked.begun("isbi-train", *arguments, **of_two(rank, port)) for rank in (0, 1)]
    while not (tmp_path / "progress.pth").exists() and all(one.process.is_alive() for one in programs):
        time.sleep(0.02)
    os.kill(programs[1].process.pid, signal.SIGTERM)
    ends = [one.done() for one in programs]
    assert [end.returncode for end in ends] == [143, 143], ends
    assert "Traceback" not in "".join(end.stderr for end in ends)
    assert 1 <= load_checkpoint(tmp_path / "progress.pth").epoch < 40000


@pytest.mark.more
@pytest.mark.parametrize("variables", [{}, {"OMP_NUM_THREADS": "2"}], ids=["untold", "told"])
def test_each_process_takes_one_thread_unless_told_otherwise(data, tmp_path, variables):
    threads, port = 1, free_port()
    if variables:  # what torch makes of it on this machine
        command = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
        environment = {name: value for name, value in os.environ.items() if name not in THREADS}
        threads = int(subprocess.check_output(command, env={**environment, **variables}))
    processes = [start(rank, port, "--data", data, "--out", tmp_path, *FLAGS, **variables) for rank in (0, 1)]
    ends = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert f"threads: {threads}\n" in ends[0][1]


@pytest.mark.more
def test_where_the_main_process_fails_all_do_and_say_so_in_a_line(data, tmp_path):
    port = free_port()
    with locked_folder(tmp_path):
        processes = [start(rank, port, "--data", data, "--out", tmp_path, *FLAGS) for rank in (0, 1)]
        ends = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [8, 1], ends
    assert [errors.count("\n") for _, errors in ends] == [1, 1]
    assert "another run" in ends[0][1]
    assert "process 1 gives up, since process 0 does" in ends[1][1]


def test_a_batch_that_cannot_be_shared_out_is_refused_with_advice():
    with pytest.raises(UsageError, match=r"batch of 5 crops .* 2 processes; try --batch 6"):
        ProcessGroup(rank=1, size=2).share(5)
    assert [ProcessGroup(rank=r, size=3).share(6) for r in range(3)] == [
        slice(0, 2),
        slice(2, 4),
        slice(4, 6),
    ]


def test_one_process_is_left_as_it_is(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with torchrun_processes() as processes:
        assert processes is SINGLE_PROCESS
    model = nn.Sequential(nn.BatchNorm2d(2))
    assert processes.distribute(model, 4) is model
    assert processes.any(True)
    assert not processes.any(False)
    assert processes.is_main


def test_masks_of_shares_are_shares_of_the_whole_batchs_mask():
    ones = torch.ones(6, 8, 5, 5)
    torch.manual_seed(4)
    whole = F.dropout2d(ones, 0.4)
    for share in (slice(0, 3), slice(3, 6)):
        torch.manual_seed(4)
        assert torch.equal(SharedDropout2d(0.4, 6, share)(ones[share]), whole[share])
    assert torch.equal(SharedDropout2d(0.4, 6, share).eval()(ones[share]), ones[share])
