"""Baselines on our folds: the same steps as our own training, as much CPU time, finished blocks not trained again."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import synthetic_stack
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.studies.baselines.__main__ import NAMES, RESULT, SUMMARY, WEIGHTS, compare, main
from benchmarks.studies.baselines.networks import OURS, Network, networks, recipe_network, size
from benchmarks.studies.baselines.plan import FOLDS, LAST, PLAN, Plan, held_out_blocks, make_plan, settings
from benchmarks.studies.baselines.training import Split, same_share, scored, train_and_score
from isbi_infer.errors import UsageError
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.data.labelled import LabelledStack
from isbi_train.networks.network import UNet
from isbi_train.training.train import fit

TINY = NetworkConfig(base=2, depth=2, unshuffle=2, dropout=0.1)
TRAIN = TrainConfig(
    epochs=4, crop=32, batch=2, average=0.8, hold_out=1, border_weight=8.0, precision="float32", device="cpu"
)
AUGMENT = AugmentConfig()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def stack():
    image_ZYX, label_ZYX = synthetic_stack(5, 64, 64)
    return LabelledStack(image_ZYX, label_ZYX > 0, 4.0)


@pytest.fixture
def tiny(monkeypatch):
    """Let a tiny network stand in for the baseline's and for ours, which would take minutes."""
    known = {name: Network(name, lambda: UNet(TINY), TINY.stride) for name in ("basicunet", OURS)}
    monkeypatch.setattr("benchmarks.studies.baselines.plan.networks", lambda: known)


def plan_of(stack, folder, **changes):
    asked = {"augment": AUGMENT, "train": TRAIN, "loss": "weighted", "minutes": None, **changes}
    return make_plan(stack, folder, "basicunet", **asked)


@pytest.mark.parametrize("name", ["basicunet", "unet", "dynunet"])
def test_a_baseline_maps_a_section_to_logits_of_its_shape(name):
    pytest.importorskip("monai")
    network = networks()[name]
    side = 2 * network.stride
    with torch.inference_mode():
        assert network.build().eval()(torch.zeros(2, 1, side, side)).shape == (2, 1, side, side)


def test_the_command_offers_every_network():
    assert set(NAMES) == set(networks())


def test_operations_grow_with_the_area_and_parameters_do_not():
    small, large = (size(UNet(recipe_network("released")), side) for side in (64, 128))
    assert large["gflop"] == pytest.approx(4 * small["gflop"])
    assert large["parameters"] == small["parameters"]


def test_a_convolution_counts_a_multiplication_and_an_addition_per_weight_and_pixel():
    convolution = torch.nn.Conv2d(1, 8, 3, padding=1)
    assert size(convolution, 64) == {"parameters": 8 * 9 + 8, "gflop": 2 * 8 * 9 * 64**2 / 1e9}


def test_our_network_trained_here_is_what_fit_makes_of_it(stack, tmp_path):
    def keep(entry):
        history.append(entry)

    history = []
    fit(stack, tmp_path / "run", network=TINY, augment=AUGMENT, train=TRAIN, report=keep)
    split = Split.of(stack, TRAIN.held_out(len(stack)), AUGMENT, TRAIN)
    result, _ = train_and_score(split, lambda: UNet(TINY), TINY.stride, split.our_steps)
    for score in ("loss", "v_rand_thin", "v_info_thin"):
        assert result[score] == history[-1][score]


def test_images_laid_out_plane_by_plane_train_alike(stack):
    split = Split.of(stack, slice(0, 1), AUGMENT, TRAIN)
    losses = {
        planar: train_and_score(split, lambda: UNet(TINY), TINY.stride, 3, planar=planar)[0]["loss"]
        for planar in (False, True)
    }
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)


def test_what_is_held_out_is_never_trained_on(stack):
    split = Split.of(stack, slice(1, 3), AUGMENT, TRAIN)
    assert len(split.sections) == 3
    assert len(split.held_out) == 2
    trained = split.sections.maps_ZKYX[:, 0].numpy() > 0
    np.testing.assert_array_equal(trained, stack.cell_ZYX[[0, 3, 4]])
    np.testing.assert_array_equal(split.held_out.image_ZYX, stack.image_ZYX[1:3])


class Scaled(torch.nn.Module):
    """Grey values for logits, on some scale."""

    def __init__(self, factor, offset):
        super().__init__()
        self.factor, self.offset = torch.nn.Parameter(torch.tensor(factor)), offset

    def forward(self, image_NCYX):
        return self.factor * image_NCYX + self.offset


def test_calibrated_scores_do_not_depend_on_the_scale_of_the_logits(stack):
    split = Split.of(stack, slice(0, 2), AUGMENT, replace(TRAIN, calibrate=True))
    plain, far = scored(Scaled(1.0, 0.0), split, 1), scored(Scaled(3.0, -2.0), split, 1)
    assert far["loss"] == pytest.approx(plain["loss"], abs=1e-5)
    assert far["v_rand_thin"] == pytest.approx(plain["v_rand_thin"], abs=1e-3)
    calibration = far["calibration"]
    assert calibration["factor"] * 3 == pytest.approx(plain["calibration"]["factor"], rel=1e-3)
    assert far["loss"] < calibration["before"]["loss"]
    assert calibration["before"] == scored(Scaled(3.0, -2.0), replace(split, train=TRAIN), 1)


