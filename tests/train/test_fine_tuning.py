"""Runs that start from a released model or a file: network, pixel size and terms go along."""

from dataclasses import replace

import pytest
import tifffile
import torch
from drawn import synthetic_stack
from typer.testing import CliRunner

from isbi_infer.errors import ModelError
from isbi_models import default_model, released_models
from isbi_train.cli import app
from isbi_train.config import AugmentConfig
from isbi_train.config.inputs import Inputs
from isbi_train.config.settings import read_layer
from isbi_train.data.labelled import LabelledStack
from isbi_train.networks.checkpoint import Weights, load_checkpoint, save_checkpoint
from isbi_train.networks.origins import ISBI_2012, Origin, allows_commercial_use, origins_of
from isbi_train.training.start import Start
from isbi_train.training.state import RunSettings
from isbi_train.training.train import fit

RELEASED = released_models()["isbi2012-unet-b32"]
TERMS = Origin(
    name=RELEASED.name, licence=RELEASED.licence, terms=RELEASED.terms, citation=RELEASED.citation
).to_plain()


@pytest.fixture(scope="module")
def stacks(tmp_path_factory):
    """The same sections as files that say 4, 5 and 8 nm and nothing, and their labels."""
    folder = tmp_path_factory.mktemp("stacks")
    image_ZYX, label_ZYX = synthetic_stack(3, 64, 64)
    for name, nm in (("4nm", 4.0), ("5nm", 5.0), ("8nm", 8.0)):
        size = {"resolution": (1 / nm, 1 / nm), "metadata": {"unit": "nm", "axes": "ZYX"}}
        tifffile.imwrite(folder / f"{name}.tif", image_ZYX, imagej=True, **size)
    tifffile.imwrite(folder / "unknown.tif", image_ZYX, photometric="minisblack")
    tifffile.imwrite(folder / "labels.tif", label_ZYX, photometric="minisblack")
    return folder


@pytest.fixture
def tune(stacks, tmp_path):
    def run(name, *options, init=RELEASED.name):
        arguments = ["--data", stacks / f"{name}.tif", "--labels", stacks / "labels.tif", "--init", init]
        small = ["--epochs=1", "--crop=32", "--batch=2", "--precision=fp32", "--threads=1"]
        arguments = ["fit", "--out", tmp_path / "run", *arguments, *small, *options]
        return CliRunner().invoke(app, [str(part) for part in arguments])

    return run


@pytest.mark.parametrize(
    ("init", "model", "at"), [("released", default_model(), "5nm"), (RELEASED.name, RELEASED, "4nm")]
)
def test_a_released_model_is_fine_tuned_by_its_name(tune, tmp_path, init, model, at):
    result = tune(at, "--learning-rate=1e-9", "--crop=64", init=init)
    assert result.exit_code == 0, result.stderr
    tuned = load_checkpoint(tmp_path / "run" / "model.pth")
    start = load_checkpoint(model.checkpoint.path)
    assert tuned.network.shapes == start.network.shapes
    torch.testing.assert_close(
        tuned.state_dict["head.weight"], start.state_dict["head.weight"], rtol=0, atol=1e-6
    )
    assert tuned.data["init"] == model.checkpoint.sha256
    assert read_layer(tmp_path / "run" / "settings.toml")["inputs"]["init"] == init
    assert "trained at" not in result.stderr  # both have the same pixel size


def test_sections_of_another_size_are_resampled_to_the_model_s_and_it_is_said(tune, tmp_path):
    result = tune("8nm")
    assert result.exit_code == 0
    assert f"note: {RELEASED.name} was trained at 4 nm: sections of 8 nm are resampled to it" in result.stderr
    assert load_checkpoint(tmp_path / "run" / "model.pth").data["pixel_size_nm"] == 4.0
    assert read_layer(tmp_path / "run" / "settings.toml")["inputs"]["resample_nm"] == 4.0


def test_who_asks_for_another_size_gets_it_and_a_warning(tune, tmp_path, caplog):
    assert tune("8nm", "--resample=8").exit_code == 0
    assert load_checkpoint(tmp_path / "run" / "model.pth").data["pixel_size_nm"] == 8.0
    assert "was trained at 4 nm, these sections are of 8 nm" in caplog.text


