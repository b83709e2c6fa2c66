"""The page of recipes and baselines: its table, its picture, and what the networks cost."""

import json

import numpy as np
import pytest
import torch
from drawn import synthetic_stack
from matplotlib.image import imread

from benchmarks.report.baselines import BASELINES, NOT_TRAINED, recipes_table, released_row
from benchmarks.report.cells import MEASURED
from benchmarks.studies.baselines.costs import _forward, training_cost
from benchmarks.studies.baselines.networks import Network
from benchmarks.studies.baselines.picture import Panel, baseline_panels, draw, main
from isbi_infer.errors import UsageError
from isbi_models import released_models
from isbi_train.config import NetworkConfig
from isbi_train.networks.network import UNet

TINY = NetworkConfig(base=2, depth=2, unshuffle=2, dropout=0.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def record(name, measured):
    return {
        "name": name,
        "file": f"{name}.json",
        "machine": {"cpu": "a CPU", "cores": 2, "memory_gib": 8},
        "versions": {"torch": "2"},
        "measured_at": "2026-01-02T03:04:05",
        "measured": measured,
    }


def baseline(**changes):
    entry = {"cpu_s": 600.0, "steps": 500, "v_rand_thin": 0.98, "v_info_thin": 0.97}
    return {
        "network": "unet",
        "title": "a baseline",
        "loss": "weighted",
        "parameters": 1_600_000,
        "gflop": 19.14,
        "last": entry,
        "folds": 2,
        "per_fold": [entry, entry],
        "mean": {"v_rand_thin": 0.955, "v_info_thin": 0.966},
        "spread": {"v_rand_thin": 0.01, "v_info_thin": 0.02},
        **changes,
    }


def cells(stored, title):
    (line,) = (line for line in recipes_table(stored) if line.startswith(f"| {title}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


COSTS = {
    "networks": {
        name: {"parameters": 31_000_000, "gflop": 384.7, "cpu_s": 1.234}
        for name in ("original", "unet-64", "released", "unet")
    },
    "training": {
        name: {"steps": 3000, "cpu_s_per_step": 6.0} for name in ("original", "unet-64", "released")
    },
}


def test_what_was_not_trained_says_so_and_what_its_training_would_take():
    row = cells({"network-costs": record("network-costs", COSTS)}, "recipe `unet-64`")
    assert row[1:5] == ["31.0 M", "384.7", "1,234", "300 (3,000)"]
    assert row[5:] == [NOT_TRAINED, NOT_TRAINED, "-", "-"]


def test_a_baseline_is_shown_with_what_it_took_and_its_scores():
    stored = {
        "network-costs": record("network-costs", COSTS),
        f"{BASELINES}unet": record("baseline-unet", baseline()),
    }
    row = cells(stored, "a baseline")
    assert row[1:5] == ["1.6 M", "19.1", "1,234", "10 (500)"]
    assert row[5:] == ["0.9800", "0.9700", "0.9550 +- 0.0100", "0.9660 +- 0.0200"]
    assert any("baseline-unet.json" in line for line in recipes_table(stored))


def test_a_baseline_whose_folds_are_not_all_there_has_no_mean_and_plain_loss_is_named():
    half = baseline(per_fold=[baseline()["last"]], loss="plain", last=None)
    row = cells(
        {f"{BASELINES}unet-plain": record("baseline-unet-plain", half)}, "a baseline, plain cross-entropy"
    )
    assert row[3:] == ["-", "10 (500)", "-", "-", "-", "-"]


def test_the_released_model_is_read_off_its_own_files():
    model = released_models()[MEASURED]
    row = released_row(model, {})
    found = json.loads(model.path.with_name(f"{model.name}.folds.json").read_text())
    assert row.folds[0] == f"{found['mean']['v_rand_thin']:.4f} +- {found['spread']['v_rand_thin']:.4f}"
    card = model.path.with_name("CARD.md").read_text(encoding="utf-8")
    assert all(score in card for score in row.last)
    assert f"folds of {found['per_fold'][0]['epoch']} epochs" in row.title


def test_nothing_stored_leaves_a_table_that_says_so():
    assert "| the baselines | not measured yet |  |  |  |  |  |  |  |" in list(recipes_table({}))


def test_a_recipes_training_is_timed_and_its_steps_are_those_of_25_sections():
    found = training_cost("released", 1, crop=64, batch=1)
    assert found["steps"] == 100 * 25
    assert 0 < found["cpu_s_per_step"] < 10


def test_a_network_is_timed_as_it_segments():
    network = UNet(TINY)
    image_NCYX = torch.rand(1, 1, 32, 32)
    found_NCYX = _forward(network, image_NCYX)()
    assert not network.training
    assert torch.equal(found_NCYX, network(image_NCYX).detach())


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder as `python -m benchmarks.studies.baselines` leaves it, of a tiny network."""
    known = {"basicunet": Network("a tiny baseline", lambda: UNet(TINY), TINY.stride)}
    monkeypatch.setattr("benchmarks.studies.baselines.networks.networks", lambda: known)
    torch.manual_seed(1)
    (tmp_path / "last").mkdir()
    torch.save(UNet(TINY).state_dict(), tmp_path / "last" / "weights.pth")
    (tmp_path / "last" / "result.json").write_text('{"calibration": {"factor": 2.0, "offset": 0.5}}')
    (tmp_path / "plan.json").write_text('{"network": "basicunet"}')
    return tmp_path


def test_a_baselines_probabilities_are_those_of_its_calibrated_logits(run):
    image_ZYX, label_ZYX = synthetic_stack(1, 64, 64)
    (panel,) = baseline_panels([run], image_ZYX[0], label_ZYX[0] > 0)
    torch.manual_seed(1)
    pixels_YX = (image_ZYX[0] - image_ZYX[0].mean()) / image_ZYX[0].std()
    with torch.inference_mode():
        logits_NCYX = UNet(TINY).eval()(torch.from_numpy(pixels_YX.astype(np.float32))[None, None])
    np.testing.assert_allclose(
        panel.probability_YX, torch.sigmoid(2 * logits_NCYX + 0.5)[0, 0].numpy(), atol=1e-4
    )
    assert panel.title == "a tiny baseline"


def test_the_picture_has_a_row_for_the_section_and_one_for_each_network(run, tmp_path, capsys):
    heights = []
    for count in (0, 1, 2):
        out = tmp_path / f"{count}.png"
        main([*[str(run)] * count, "--out", str(out), "--side", "64"])
        heights.append(imread(out).shape[0])
    rows = np.diff([0, *heights])
    assert rows[0] == pytest.approx(2 * rows[1], abs=4)
    assert "isbi2012" in capsys.readouterr().out


def test_errors_are_painted_where_they_are(tmp_path):
    image_ZYX, label_ZYX = synthetic_stack(1, 64, 64)
    cell_YX = label_ZYX[0] > 0
    right = Panel("right", cell_YX.astype(np.float32), "")
    wrong = Panel("wrong", 1 - cell_YX.astype(np.float32), "")
    for panel in (right, wrong):
        draw(image_ZYX[0], cell_YX, [panel], tmp_path / f"{panel.title}.png")
    coloured = {
        name: np.ptp(imread(tmp_path / f"{name}.png")[-200:, -200:, :3], axis=2).mean()
        for name in ("right", "wrong")
    }
    assert coloured["right"] < 0.01
    assert coloured["wrong"] > 0.3


def test_a_folder_without_weights_is_refused_before_anything_is_written(tmp_path, capsys):
    with pytest.raises(UsageError, match=r"no last/weights\.pth in it"):
        baseline_panels([tmp_path], None, None)
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path / "picture.gif")])
    assert stopped.value.code == 2
    assert not list(tmp_path.iterdir())
