"""Stacks of a list that have teachers and unlabelled sections of their own."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lists_at_hand import SHORT, write, write_list
from typer.testing import CliRunner

from isbi_infer import Segmenter
from isbi_infer.errors import IsbiError, UsageError
from isbi_models import released_models
from isbi_train.cli import app
from isbi_train.config import AugmentConfig
from isbi_train.config.settings import read_layer
from isbi_train.config.stacks import read_list
from isbi_train.data.resample import resample_images
from isbi_train.data.stacks import read_stacks
from isbi_train.networks.checkpoint import load_checkpoint
from isbi_train.training.batches import bring_stacks
from isbi_train.training.distil import Teaching, teach
from isbi_train.training.losses import loss, targets_and_weights, with_maps
from isbi_train.training.train import fit

CPU = torch.device("cpu")
few = settings(max_examples=settings().max_examples // 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """See `write_list`."""
    return write_list(tmp_path_factory.mktemp("stacks"))


@pytest.fixture(scope="module")
def taught(folder, exported, sample):
    """Changes of the first stack's entry: a teacher that saw its sections 0-2, and two sections that only it labels."""
    write(folder / "fly-unlabelled.tif", sample[0][:2, ::-1, ::-1])
    return {"teachers": (str(exported / "model.onnx"),), "unlabelled": str(folder / "fly-unlabelled.tif")}


def with_teachers(folder, taught, train, nm=8.0):
    fly, mouse = read_list(folder / "stacks.toml")
    return read_stacks([replace(fly, **taught), mouse], train, nm, "stacks.toml")


def test_a_stack_of_a_list_has_its_own_teachers_and_the_others_none(folder, exported, taught, train_config):
    config = train_config(batch=8, soft_weight=0.25)
    data = with_teachers(folder, taught, config)
    soft = teach(data, Teaching.of_list(data))
    assert list(soft) == ["fly"]
    fly, *mouse = bring_stacks(data.stacks, config, soft, CPU, AugmentConfig()).parts
    assert len(fly) == 3 + 2
    segmenter = Segmenter(exported / "model.onnx", tta=True)
    opinion_ZYX = segmenter(tifffile.imread(folder / "fly.tif")[:3])
    target, _ = targets_and_weights(fly.maps_ZKYX, 1.0)
    mixed_ZYX = 0.75 * data.stacks[0].parts[0].cell_ZYX + 0.25 * resample_images(opinion_ZYX, (32, 32))
    np.testing.assert_allclose(target[:3, 0], mixed_ZYX, atol=1e-5)
    unlabelled_ZYX = resample_images(segmenter(tifffile.imread(taught["unlabelled"])), (32, 32))
    np.testing.assert_allclose(target[3:, 0], unlabelled_ZYX, atol=1e-5)
    assert all(part.maps_ZKYX.dtype == torch.uint8 and part.maps_ZKYX.shape[1] == 1 for part in mouse)


def test_unlabelled_sections_go_with_those_that_are_cut_as_they_are(folder, exported, taught, train_config):
    config = train_config(crop=8)
    data = with_teachers(folder, {**taught, "planes": ("xz", "xy")}, config)
    across, along = teach(data, Teaching.of_list(data))["fly"]
    assert len(across.unlabelled_ZYX) == 0
    unlabelled_ZYX = Segmenter(exported / "model.onnx", tta=True)(tifffile.imread(taught["unlabelled"]))
    np.testing.assert_allclose(along.unlabelled_ZYX, resample_images(unlabelled_ZYX, (32, 32)), atol=1e-5)
    with pytest.raises(UsageError, match=r"learnt beside those along xy, which planes xz lack"):
        with_teachers(folder, {**taught, "planes": ("xz",)}, config)


@given(membrane_weight=st.floats(0.5, 4), counted=st.booleans())
@few
def test_labels_alone_mean_the_same_beside_sections_with_all_maps(membrane_weight, counted):
    maps_NKYX = (torch.rand(2, 2 if counted else 1, 8, 8, generator=torch.manual_seed(0)) > 0.5).float()
    widened = torch.stack([with_maps(maps_KYX, 5 if counted else 4) for maps_KYX in maps_NKYX])
    logits = torch.randn(2, 1, 8, 8, generator=torch.manual_seed(1))
    one, other = (loss(logits, maps, membrane_weight, 1.0) for maps in (maps_NKYX, widened))
    torch.testing.assert_close(one, other)


