"""The study of networks, end to end with two tiny ones: trained, exported, scored, timed, stored, tabled and drawn."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tifffile
import torch
from drawn import synthetic_stack
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report.plots import digest, is_current, write
from benchmarks.report.study import PICTURE, Point, frontier, points, released_network, study_table
from benchmarks.store import newest, store
from benchmarks.studies.networks import __main__ as study_main
from benchmarks.studies.networks.candidates import NETWORKS, finished_run, read_study, train, training_seconds
from isbi_infer.errors import ModelError, UsageError
from isbi_train.data.labelled import load_labelled
from isbi_train.networks.checkpoint import load_checkpoint

TINY = """
recipe = "released"

[settings.train]
epochs = 1
crop = 32
batch = 2
hold_out = 1
calibrate = false
precision = "float32"
device = "cpu"

[networks.plain]
base = 4
depth = 1
unshuffle = 2

[networks.separable]
base = 4
depth = 1
unshuffle = 1
separable = true

[networks.never]
base = 4
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, volume_ZYX in zip(("volume", "labels"), synthetic_stack(4, 64, 64), strict=True):
        tifffile.imwrite(folder / f"train-{name}.tif", volume_ZYX, photometric="minisblack")
    (folder / "networks.toml").write_text(TINY)
    return folder


@pytest.fixture(scope="module")
def out(data, tmp_path_factory):
    """The folder of the two trainings; not to be changed."""
    folder, stack = tmp_path_factory.mktemp("study"), load_labelled(data)
    for candidate in read_study(data / "networks.toml", data, ["plain", "separable"]).candidates:
        assert train(candidate, stack, folder / candidate.name)
    return folder


