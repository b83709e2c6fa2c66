"""Training: the schedule, the loss, what is kept, and that a stopped run goes on as if it had not been stopped."""

import json
import math
import os
import re
import signal
import threading
import time
from dataclasses import replace

import forked
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isbi_infer.errors import DependencyError, ImageError, Interrupted, ModelError, OutputError, UsageError
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.data.labelled import LabelledStack, load_labelled
from isbi_train.networks.checkpoint import load_checkpoint
from isbi_train.networks.network import UNet
from isbi_train.networks.whole import predict_whole
from isbi_train.training import train as training
from isbi_train.training.batches import bring_sections, draw_batch
from isbi_train.training.device import choose_device
from isbi_train.training.state import TrainingState
from isbi_train.training.train import averaging_decay, fit, learning_rate, take_step
from isbi_train.training.validate import check_scorable


def weights(folder, name="model.pth"):
    return load_checkpoint(folder / name).state_dict


def history(folder):
    """Give what was measured at each validation, without the time it took."""
    entries = json.loads((folder / "history.json").read_text())
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


def assert_equal_runs(one, other):
    assert history(one) == history(other)
    for name in ("model.pth", "best.pth", "progress.pth"):
        a, b = load_checkpoint(one / name), load_checkpoint(other / name)
        assert (a.epoch, a.scores) == (b.epoch, b.scores)
        assert a.state_dict.keys() == b.state_dict.keys()
        assert all(torch.equal(weight, b.state_dict[key]) for key, weight in a.state_dict.items())


class LeftOffError(Exception):
    """Stands for whatever ends a run."""


def leave_after(epoch):
    def report(entry):
        if entry["epoch"] == epoch:
            raise LeftOffError

    return report


