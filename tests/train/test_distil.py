"""Distillation: who may teach, on what, and that what they say is learnt."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch

from isbi_infer import Segmenter
from isbi_infer.errors import ImageError, UsageError
from isbi_train.config import AugmentConfig
from isbi_train.config.inputs import Inputs
from isbi_train.config.settings import read_layer
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.resample import resample_images
from isbi_train.data.sections import hold_out
from isbi_train.networks.checkpoint import load_checkpoint
from isbi_train.training.batches import bring_sections, draw_batch
from isbi_train.training.distil import Teaching, read_unlabelled, soft_labels
from isbi_train.training.losses import targets_and_weights
from isbi_train.training.train import fit


@pytest.fixture(scope="module")
def teacher(exported):
    """A model trained on sections 0-2 of the tiny stack."""
    return exported / "model.onnx"


@pytest.fixture(scope="module")
def unlabelled(sample, tmp_path_factory):
    path = tmp_path_factory.mktemp("unlabelled") / "stack.tif"
    tifffile.imwrite(path, sample[0][:2, ::-1, ::-1], photometric="minisblack")
    return path


def test_soft_labels_are_the_mean_of_the_teachers_with_test_time_augmentation(teacher, labelled):
    other_ZYX = labelled.image_ZYX[:1, ::-1]
    soft = soft_labels((teacher, teacher), labelled[:2], other_ZYX)
    segmenter = Segmenter(teacher, tta=True)
    np.testing.assert_allclose(soft.labelled_ZYX, segmenter(labelled.image_ZYX[:2]), atol=1e-6)
    np.testing.assert_allclose(soft.unlabelled_ZYX, segmenter(other_ZYX), atol=1e-6)


def test_teachers_see_sections_of_another_pixel_size_as_a_file_of_it_is_inferred(
    teacher, sample, tmp_path, labelled
):
    stack = tmp_path / "at-6nm.tif"
    metadata = {"axes": "ZYX", "unit": "um"}
    tifffile.imwrite(stack, sample[0][:2], imagej=True, resolution=(1e3 / 6, 1e3 / 6), metadata=metadata)
    Segmenter(teacher, tta=True).segment_file(stack, tmp_path / "inferred.tif")
    at_6nm = LabelledStack(labelled.image_ZYX[:2], labelled.cell_ZYX[:2], 6.0)
    soft = soft_labels((teacher,), at_6nm, labelled.image_ZYX[:0])
    np.testing.assert_array_equal(soft.labelled_ZYX, tifffile.imread(tmp_path / "inferred.tif"))
    unknown = LabelledStack(labelled.image_ZYX[:2], labelled.cell_ZYX[:2], None)
    as_they_are = soft_labels((teacher,), unknown, labelled.image_ZYX[:0])
    assert (as_they_are.labelled_ZYX != soft.labelled_ZYX).any()


def test_unlabelled_sections_are_brought_to_the_pixel_size_that_is_trained_at(
    tmp_path, labelled, train_config
):
    image_ZYX = np.repeat(np.repeat(labelled.image_ZYX[:2, ::-1], 2, axis=1), 2, axis=2)
    path, silent = tmp_path / "at-2nm.tif", tmp_path / "silent.tif"
    metadata = {"axes": "ZYX", "unit": "um"}
    tifffile.imwrite(path, image_ZYX, imagej=True, resolution=(1e3 / 2, 1e3 / 2), metadata=metadata)
    tifffile.imwrite(silent, image_ZYX, photometric="minisblack")
    found_ZYX = read_unlabelled(path, labelled, train_config())
    np.testing.assert_array_equal(found_ZYX, resample_images(image_ZYX, (64, 64)))
    np.testing.assert_array_equal(read_unlabelled(silent, labelled, train_config(), 2.0), found_ZYX)
    with pytest.raises(UsageError, match=r"silent\.tif: .*does not say its pixel size"):
        read_unlabelled(silent, labelled, train_config(), None, 4.0)
    with pytest.raises(ImageError, match=r"silent\.tif: its sections are \(128, 128\)"):
        read_unlabelled(silent, labelled, train_config())


def test_a_teacher_that_saw_the_held_out_sections_is_refused(teacher, labelled, train_config):
    inputs = Inputs(teachers=(str(teacher),))
    assert Teaching.of(inputs, labelled, train_config()) is not None
    with pytest.raises(UsageError, match=r"has seen sections 0:3 of this stack.* 1:2, which are held out"):
        Teaching.of(inputs, labelled, train_config(hold_out_start=1))
    other = LabelledStack(labelled.image_ZYX + np.uint8(1), labelled.cell_ZYX, None)
    assert Teaching.of(inputs, other, train_config(hold_out_start=1)) is not None


def test_a_teacher_that_grew_from_what_saw_the_held_out_sections_is_refused(
    trained, labelled, network, train_config, proved_on_onnxruntime_alone, tmp_path
):
    from isbi_export.publish import publish

    flipped = LabelledStack(labelled.image_ZYX[:, ::-1].copy(), labelled.cell_ZYX[:, ::-1].copy(), 4.0)
    settings = {"network": network, "augment": AugmentConfig(), "train": train_config()}
    grown = fit(flipped, tmp_path / "grown", **settings, inputs=Inputs(init=str(trained / "model.pth")))
    with proved_on_onnxruntime_alone():
        publish(grown, tmp_path, ["onnx"])
    inputs = Inputs(teachers=(str(tmp_path / "model.onnx"),))
    with pytest.raises(UsageError, match=r"has seen sections 0:3 of this stack"):
        Teaching.of(inputs, labelled, train_config(hold_out_start=1))
    taught = Teaching.of(inputs, labelled, train_config())
    assert [stack.data_sha256 for stack in taught.seen] == [flipped.sha256(), labelled.sha256()]


def test_unlabelled_sections_need_a_teacher_their_size_and_no_held_out_section(
    teacher, unlabelled, labelled, train_config, tmp_path
):
    with pytest.raises(UsageError, match="add --teacher"):
        Teaching.of(Inputs(unlabelled=str(unlabelled)), labelled, train_config())
    taught = Inputs(teachers=(str(teacher),), unlabelled=str(tmp_path / "stack.tif"))
    tifffile.imwrite(taught.unlabelled, labelled.image_ZYX[:, :32], photometric="minisblack")
    with pytest.raises(
        ImageError, match=r"stack\.tif: its sections are \(32, 64\).*labelled ones \(64, 64\)"
    ):
        Teaching.of(taught, labelled, train_config())
    tifffile.imwrite(taught.unlabelled, labelled.image_ZYX[2:], photometric="minisblack")
    with pytest.raises(UsageError, match="section 1 is held out"):
        Teaching.of(taught, labelled, train_config())


def test_labelled_and_unlabelled_sections_get_their_targets(teacher, unlabelled, labelled, train_config):
    train = train_config(soft_weight=0.25)
    training, _ = hold_out(labelled, train)
    inputs = Inputs(teachers=(str(teacher),), unlabelled=str(unlabelled))
    soft = Teaching.of(inputs, labelled, train).teach(training)
    sections = bring_sections(training, train, soft, torch.device("cpu"))
    assert len(sections) == 3 + 2
    target, _ = targets_and_weights(sections.maps_ZKYX, 1.0)
    mixed_ZYX = 0.75 * training.cell_ZYX + 0.25 * soft.labelled_ZYX
    np.testing.assert_allclose(target[:3, 0], mixed_ZYX, atol=1e-5)
    np.testing.assert_allclose(target[3:, 0], soft.unlabelled_ZYX, atol=1e-5)
    image_NCYX, maps_NKYX, _ = draw_batch(sections, AugmentConfig(), train, 0)
    assert image_NCYX.shape == (2, 1, 32, 32)
    assert maps_NKYX.shape == (2, 4, 32, 32)


def test_a_distilled_run_records_its_teachers_and_resumes_exactly(
    teacher, unlabelled, labelled, network, train_config, tmp_path
):
    settings = {"network": network, "augment": AugmentConfig(), "train": train_config(epochs=2)}
    inputs = Inputs(teachers=(str(teacher),), unlabelled=str(unlabelled))
    fit(labelled, tmp_path / "whole", **settings, inputs=inputs)

    class LeftOffError(Exception):
        pass

    def leave(entry):
        if entry["epoch"] == 1:
            raise LeftOffError

    with pytest.raises(LeftOffError):
        fit(labelled, tmp_path / "stopped", **settings, inputs=inputs, report=leave)
    with pytest.raises(UsageError, match=r"cannot resume.*teaching.* -> 'none'"):
        fit(labelled, tmp_path / "stopped", **settings, resume=True)
    fit(labelled, tmp_path / "stopped", **settings, inputs=inputs, resume=True)
    one, other = (load_checkpoint(tmp_path / name / "model.pth") for name in ("whole", "stopped"))
    assert all(torch.equal(one.state_dict[name], other.state_dict[name]) for name in one.state_dict)
    sha256 = one.data["teaching"]
    assert sha256["teacher 0"] == Segmenter(teacher).model_sha256
    written = read_layer(tmp_path / "whole" / "settings.toml")["inputs"]
    assert written["teachers"] == [str(teacher)]
    assert written["sha256"]["unlabelled"] == sha256["unlabelled"]
    changed = replace(inputs, sha256={**sha256, "unlabelled": "0"})
    with pytest.raises(UsageError, match="sha256 of unlabelled"):
        fit(labelled, tmp_path / "other", **settings, inputs=changed)