@pytest.fixture(scope="module")
def stored(data, out, proved_on_onnxruntime_alone, tmp_path_factory):
    """What the command stores of the two; the third is not trained."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch, proved_on_onnxruntime_alone():
        patch.setattr(study_main, "store", partial(store, folder=results))
        options = ["--data", data, "--out", out, "--networks", data / "networks.toml", "--rounds", 2]
        study_main.main([*map(str, options), "--measure", "--store"])
    return newest(results)


def test_every_candidate_is_the_released_recipe_with_another_network():
    study = read_study(NETWORKS, Path("data"))
    first = study.candidates[0].settings
    assert study.recipe == "released"
    assert len({json.dumps(c.settings.network.to_plain()) for c in study.candidates}) == len(study.candidates)
    for candidate in study.candidates:
        network, name = candidate.settings.network, candidate.name
        parts = [f"b{network.base}", f"u{network.unshuffle}", f"d{network.depth}"]
        parts += [f"w{network.widest}"] * (network.widest != 1024) + ["sep"] * network.separable
        assert name == "-".join(parts)
        assert (candidate.settings.train, candidate.settings.augment) == (first.train, first.augment)


def test_one_candidate_is_the_released_network():
    networks = [c.settings.network.to_plain() for c in read_study(NETWORKS, Path("data")).candidates]
    assert sum(released_network().items() <= network.items() for network in networks) == 1


def test_a_finished_training_is_taken_as_it_is(data, out, tmp_path):
    stack, study = load_labelled(data), read_study(data / "networks.toml", data, ["plain"])
    (candidate,) = study.candidates
    shutil.copytree(out / "plain", tmp_path / "plain")
    before = {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()}
    assert not train(candidate, stack, tmp_path / "plain")
    assert {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()} == before


def test_a_training_that_was_stopped_goes_on(data, out, tmp_path):
    stack, study = load_labelled(data), read_study(data / "networks.toml", data, ["plain"])
    (candidate,) = study.candidates
    (tmp_path / "plain").mkdir()
    shutil.copy(out / "plain" / "progress.pth", tmp_path / "plain")
    assert finished_run(candidate, stack, tmp_path / "plain") is None
    longer = replace(candidate.settings, train=replace(candidate.settings.train, epochs=2))
    with pytest.raises(UsageError, match=r"epochs: 1 -> 2"):
        finished_run(replace(candidate, settings=longer), stack, out / "plain")


def test_a_run_of_another_network_is_not_mistaken_for_a_candidate(data, out, tmp_path):
    (candidate,) = read_study(data / "networks.toml", data, ["plain"]).candidates
    with pytest.raises(
        UsageError, match=r"model\.pth: is of another run than the study's.*separable: True -> False"
    ):
        finished_run(candidate, load_labelled(data), out / "separable")


@pytest.mark.more
def test_what_is_stored_describes_scores_and_times_every_file(stored, out):
    measured = stored["networks-study"]["measured"]
    assert measured["left_out"] == ["never"]
    assert list(measured["networks"]) == ["plain", "separable"]
    for name, network in measured["networks"].items():
        checkpoint = load_checkpoint(out / name / "model.pth")
        parameters = sum(p.numel() for p in checkpoint.load_network().parameters())
        assert (network["parameters"], network["epochs"]) == (parameters, 1)
        assert network["training_s"] == json.loads((out / name / "history.json").read_text())[-1]["seconds"]
        assert set(network["files"]) | set(network["refused"]) == {"fp32", "int8"}
        fp32 = network["files"]["fp32"]
        # the weights that were validated, through another runtime
        assert fp32["v_rand_thin"] == pytest.approx(checkpoint.scores["v_rand_thin"], abs=0.02)
        assert fp32["bytes"] == (out / name / "model.onnx").stat().st_size
        assert fp32["gflop"] > 0
        for cores in ("one_core", "all_cores"):
            assert len(measured[cores]["contenders"][f"{name} fp32"]["wall_s"]) == 2
    assert stored["networks-study"]["settings"]["sections"] == "3:4"


def test_the_table_has_a_row_for_every_file_and_names_what_has_none(stored):
    text = "\n".join(study_table(stored))
    for point in points(stored["networks-study"]["measured"]):
        assert f"| {point.name} | {point.precision} |" in text
        assert f"{point.v_rand:.4f}" in text
    assert "Not trained: never." in text
    assert "V_rand, the frontier: " in text
    assert list(study_table({})) == ["Not measured yet."]


def test_the_picture_knows_what_it_was_drawn_from(stored, tmp_path):
    data, path = PICTURE.data(stored), tmp_path / "bench-networks.png"
    write(PICTURE, data, path)
    assert is_current(path, data)
    data["points"][0]["ms"] += 1
    assert not is_current(path, data)
    assert digest(data) != digest(PICTURE.data(stored))


def point(ms, v_rand):
    sizes = {"gflop": 1.0, "parameters": 1, "bytes": 1, "training_s": 1.0, "released": False}
    return Point(name="n", precision="fp32", v_rand=v_rand, v_info=0.0, ms=ms, ms_all_cores=ms, **sizes)


@given(st.lists(st.builds(point, st.integers(1, 9).map(float), st.integers(1, 9).map(float)), min_size=1))
def test_the_frontier_is_what_nothing_beats(found):
    front = frontier(found, "v_rand")
    assert front
    for one in found:
        beaten = any(
            other.ms <= one.ms
            and other.v_rand >= one.v_rand
            and (other.ms, other.v_rand) != (one.ms, one.v_rand)
            for other in found
        )
        assert (one in front) != beaten
    scores = [p.v_rand for p in front]
    assert scores == sorted(scores)


def test_a_resumed_trainings_seconds_are_added_up(tmp_path):
    seconds = [10.0, 20.0, 5.0, 15.0, 25.0]
    (tmp_path / "history.json").write_text(json.dumps([{"seconds": s} for s in seconds]))
    assert training_seconds(tmp_path) == 45.0
    (tmp_path / "history.json").write_text("[{}]")
    with pytest.raises(ModelError, match="no readable history"):
        training_seconds(tmp_path)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--data", "nowhere"], "nowhere: is not there; expected a folder with train-volume.tif"),
        (["--only", "b99"], "no network b99; choose from b8-u1-d4"),
        (["--networks", "nowhere.toml"], "nowhere.toml: cannot read the settings"),
        (["--rounds", "0"], "--rounds 0 is below 1"),
    ],
)
def test_what_cannot_be_done_is_one_line(options, named, capsys):
    with pytest.raises(SystemExit) as raised:
        study_main.main(options)
    assert raised.value.code in (2, 4)
    message = capsys.readouterr().err
    assert named in message
    assert message.count("\n") == 1


def test_measuring_without_a_finished_training_says_so(data, tmp_path, capsys):
    options = ["--data", data, "--networks", data / "networks.toml", "--out", tmp_path, "--measure"]
    with pytest.raises(SystemExit):
        study_main.main([str(option) for option in options])
    assert "no training of the study is finished there; leave --measure out" in capsys.readouterr().err