@given(average=st.floats(0, 0.9999), ours=st.integers(1, 5000), theirs=st.integers(1, 5000))
def test_the_average_reaches_over_the_same_share_of_any_run(average, ours, theirs):
    decay = same_share(average, ours, theirs)
    assert 0 <= decay < 1
    if decay > 0:
        assert (1 - decay) * theirs == pytest.approx((1 - average) * ours, rel=1e-6)
    assert same_share(average, ours, ours) == pytest.approx(average)


def test_steps_are_those_that_take_our_cpu_time_or_what_is_asked_for():
    record = {"cpu_s_per_step": {OURS: 0.2, "basicunet": 0.5}, "minutes": None}
    plan = Plan("basicunet", Network("", lambda: UNet(TINY), 8), AUGMENT, TRAIN, record)
    assert plan.steps(2500) == 1000
    assert replace(plan, record={**record, "minutes": 1.0}).steps(2500) == 120
    assert replace(plan, record={**record, "minutes": 1e-9}).steps(2500) == 1


def test_the_loss_is_our_recipes_unless_plain_is_asked_for():
    _, weighted = settings("weighted")
    _, plain = settings("plain")
    assert (weighted.membrane_weight, weighted.border_weight) == (3.0, 8.0)
    assert plain == replace(weighted, membrane_weight=1.0, border_weight=0.0)


def test_blocks_are_the_last_sections_and_five_of_neighbours(stack):
    blocks = held_out_blocks(30, TrainConfig())
    assert blocks.pop(LAST) == slice(25, 30)
    assert blocks == {f"fold-{k}": slice(6 * k, 6 * k + 6) for k in range(FOLDS)}


def test_finished_blocks_are_not_trained_again_and_all_are_summed_up(stack, tiny, tmp_path, monkeypatch):
    plan = plan_of(stack, tmp_path)
    assert set(plan.record["cpu_s_per_step"]) == {"basicunet", OURS}
    first = compare(stack, tmp_path, plan, ["fold-1"])
    assert (first["last"], len(first["per_fold"]), first["spread"]["loss"]) == (None, 1, None)
    monkeypatch.setattr("benchmarks.studies.baselines.plan.cpu_per_step", None)  # measured once and for all
    again = plan_of(stack, tmp_path)
    assert again.record == plan.record
    trained = []

    def counted(split, *arguments, **options):
        trained.append(len(split.held_out))
        return train_and_score(split, *arguments, **options)

    monkeypatch.setattr("benchmarks.studies.baselines.training.train_and_score", counted)
    found = compare(stack, tmp_path, again)
    assert len(trained) == FOLDS  # the last sections and four of five folds
    assert json.loads((tmp_path / SUMMARY).read_text()) == found
    assert [entry["sections"] for entry in found["per_fold"]] == ["0:1", "1:2", "2:3", "3:4", "4:5"]
    assert found["per_fold"][1] == first["per_fold"][0]
    assert found["last"]["sections"] == "4:5"
    losses = [entry["loss"] for entry in found["per_fold"]]
    assert found["mean"]["loss"] == pytest.approx(np.mean(losses))
    assert found["spread"]["loss"] == pytest.approx(np.std(losses, ddof=1))


def test_the_weights_that_are_kept_are_those_that_were_scored(stack, tiny, tmp_path):
    found = compare(stack, tmp_path, plan_of(stack, tmp_path), ["fold-2"])
    network = UNet(TINY).eval()
    network.load_state_dict(torch.load(tmp_path / "fold-2" / WEIGHTS, weights_only=True))
    split = Split.of(stack, slice(2, 3), AUGMENT, TRAIN)
    stored = json.loads((tmp_path / "fold-2" / RESULT).read_text())
    expected = scored(
        network, split, TINY.stride
    )  # whose weights lie otherwise in memory, so sums round otherwise
    assert {score: stored[score] for score in expected} == pytest.approx(expected, rel=1e-5)
    assert stored["steps"] == plan_of(stack, tmp_path).steps(split.our_steps)
    assert found["per_fold"] == [{"fold": 2, **stored}]


def test_a_plan_of_other_settings_is_refused_and_names_them(stack, tiny, tmp_path):
    plan_of(stack, tmp_path)
    before = (tmp_path / PLAN).read_bytes()
    with pytest.raises(UsageError, match=r"plan\.json: is of another comparison \(loss, train\)"):
        plan_of(stack, tmp_path, loss="plain", train=replace(TRAIN, border_weight=0.0))
    assert (tmp_path / PLAN).read_bytes() == before


def test_a_block_that_is_not_there_is_refused(stack, tiny, tmp_path):
    with pytest.raises(UsageError, match=r"nothing is held out as fold-5; choose from last, fold-0"):
        compare(stack, tmp_path, plan_of(stack, tmp_path), ["fold-5"])


def test_missing_data_is_one_line_and_an_exit_code(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 4
    assert "train-volume.tif" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_loads_no_torch():
    code = (
        "import sys; from benchmarks.studies.baselines.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True).returncode == 0
