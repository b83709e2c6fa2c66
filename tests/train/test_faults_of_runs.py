"""What may go wrong with a run: losses that are no numbers, damaged files, two runs in one folder, full disks."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace

import forked
import pytest
import torch

from isbi_infer.errors import BusyError, ModelError, OutputError, UsageError
from isbi_infer.files import locked_folder
from isbi_train.config import AugmentConfig, NetworkConfig
from isbi_train.config.inputs import Inputs
from isbi_train.config.settings import read_layer
from isbi_train.networks.checkpoint import load_checkpoint
from isbi_train.training import train as training
from isbi_train.training.train import fit


class LeftOffError(Exception):
    pass


def leave_after(epoch):
    def report(entry):
        if entry["epoch"] == epoch:
            raise LeftOffError

    return report


def poison_after(monkeypatch, epoch):
    """Let what trains turn to NaN after an epoch, as a gradient out of range would."""
    whole_step, taken = training.take_step, []

    def step(run, *arguments):
        loss = whole_step(run, *arguments)
        taken.append(loss)
        if run.epoch == epoch and len(run.losses) == 2:
            with torch.no_grad():
                run.model.head.weight.fill_(float("nan"))
        return loss

    monkeypatch.setattr(training, "take_step", step)


def test_a_loss_that_is_no_number_stops_the_run_says_where_and_keeps_the_last_good_model(
    train, trained, tmp_path, monkeypatch
):
    poison_after(monkeypatch, 2)
    with pytest.raises(
        ModelError, match=r"no longer a number at step 4 after epoch 2; model\.pth and progress"
    ) as e:
        train(tmp_path)
    assert "\n" not in str(e.value)
    assert load_checkpoint(tmp_path / "model.pth").epoch == 2
    monkeypatch.undo()
    train(tmp_path, resume=True)
    one, other = (load_checkpoint(folder / "model.pth").state_dict for folder in (tmp_path, trained))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_loss_that_is_no_number_before_anything_was_saved_says_so(train, tmp_path):
    with pytest.raises(
        ModelError, match=r"no longer a number .*nothing was saved yet; train anew with a lower"
    ):
        train(tmp_path, learning_rate=1e4, warmup_steps=0, clip_norm=0.0)
    assert not (tmp_path / "model.pth").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "removed"])
def test_a_damaged_newest_progress_gives_a_warning_and_the_one_before_it(
    train, trained, tmp_path, caplog, damage
):
    with pytest.raises(LeftOffError):
        train(tmp_path, report=leave_after(3))
    path, previous = tmp_path / "progress.pth", tmp_path / "progress.previous.pth"
    assert (load_checkpoint(path).epoch, load_checkpoint(previous).epoch) == (3, 2)
    whole = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        with zipfile.ZipFile(path) as archive:  # it has gaps, where a flip would hurt nothing
            place = whole.index(archive.read(max(archive.infolist(), key=lambda part: part.file_size)))
        flipped = whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]
        path.write_bytes(whole[:-100] if damage == "cut" else flipped)
    train(tmp_path, resume=True)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert str(path) in warning
    assert f"going on from {previous}, saved after epoch 2" in warning
    one, other = (load_checkpoint(folder / "model.pth").state_dict for folder in (tmp_path, trained))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_with_both_progress_files_damaged_nothing_starts(train, tmp_path):
    with pytest.raises(LeftOffError):
        train(tmp_path, report=leave_after(2))
    for name in ("progress.pth", "progress.previous.pth"):
        (tmp_path / name).write_bytes(b"PK")
    before = (tmp_path / "model.pth").read_bytes()
    with pytest.raises(ModelError, match=r"progress.previous.pth"):
        train(tmp_path, resume=True)
    assert (tmp_path / "model.pth").read_bytes() == before


@pytest.mark.parametrize("history", ["there", "gone"])
def test_where_all_progress_was_removed_a_run_is_not_begun_anew_over_what_it_had_learnt(
    train, tmp_path, history
):
    with pytest.raises(LeftOffError):
        train(tmp_path, report=leave_after(2))
    for name in ("progress.pth", "progress.previous.pth", *(["history.json"] if history == "gone" else [])):
        (tmp_path / name).unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ModelError, match=r"are gone: the run cannot be resumed; .*--init") as raised:
        train(tmp_path, resume=True)
    assert "\n" not in str(raised.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_that_was_killed_before_it_first_saved_its_progress_is_begun_anew(
    train, trained, tmp_path, caplog
):
    with pytest.raises(LeftOffError):
        train(tmp_path, report=leave_after(1))
    (tmp_path / "progress.pth").unlink()
    train(tmp_path, resume=True)
    assert f"{tmp_path}: no progress.pth to resume from" in caplog.text
    one, other = (load_checkpoint(folder / "model.pth").state_dict for folder in (tmp_path, trained))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_refused_resumption_leaves_the_settings_of_the_run(train, tmp_path):
    with pytest.raises(LeftOffError):
        train(tmp_path, report=leave_after(1))
    before = (tmp_path / "settings.toml").read_bytes()
    with pytest.raises(UsageError, match=r"cannot resume"):
        train(tmp_path, resume=True, seed=1)
    assert (tmp_path / "settings.toml").read_bytes() == before


def test_a_second_run_in_one_folder_is_refused_and_the_first_goes_on(train, trained, tmp_path):
    refused = []

    def report(entry):
        with pytest.raises(BusyError, match=str(tmp_path)) as raised:
            train(tmp_path)
        refused.append(raised.value.exit_code)

    train(tmp_path, report=report)
    assert refused == [8] * 4
    one, other = (load_checkpoint(folder / "model.pth").state_dict for folder in (tmp_path, trained))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_hold_ends_with_its_process_however_it_ends(tmp_path):
    program = "import sys, time; from isbi_infer.files import locked_folder\n"
    program += "with locked_folder(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(BusyError, match="another run is writing"), locked_folder(tmp_path):
        pass
    process.kill()
    process.communicate()
    with locked_folder(tmp_path):
        assert os.listdir(tmp_path) == [".lock"]
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_held_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="cannot be locked"), locked_folder(tmp_path / "none"):
        pass


def test_a_full_disk_is_exit_code_6_and_leaves_what_was_saved(train, tmp_path, trained):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(entry):
        if entry["epoch"] == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))

    try:
        with pytest.raises(OutputError, match=r"cannot be written \(File too large\)") as raised:
            train(tmp_path, report=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, previous)
    assert raised.value.exit_code == 6
    assert load_checkpoint(tmp_path / "model.pth").epoch == 2
    assert load_checkpoint(tmp_path / "progress.pth").epoch == 2
    assert not [name for name in os.listdir(tmp_path) if ".tmp" in name]
    train(tmp_path, resume=True)
    one, other = (load_checkpoint(folder / "model.pth").state_dict for folder in (tmp_path, trained))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_run_stops_when_v_rand_has_not_risen_and_stays_stopped(train, tmp_path):
    settings, entries = {"epochs": 500, "patience": 2, "learning_rate": 1e-9}, []
    train(tmp_path, **settings, report=entries.append)
    scores = [entry["v_rand_thin"] for entry in entries]
    since_best = [n - scores[: n + 1].index(max(scores[: n + 1])) for n in range(len(scores))]
    assert since_best[-1] == 2
    assert max(since_best[:-1]) < 2
    train(tmp_path, **settings, resume=True, report=lambda entry: pytest.fail("trained on"))
    assert load_checkpoint(tmp_path / "progress.pth").epoch == len(entries) < 500


def test_gradients_are_clipped_to_the_length_asked_for(train, tmp_path, monkeypatch):
    lengths = []
    clip = torch.nn.utils.clip_grad_norm_

    def measured(parameters, norm):
        parameters = list(parameters)
        found = clip(parameters, norm)
        after = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in parameters]))
        lengths.append((float(found), float(after)))
        return found

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", measured)
    train(tmp_path, epochs=1, clip_norm=0.01)
    assert lengths
    assert all(after <= min(0.0101, before * 1.001) for before, after in lengths)
    lengths.clear()
    train(tmp_path / "free", epochs=1, clip_norm=0.0)
    assert not lengths


def test_fine_tuning_starts_from_the_given_weights(labelled, network, train_config, trained, tmp_path):
    settings = {
        "network": network,
        "augment": AugmentConfig(),
        "train": train_config(epochs=1, learning_rate=1e-9),
    }
    inputs = Inputs(init=str(trained / "model.pth"))
    fit(labelled, tmp_path, **settings, inputs=inputs)
    tuned, start = (load_checkpoint(folder / "model.pth") for folder in (tmp_path, trained))
    for name, weight in start.state_dict.items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(tuned.state_dict[name], weight, rtol=0, atol=1e-6)
    written = read_layer(tmp_path / "settings.toml")["inputs"]
    assert written["init"] == str(trained / "model.pth")
    assert written["sha256"]["init"] == tuned.data["init"]
    with pytest.raises(UsageError, match=r"cannot resume.*init"):
        fit(labelled, tmp_path, **settings, resume=True)


def test_fine_tuning_takes_settings_that_change_no_weight(labelled, network, train_config, trained, tmp_path):
    same = replace(network, widest=512, dropout=0.3)
    settings = {"augment": AugmentConfig(), "train": train_config()}
    fit(labelled, tmp_path, network=same, **settings, inputs=Inputs(init=str(trained / "model.pth")))
    assert load_checkpoint(tmp_path / "model.pth").network == same


def test_a_new_run_where_there_is_one_is_refused_and_nothing_is_lost(
    labelled, network, train_config, trained, tmp_path
):
    out = shutil.copytree(trained, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    settings = {"network": network, "augment": AugmentConfig(), "train": train_config()}
    with pytest.raises(UsageError, match=r"holds a run already .*--resume"):
        fit(labelled, out, **settings)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_fine_tuning_another_network_lists_the_differences(labelled, train_config, trained, tmp_path):
    settings = {
        "network": NetworkConfig(base=1, depth=2),
        "augment": AugmentConfig(),
        "train": train_config(),
    }
    with pytest.raises(
        UsageError, match=r"model\.pth: is of another network \(widths: \(2, 4, 8\) -> \(1, 2, 4\)\)"
    ):
        fit(labelled, tmp_path / "run", **settings, inputs=Inputs(init=str(trained / "model.pth")))
    assert not (tmp_path / "run").exists()


def test_settings_that_name_other_contents_are_refused(labelled, network, train_config, tmp_path):
    settings = {"network": network, "augment": AugmentConfig(), "train": train_config()}
    with pytest.raises(UsageError, match="sha256 of images"):
        fit(labelled, tmp_path / "run", **settings, inputs=Inputs(sha256={"images": "0"}))


def test_two_processes_on_one_folder_the_second_exits_with_8(tmp_path, sample, write_labelled):
    data, out = write_labelled(tmp_path, *sample), tmp_path / "run"
    out.mkdir()
    options = [
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--hold-out",
        "1",
        "--base",
        "2",
        "--depth",
        "2",
        "--crop",
        "32",
    ]
    with locked_folder(out):
        failed = forked.run("isbi-train", "fit", "--data", data, "--out", out, *options)
    assert failed.returncode == 8
    assert failed.stderr.startswith(f"isbi-train: {out}: another run")
    assert failed.stderr.count("\n") == 1
    assert os.listdir(out) == []