def test_sections_without_a_size_are_taken_for_the_model_s_and_it_is_said(tune, tmp_path):
    result = tune("unknown")
    assert "does not say how large a pixel is: taken for the 4 nm" in result.stderr
    assert load_checkpoint(tmp_path / "run" / "model.pth").data["pixel_size_nm"] == 4.0


def test_what_is_no_file_and_no_released_model_names_both(tune):
    result = tune("4nm", init="isbi2012-unet")
    assert result.exit_code == 2
    assert "isbi2012-unet: neither a file nor the name of a released model" in result.stderr
    assert f"did you mean {RELEASED.name}?" in result.stderr


def test_a_file_comes_before_a_name(stacks, tune, trained, monkeypatch, tmp_path):
    (tmp_path / "released").write_bytes((trained / "model.pth").read_bytes())
    monkeypatch.chdir(tmp_path)
    result = tune("4nm", init="released")
    assert result.exit_code == 0
    assert (
        load_checkpoint(tmp_path / "run" / "model.pth").network
        == load_checkpoint(tmp_path / "released").network
    )
    assert read_layer(tmp_path / "run" / "settings.toml")["inputs"]["init"] == str(tmp_path / "released")


def test_another_network_than_the_model_s_is_an_error(tune):
    result = tune("4nm", "--base=8")
    assert result.exit_code == 2
    assert "is of another network (widths: (32, 64, 128, 256) -> (8, 16, 32, 64))" in result.stderr


def test_a_changed_released_checkpoint_is_not_started_from(monkeypatch, tmp_path):
    changed = tmp_path / RELEASED.checkpoint.path.name
    changed.write_bytes(RELEASED.checkpoint.path.read_bytes() + b"\0")
    model = replace(RELEASED, checkpoint=replace(RELEASED.checkpoint, path=changed))
    monkeypatch.setattr("isbi_train.training.start.default_model", lambda: model)
    with pytest.raises(ModelError, match=r"is not the registered checkpoint.*install isbi-infer again"):
        Start.read("released")


def tuned_from(init, stack, network, train_config, out, **inputs):
    settings = {"network": network, "augment": AugmentConfig(), "train": train_config(epochs=1)}
    path = fit(stack, out, **settings, inputs=Inputs(init=str(init), **inputs))
    return path, load_checkpoint(path)


def test_terms_go_along_a_chain_of_fine_tunings(labelled, network, train_config, checkpoint, tmp_path):
    """The first of the chain was trained on two stacks, one of which has terms."""
    known = {"sha256": {"images": "0" * 64, "labels": "1" * 64}, "sections": 6, "held_out": "4:6"}
    stacks = [
        {"name": "fly", "terms": "non-commercial", "citation": "A. Author 2020, doi:10.1000/182", **known},
        {"name": "mouse", "terms": "", "citation": "", **known},
    ]
    save_checkpoint(tmp_path / "0.pth", replace(checkpoint, data={**checkpoint.data, "stacks": stacks}))
    expected = [{"name": "fly", "licence": "", "terms": "non-commercial", "citation": stacks[0]["citation"]}]
    path, first = tuned_from(tmp_path / "0.pth", labelled, network, train_config, tmp_path / "1")
    assert first.data["origins"] == expected
    _, second = tuned_from(path, labelled, network, train_config, tmp_path / "2")
    assert second.data["origins"] == expected
    (origin,) = origins_of(second, "")
    assert origin.non_commercial
    assert [doi for _, doi in origin.cites] == ["10.1000/182"]


def test_a_run_from_weights_without_terms_has_none(trained, labelled, network, train_config, tmp_path):
    _, tuned = tuned_from(trained / "model.pth", labelled, network, train_config, tmp_path)
    assert "origins" not in tuned.data


def test_released_weights_are_known_however_they_were_saved():
    released = load_checkpoint(RELEASED.checkpoint.path)
    bare = Weights(network=released.network, state_dict=released.state_dict)
    assert [origin.to_plain() for origin in origins_of(bare, "another file")] == [TERMS]
    head = released.state_dict["head.weight"]
    other = Weights(network=bare.network, state_dict={**bare.state_dict, "head.weight": head + 1e-3})
    assert origins_of(other, "another file") == ()


