"""Training that is killed at random moments, most of them while it saves: the previous checkpoint loads, and the
resumed run is the uninterrupted one."""

import json
import os
import random
import signal
import time

import pytest
import torch
from killable import EPOCHS, begun

from isbi_train.networks.checkpoint import load_checkpoint


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.more)])
def test_a_training_that_is_killed_at_random_moments_equals_an_uninterrupted_one(tmp_path, kills, figures):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run, epochs_done = begun(whole)
    assert epochs_done.recv() == 1
    first = time.monotonic()
    run.join()
    per_epoch = (time.monotonic() - first) / (EPOCHS - 1)
    moments, done, reached = random.Random(2012), 0, 0
    while done < kills and reached < EPOCHS:
        run, epochs_done = begun(killed)
        try:
            reached = epochs_done.recv()
        except EOFError:  # it was done
            reached = EPOCHS
        time.sleep(moments.uniform(0, per_epoch))
        run.kill()
        run.join()
        done += run.exitcode == -signal.SIGKILL
        found = [load_checkpoint(path).epoch for path in killed.glob("progress*.pth")]
        assert found or reached <= 1
    figures(kills=done)
    run, _ = begun(killed)
    run.join()
    assert run.exitcode == 0
    assert sorted(os.listdir(killed)) == sorted(os.listdir(whole))  # what was half written is swept
    one, other = (load_checkpoint(folder / "model.pth").state_dict for folder in (killed, whole))
    assert all(torch.equal(one[name], other[name]) for name in other)
    losses = [[e["loss"] for e in json.loads((f / "history.json").read_text())] for f in (killed, whole)]
    assert losses[0] == losses[1]