def test_a_run_on_a_list_records_its_teachers_and_resumes_exactly(
    folder, exported, taught, network, train_config, tmp_path
):
    config = train_config(**SHORT)
    parts = {"network": network, "augment": AugmentConfig(canvas_probability=0.5), "train": config}

    class LeftOffError(Exception):
        pass

    def leave(entry):
        raise LeftOffError

    data = with_teachers(folder, taught, config)
    fit(data, tmp_path / "whole", **parts)
    with pytest.raises(LeftOffError):
        fit(data, tmp_path / "stopped", **parts, report=leave)
    with pytest.raises(UsageError, match=r"cannot resume.*teaching"):
        fit(with_teachers(folder, {}, config), tmp_path / "stopped", **parts, resume=True)
    fit(data, tmp_path / "stopped", **parts, resume=True)
    one, other = (load_checkpoint(tmp_path / name / "model.pth") for name in ("whole", "stopped"))
    assert all(torch.equal(one.state_dict[name], other.state_dict[name]) for name in one.state_dict)
    digest = Segmenter(exported / "model.onnx").model_sha256
    assert one.data["teaching"]["fly teacher 0"] == digest
    assert sorted(one.data["teaching"]) == ["fly teacher 0", "fly unlabelled"]


def test_no_teacher_of_a_list_has_seen_what_a_stack_holds_out(folder, taught, train_config):
    config = train_config()
    fly, mouse = read_list(folder / "stacks.toml")
    seen = replace(fly, **taught, hold_out_start=1)
    with pytest.raises(UsageError, match=r"stack 'fly': .*model\.onnx: .* 0:3 of this stack"):
        Teaching.of_list(read_stacks([seen, mouse], config, 8.0, "stacks.toml"))
    other = replace(mouse, teachers=taught["teachers"])
    with pytest.raises(UsageError, match=r"stack 'mouse': .*model\.onnx: .* 0:3 of stack 'fly'"):
        Teaching.of_list(read_stacks([replace(fly, hold_out_start=1), other], config, 8.0, "stacks.toml"))


def test_a_teacher_of_a_list_is_a_file_beside_it_or_a_released_model(tmp_path):
    entry = "[[stack]]\nname = 'a'\nimages = 'a.tif'\nlabels = 'b.tif'\n"
    path = tmp_path / "stacks.toml"
    path.write_text(f"{entry}teachers = ['em', 'own.onnx', 'runs/own']\nunlabelled = 'c.tif'\n")
    (found,) = read_list(path)
    assert found.teachers == ("em", str(tmp_path / "own.onnx"), str(tmp_path / "runs" / "own"))
    assert found.unlabelled == str(tmp_path / "c.tif")
    path.write_text(f"{entry}unlabelled = 'c.tif'\n")
    with pytest.raises(UsageError, match=r"stack 'a': c\.tif: unlabelled sections need teachers"):
        read_list(path)


def test_a_teacher_that_is_not_there_is_named_with_its_stack(folder, network, train_config, tmp_path):
    config = train_config(**SHORT)
    parts = {"network": network, "augment": AugmentConfig(), "train": config}
    for teacher, message in (("nobody", "neither a file nor the name"), ("/no/such.onnx", "such.onnx")):
        data = with_teachers(folder, {"teachers": (teacher,)}, config)
        with pytest.raises(IsbiError, match=rf"stack 'fly': .*{message}"):
            fit(data, tmp_path, **parts)
    assert not list(tmp_path.iterdir())


def test_a_teacher_is_named_on_the_command_line_as_in_a_list(folder, tmp_path):
    files = ["--data", folder / "fly.tif", "--labels", folder / "fly-labels.tif"]
    small = [
        "--pixel-size=4",
        "--hold-out=1",
        "--epochs=1",
        "--crop=32",
        "--batch=2",
        "--threads=1",
        "--depth=2",
    ]
    arguments = ["fit", *files, *small, "--teacher", "em-open", "--out", tmp_path / "run"]
    result = CliRunner().invoke(app, [str(part) for part in arguments])
    assert result.exit_code == 0, result.stderr
    assert read_layer(tmp_path / "run" / "settings.toml")["inputs"]["teachers"] == ["em-open"]
    taught_by = load_checkpoint(tmp_path / "run" / "model.pth").data["teaching"]
    assert taught_by["teacher 0"] == released_models()["em-open"].sha256