@given(total=st.integers(2, 2000), warmup=st.integers(0, 300), peak=st.floats(1e-5, 1.0))
def test_the_rate_rises_linearly_to_its_peak_and_falls_to_zero(total, warmup, peak):
    config = TrainConfig(learning_rate=peak, warmup_steps=warmup)
    rates = np.array([learning_rate(step, total, config) for step in range(total)])
    warmup = min(warmup, total // 5)
    np.testing.assert_allclose(rates[:warmup], peak * np.arange(1, warmup + 1) / max(1, warmup))
    assert rates[warmup] == peak
    assert (rates <= peak * (1 + 1e-12)).all()
    assert (np.diff(rates[warmup:]) < 0).all()
    assert rates[-1] > 0
    assert learning_rate(total, total, config) == pytest.approx(0, abs=1e-12)


def test_the_rate_is_half_its_peak_halfway_down():
    config = TrainConfig(learning_rate=0.2, warmup_steps=100)
    assert learning_rate(600, 1100, config) == pytest.approx(0.1)
    assert learning_rate(49, 1100, config) == pytest.approx(0.1)


@given(st.integers(2, 10**6), st.floats(0, 1, exclude_max=True), st.floats(0, 0.2))
def test_the_first_weights_are_less_than_a_hundredth_of_the_average_of_a_run_of_any_length(
    total, average, share
):
    decay = averaging_decay(total, TrainConfig(average=average, average_share=share))
    assert 0 <= decay < 1
    assert share or decay <= average
    assert decay ** (total - 1) < math.exp(-5)


@pytest.mark.parametrize("total", [1, 2, 7, 500])
def test_the_average_of_a_run_forgets_its_first_weights(train_config, total):
    train, model = train_config(average=0.998), torch.nn.Linear(1, 1, bias=False).double()
    state = TrainingState.start(model, train, choose_device(train))
    state.set_averaging_decay(averaging_decay(total, train))
    for step in range(total):
        torch.nn.init.constant_(model.weight, float(step == 0))
        state.average.update_parameters(model)
    share = state.average.module.weight.item()
    assert share == 1 if total == 1 else share < math.exp(-5)


@pytest.mark.parametrize("total", [100, 1000, 9000])
def test_an_average_by_share_reaches_equally_far_back_in_runs_of_every_length(total):
    decay = averaging_decay(total, TrainConfig(average=0.5, average_share=0.1))
    assert 1 / (1 - decay) == pytest.approx(0.1 * total)


@pytest.mark.parametrize(("total", "average"), [(2500, 0.998), (9000, 0.998), (840, 0.992), (25_936, 0.0)])
def test_the_recipes_at_their_full_length_average_as_they_say(total, average):
    assert averaging_decay(total, TrainConfig(average=average)) == average


@pytest.mark.parametrize("seed", range(3))
def test_steps_on_one_batch_lower_its_loss(labelled, network, train_config, seed):
    train = train_config(seed=seed, learning_rate=1e-2)
    sections = bring_sections(labelled, train, None, torch.device("cpu"))
    batch = draw_batch(sections, AugmentConfig.none(), train, step=0)
    torch.manual_seed(seed)
    state = TrainingState.start(UNet(replace(network, dropout=0.0)), train, choose_device(train))
    losses = [take_step(state, *batch, train, sections.weight_scale).item() for _ in range(60)]
    assert losses[-1] < 0.9 * losses[0]


def test_a_run_begun_by_a_version_that_drew_other_crops_is_not_resumed(train, tmp_path):
    train(tmp_path, epochs=1)
    plain = torch.load(tmp_path / "progress.pth", weights_only=True)
    plain["version"] = 4
    del plain["train"]["affinity_weight"], plain["network"]["neighbours"], plain["augment"]["gap_probability"]
    torch.save(plain, tmp_path / "progress.pth")
    before = (tmp_path / "progress.pth").read_bytes()
    with pytest.raises(
        UsageError, match=r"drew other crops; another folder starts a new one, with --init model\.pth"
    ):
        train(tmp_path, epochs=1, resume=True)
    assert (tmp_path / "progress.pth").read_bytes() == before


def test_one_step_changes_the_weights_and_not_their_average(labelled, network, train_config):
    train = train_config()
    sections = bring_sections(labelled, train, None, torch.device("cpu"))
    state = TrainingState.start(UNet(network), train, choose_device(train))
    first = state.model.head.weight.detach().clone()
    take_step(state, *draw_batch(sections, AugmentConfig(), train, step=0), train, sections.weight_scale)
    assert not torch.equal(state.model.head.weight, first)
    assert torch.equal(state.average.module.head.weight, first)


def test_a_run_leaves_models_progress_and_history(trained):
    assert sorted(os.listdir(trained)) == [
        "best.pth",
        "history.csv",
        "history.json",
        "model.pth",
        "progress.previous.pth",
        "progress.pth",
        "settings.toml",
    ]
    entries = history(trained)
    assert [entry["epoch"] for entry in entries] == [1, 2, 3, 4]
    model, best = (load_checkpoint(trained / name) for name in ("model.pth", "best.pth"))
    assert model.epoch == 4
    assert model.scores == {
        "sections": "3:4",
        "threshold": model.scores["threshold"],
        **{key: entries[-1][key] for key in ("loss", "v_rand_thin", "v_info_thin")},
    }
    assert 0 < model.scores["threshold"] < 1
    assert best.scores["v_rand_thin"] == max(entry["v_rand_thin"] for entry in entries)
    assert not model.progress
    assert not best.progress


def test_checkpoints_say_what_they_were_trained_on(trained, labelled):
    for name in ("model.pth", "best.pth", "progress.pth"):
        data = load_checkpoint(trained / name).data
        expected = {"sections": 4, "pixel_size_nm": 4.0, "normalisation": "section-robust"}
        assert data == {"sha256": labelled.sha256(), **expected}


def test_the_last_epoch_is_kept_also_where_no_checkpoint_is_due(train, tmp_path):
    train(tmp_path, epochs=3, checkpoint_epochs=2)
    assert [entry["epoch"] for entry in history(tmp_path)] == [2, 3]
    assert load_checkpoint(tmp_path / "model.pth").epoch == 3


def test_what_is_kept_is_the_average_and_not_the_last_step(trained):
    progress = load_checkpoint(trained / "progress.pth")
    averaged, last = progress.state_dict["head.weight"], progress.progress["model"]["head.weight"]
    assert not torch.equal(averaged, last)
    assert (averaged - last).norm() < 0.5 * averaged.norm()
    assert torch.equal(averaged, weights(trained)["head.weight"])


def test_the_same_settings_give_the_same_weights_and_another_seed_others(train, trained, tmp_path):
    train(tmp_path / "again")
    assert_equal_runs(tmp_path / "again", trained)
    train(tmp_path / "other", seed=5)
    assert not torch.equal(weights(tmp_path / "other")["head.weight"], weights(trained)["head.weight"])


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_run_resumed_between_epochs_equals_an_uninterrupted_one(train, trained, tmp_path, epoch):
    with pytest.raises(LeftOffError):
        train(tmp_path, report=leave_after(epoch))
    assert load_checkpoint(tmp_path / "progress.pth").epoch == epoch
    train(tmp_path, resume=True)
    assert_equal_runs(tmp_path, trained)


def test_a_run_stopped_by_sigterm_within_an_epoch_equals_an_uninterrupted_one(train, tmp_path, monkeypatch):
    settings = {"epochs": 2, "crop": 16, "batch": 1, "checkpoint_epochs": 2}  # 48 steps an epoch
    train(tmp_path / "whole", **settings)

    def step_and_stop(state, *arguments):
        if len(state.losses) == 40:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(state, *arguments)

    monkeypatch.setattr(training, "take_step", step_and_stop)
    with pytest.raises(Interrupted) as raised:
        train(tmp_path / "stopped", **settings)
    monkeypatch.undo()
    assert raised.value.exit_code == 143
    stopped = load_checkpoint(tmp_path / "stopped" / "progress.pth")
    assert len(stopped.progress["losses"]) == 41  # the step in hand is finished
    assert stopped.scores == {}
    train(tmp_path / "stopped", **settings, resume=True)
    assert_equal_runs(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize(
    ("steps", "epochs", "validated"),
    [
        pytest.param(3, 100, [2, 3], id="fewer steps than epochs"),
        pytest.param(10, 4, [2, 4], id="the last epoch is shorter"),
        pytest.param(9, 4, [2, 3], id="three epochs hold them all"),
        pytest.param(8, 4, [2, 4], id="epochs of one length"),
    ],
)
def test_a_run_takes_exactly_the_steps_asked_for_and_ends_validated(
    train, tmp_path, steps, epochs, validated
):
    train(tmp_path, steps=steps, epochs=epochs, checkpoint_epochs=2)
    progress = load_checkpoint(tmp_path / "progress.pth").progress
    assert {int(part["step"]) for part in progress["optimiser"]["state"].values()} == {steps}
    history = json.loads((tmp_path / "history.json").read_text())
    assert [entry["epoch"] for entry in history] == validated
    before = (tmp_path / "progress.pth").read_bytes()
    train(tmp_path, steps=steps, epochs=epochs, checkpoint_epochs=2, resume=True)
    assert (tmp_path / "progress.pth").read_bytes() == before


def test_a_run_stopped_in_a_shorter_last_epoch_equals_an_uninterrupted_one(train, tmp_path, monkeypatch):
    settings = {"epochs": 2, "steps": 11, "checkpoint_epochs": 1}  # epochs of 6 and 5
    train(tmp_path / "whole", **settings)

    def step_and_stop(state, *arguments):
        if state.epoch == 1 and len(state.losses) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(state, *arguments)

    monkeypatch.setattr(training, "take_step", step_and_stop)
    with pytest.raises(Interrupted):
        train(tmp_path / "stopped", **settings)
    monkeypatch.undo()
    train(tmp_path / "stopped", **settings, resume=True)
    assert_equal_runs(tmp_path / "stopped", tmp_path / "whole")


def test_signals_mean_what_they_meant_once_training_is_over(train, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(tmp_path, epochs=1)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_run_trains_in_a_thread_too(train, trained, tmp_path):
    thread = threading.Thread(target=train, args=(tmp_path,))
    thread.start()
    thread.join()
    assert_equal_runs(tmp_path, trained)


def test_a_save_that_is_cut_short_is_made_good_on_resuming(train, trained, tmp_path):
    def block(entry):
        if entry["epoch"] == 3:  # the last epoch's models will be written, its history and progress not
            (tmp_path / "history.json").unlink()
            (tmp_path / "history.json").mkdir()

    with pytest.raises(OutputError, match=r"history\.json"):
        train(tmp_path, report=block)
    assert load_checkpoint(tmp_path / "progress.pth").epoch == 3
    (tmp_path / "history.json").rmdir()
    train(tmp_path, resume=True)
    assert_equal_runs(tmp_path, trained)


def test_resuming_a_finished_run_changes_nothing(train, tmp_path):
    train(tmp_path, epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert train(tmp_path, epochs=1, resume=True) == tmp_path / "model.pth"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_resuming_where_there_is_nothing_starts_and_says_so(train, trained, tmp_path, caplog):
    train(tmp_path, resume=True)
    assert f"{tmp_path}: no progress.pth to resume from" in caplog.text
    assert_equal_runs(tmp_path, trained)


@pytest.fixture
def stopped(train, tmp_path):
    """The folder of a run stopped after its first epoch."""
    with pytest.raises(LeftOffError):
        train(tmp_path, report=leave_after(1))
    return tmp_path


def test_a_run_is_not_resumed_with_other_settings_and_they_are_all_named(train, stopped):
    before = (stopped / "progress.pth").read_bytes()
    with pytest.raises(UsageError, match=r"cannot resume.*batch: 2 -> 3; learning_rate: 0\.005 -> 0\.1$"):
        train(stopped, resume=True, learning_rate=0.1, batch=3)
    assert (stopped / "progress.pth").read_bytes() == before


def test_a_run_is_not_resumed_with_another_network(labelled, stopped, train_config):
    settings = {"network": NetworkConfig(base=4, depth=2), "augment": AugmentConfig(noise=0.1)}
    with pytest.raises(UsageError, match=r"base: 2 -> 4; noise: 0\.3 -> 0\.1$"):
        fit(labelled, stopped, **settings, train=train_config(), resume=True)


def test_a_run_is_not_resumed_on_other_data(train, stopped, labelled):
    other = LabelledStack(labelled.image_ZYX + np.uint8(1), labelled.cell_ZYX, labelled.pixel_size_nm)
    with pytest.raises(UsageError, match="sha256"):
        train(stopped, stack=other, resume=True)


@pytest.mark.parametrize("before", ["cpu in fp32", "cuda in bf16"])
def test_a_run_that_goes_on_on_another_kind_of_device_says_so(train, stopped, caplog, before):
    plain = torch.load(stopped / "progress.pth", weights_only=True)
    assert plain["progress"]["device"] == "cpu in fp32"
    plain["progress"]["device"] = before
    torch.save(plain, stopped / "progress.pth")
    train(stopped, resume=True)
    assert ("was trained on cuda in bf16 until now and goes on on cpu in fp32" in caplog.text) == (
        before == "cuda in bf16"
    )


def test_a_run_begun_by_a_version_that_knew_its_data_otherwise_says_that(train, stopped):
    plain = torch.load(stopped / "progress.pth", weights_only=True)
    plain["version"] = 7
    plain["data"]["sha256"] = {**plain["data"]["sha256"], "images": "0" * 64}
    torch.save(plain, stopped / "progress.pth")
    with pytest.raises(
        UsageError, match=r"did not look at ids and resampled another way, or with other data"
    ):
        train(stopped, resume=True)


def test_a_damaged_progress_file_is_never_a_silent_fresh_start(train, stopped):
    path = stopped / "progress.pth"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"progress\.pth"):
        train(stopped, resume=True)


def test_weights_alone_are_nothing_to_continue_from(train, stopped):
    (stopped / "progress.pth").write_bytes((stopped / "model.pth").read_bytes())
    with pytest.raises(ModelError, match=r"progress\.pth: nothing to continue from"):
        train(stopped, resume=True)


def test_held_out_sections_never_influence_the_weights(train, trained, tmp_path, labelled):
    image_ZYX, cell_ZYX = labelled.image_ZYX.copy(), labelled.cell_ZYX.copy()
    image_ZYX[3:] = 255 - image_ZYX[3:]
    cell_ZYX[3:] = np.roll(cell_ZYX[3:], 20, axis=2)
    train(tmp_path, stack=LabelledStack(image_ZYX, cell_ZYX, 4.0))
    expected, found = weights(trained), weights(tmp_path)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for ours, theirs in zip(history(tmp_path), history(trained), strict=True):
        assert ours["training_loss"] == theirs["training_loss"]
        assert ours["loss"] != theirs["loss"]


@given(gain=st.floats(0.5, 3), offset=st.floats(-50, 50))
def test_held_out_sections_are_normalised_each_on_its_own(trained, labelled, gain, offset):
    model = load_checkpoint(trained / "model.pth").load_network()
    image_ZYX = labelled.image_ZYX[2:].astype(np.float32)
    other_ZYX = np.stack([image_ZYX[0], gain * image_ZYX[1] + offset])
    expected, found = (predict_whole(model, stack, stride=8, border=0) for stack in (image_ZYX, other_ZYX))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


@given(height=st.integers(9, 40), width=st.integers(9, 40), border=st.integers(0, 8))
def test_sections_of_any_size_are_segmented_whole(trained, labelled, height, width, border):
    model = load_checkpoint(trained / "model.pth").load_network()
    image_ZYX = labelled.image_ZYX[:1, :height, :width]
    logits_ZYX = predict_whole(model, image_ZYX, stride=8, border=border)
    assert logits_ZYX.shape == image_ZYX.shape
    assert np.isfinite(logits_ZYX).all()


def test_training_sections_do_influence_the_weights(train, trained, tmp_path, labelled):
    image_ZYX = labelled.image_ZYX.copy()
    image_ZYX[:3] = 255 - image_ZYX[:3]
    train(tmp_path, stack=LabelledStack(image_ZYX, labelled.cell_ZYX, 4.0))
    assert not torch.equal(weights(tmp_path)["head.weight"], weights(trained)["head.weight"])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("weight", [0.0, 0.3], ids=["membranes", "heads and gaps"])
def test_narrow_arithmetic_trains_to_finite_float32_weights(train, tmp_path, precision, weight):
    more = dict.fromkeys(("affinity_weight", "deep_weight", "cldice_weight"), weight)
    train(tmp_path, epochs=1, precision=precision, **more)
    for name, weight in weights(tmp_path).items():
        assert weight.isfinite().all(), name
        assert weight.dtype in (torch.float32, torch.int64), name


def test_auto_is_resolved_to_what_the_machine_has():
    device = choose_device(TrainConfig())
    assert device.torch_device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    asked = choose_device(TrainConfig(device="cpu", precision="float32"))
    assert (asked.torch_device.type, asked.dtype) == ("cpu", torch.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_cuda_that_is_asked_for_and_absent_is_an_error_before_anything_is_written(train, tmp_path):
    with pytest.raises(DependencyError, match=r"CUDA was asked for.*--device cpu"):
        train(tmp_path / "run", device="cuda")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("crop", "advice"), [(20, "try 16"), (8, "try 16"), (4, "try 16"), (39, "try 32")])
def test_a_crop_that_the_network_cannot_train_on_is_refused_with_advice(train, tmp_path, crop, advice):
    with pytest.raises(UsageError, match=f"crop {crop} .*{advice}"):
        train(tmp_path, crop=crop)


@pytest.mark.parametrize(("depth", "unshuffle"), [(1, 1), (1, 2), (2, 1)])
def test_the_smallest_crop_that_is_advised_trains(labelled, train_config, tmp_path, depth, unshuffle):
    network = NetworkConfig(base=1, depth=depth, unshuffle=unshuffle)
    settings = train_config(crop=max(8, 2 * network.stride), batch=1, epochs=1)
    small = LabelledStack(labelled.image_ZYX[:2, -16:, -16:], labelled.cell_ZYX[:2, -16:, -16:], None)
    assert fit(small, tmp_path, network=network, augment=AugmentConfig(), train=settings).exists()


def test_sections_smaller_than_the_crop_are_mirrored_out(train, tmp_path, labelled):
    small = LabelledStack(labelled.image_ZYX[:, -20:, -27:], labelled.cell_ZYX[:, -20:, -27:], 4.0)
    train(tmp_path, stack=small, epochs=1)
    assert math.isfinite(history(tmp_path)[0]["training_loss"])


def test_a_folder_that_cannot_be_written_is_found_before_training(train, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "taken" / "model.pth").mkdir(parents=True)
    for out in (tmp_path / "file" / "run", tmp_path / "file", tmp_path / "taken"):
        started = []
        with pytest.raises(OutputError, match=re.escape(str(out))):
            train(out, report=started.append)
        assert not started


def test_slips_without_neighbours_are_refused(labelled, network, train_config, tmp_path):
    slips = AugmentConfig(slip_probability=0.2)
    with pytest.raises(UsageError, match="this network sees none; add --neighbours"):
        fit(labelled, tmp_path / "run", network=network, augment=slips, train=train_config())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("validated", [0, 1], ids=["all", "those that are validated on"])
def test_held_out_labels_that_cannot_be_scored_are_refused_before_any_work(
    train, labelled, tmp_path, validated
):
    cell_ZYX = labelled.cell_ZYX.copy()
    cell_ZYX[2, 1:-1] = False  # the middle one of three
    stack, changes = replace(labelled, cell_ZYX=cell_ZYX), {"hold_out": 3, "validated_sections": validated}
    check_scorable(stack[1:], TrainConfig(hold_out=3))  # all three together
    if not validated:
        stack, changes = stack[[0, 1, 3, 2]], {"hold_out": 1}
    with pytest.raises(ImageError, match=r"^\d\d\.\d% of the labels of what is held out are membrane"):
        train(tmp_path / "run", stack=stack, **changes)
    assert not (tmp_path / "run").exists()


def test_sigterm_leaves_with_143_and_a_run_that_resumes(tmp_path, sample, write_labelled):
    data, out = write_labelled(tmp_path, *sample), tmp_path / "run"
    options = ["--data", data, "--out", out, "--base", "2", "--depth", "2", "--crop", "16", "--batch", "1"]
    options += ["--epochs", "40000", "--hold-out", "1", "--device", "cpu", "--precision", "fp32"]
    run = forked.begun("isbi-train", "fit", *options)
    while not (out / "progress.pth").exists() and run.process.is_alive():
        time.sleep(0.02)
    run.process.terminate()
    done = run.done()
    assert done.returncode == 143, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        f"isbi-train: stopped by SIGTERM; {out}: saved after step "
    )
    assert not [name for name in os.listdir(out) if ".tmp" in name]
    stopped = load_checkpoint(out / "progress.pth")
    assert 2 <= stopped.epoch < 40000

    entries = []
    with pytest.raises(LeftOffError):
        fit(
            load_labelled(data),
            out,
            network=stopped.network,
            augment=stopped.augment,
            train=stopped.train,
            resume=True,
            report=lambda entry: (entries.append(entry), leave_after(entry["epoch"])(entry)),
        )
    assert stopped.epoch < entries[0]["epoch"] <= stopped.epoch + 2