def test_weights_trained_on_the_challenge_come_under_its_terms(checkpoint):
    images = load_checkpoint(RELEASED.checkpoint.path).data["sha256"]["images"]
    data = {**checkpoint.data, "sha256": {"images": images, "labels": ""}}
    assert origins_of(replace(checkpoint, data=data), "") == (ISBI_2012,)
    assert ISBI_2012.non_commercial


def test_what_learnt_from_a_released_teacher_comes_under_its_terms(labelled, network, train_config, tmp_path):
    settings = {"network": network, "augment": AugmentConfig(), "train": train_config(epochs=1)}
    out = fit(labelled, tmp_path, **settings, inputs=Inputs(teachers=(str(RELEASED.path),)))
    assert load_checkpoint(out).data["origins"] == [TERMS]


@pytest.mark.parametrize("origins", [[{"nobody": "knows"}], [{"name": 3}], ["released"]])
def test_a_damaged_list_of_origins_is_an_error(checkpoint, origins):
    with pytest.raises(ModelError, match="damaged list of origins"):
        origins_of(replace(checkpoint, data={**checkpoint.data, "origins": origins}), "")


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        ("MIT", True),
        ("CC-BY-4.0", True),
        ("CC-BY-NC-4.0", False),
        ("CC BY NC", False),
        ("PolyForm-Noncommercial-1.0.0", False),
        ("free for non-commercial use", False),
        ("cite Francis 2020", True),
        ("NCSA", True),
    ],
)
def test_terms_that_exclude_commercial_use_are_recognised(words, allowed):
    assert allows_commercial_use(words) == allowed


def test_sections_that_the_start_was_trained_on_are_said(
    trained, labelled, network, train_config, tmp_path, caplog
):
    settings = {"network": network, "augment": AugmentConfig(), "train": train_config(hold_out_start=0)}
    fit(labelled, tmp_path, **settings, inputs=Inputs(init=str(trained / "model.pth")))
    assert "in training, so the scores" in caplog.text
    assert "are of seen ones" in caplog.text
    caplog.clear()
    other = LabelledStack(labelled.image_ZYX[::-1].copy(), labelled.cell_ZYX[::-1].copy(), 4.0)
    fit(other, tmp_path / "other", **settings, inputs=Inputs(init=str(trained / "model.pth")))
    assert "are of seen ones" not in caplog.text


def test_what_the_start_itself_began_with_is_said_too(
    trained, labelled, network, train_config, tmp_path, caplog
):
    flipped = LabelledStack(labelled.image_ZYX[:, ::-1].copy(), labelled.cell_ZYX[:, ::-1].copy(), 4.0)
    settings = {"network": network, "augment": AugmentConfig()}
    again = fit(
        flipped,
        tmp_path / "2",
        **settings,
        train=train_config(),
        inputs=Inputs(init=str(trained / "model.pth")),
    )
    own, inherited = load_checkpoint(again).seen
    assert own.data_sha256 == flipped.sha256()
    assert (inherited.data_sha256, inherited.sections) == (labelled.sha256(), "0:3")
    saved = load_checkpoint(again)
    of_before = {key: value for key, value in saved.data.items() if key != "seen"}
    run = RunSettings(saved.network, saved.augment, saved.train, saved.data)
    run.check_same(replace(saved, data=of_before))  # it can be resumed
    caplog.clear()
    fit(
        labelled,
        tmp_path / "3",
        **settings,
        train=train_config(hold_out_start=0),
        inputs=Inputs(init=str(again)),
    )
    assert (
        "has seen sections 0:3 of this stack in training, so the scores on sections 0:1 are of seen"
        in caplog.text
    )


def test_a_start_that_is_not_there_is_an_error_before_any_folder(labelled, network, train_config, tmp_path):
    with pytest.raises(ModelError, match="no such checkpoint"):
        tuned_from(tmp_path / "none.pth", labelled, network, train_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
