"""What a stack holds out is trained on nowhere: not in another stack, nor by another number, nor without labels."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
from lists_at_hand import SHORT, write, write_list

from isbi_infer.errors import UsageError
from isbi_train.config.stacks import read_list
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.stacks import TrainingData, read_stacks
from isbi_train.data.tissue import section_digests
from isbi_train.training.distil import Teaching


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """See `write_list`."""
    return write_list(tmp_path_factory.mktemp("stacks"))


def with_a_second(folder, train, *, nm=8.0, first=(), **changes):
    """Read the list's first stack twice, the second time under another name and with changes."""
    fly, _ = read_list(folder / "stacks.toml")
    return read_stacks(
        [replace(fly, **dict(first)), replace(fly, **{"name": "again", **changes})], train, nm, "list.toml"
    )


@pytest.mark.parametrize("nm", [4.0, 8.0])
def test_two_stacks_of_the_same_images_hold_out_the_same_sections(folder, train_config, nm):
    message = r"^list\.toml: stack 'fly' holds out section 3 \(from 0\), and stack 'again' trains on the same images "
    with pytest.raises(UsageError, match=rf"{message}as its section 3; hold out the same sections of both"):
        with_a_second(folder, train_config(), nm=nm, hold_out_start=0)
    assert len(with_a_second(folder, train_config(), nm=nm).stacks) == 2


def test_some_sections_that_two_stacks_share_are_found_whatever_their_numbers_and_type(
    folder, train_config, tmp_path
):
    image_ZYX, label_ZYX = (tifffile.imread(folder / name) for name in ("fly.tif", "fly-labels.tif"))
    mirrored_ZYX = image_ZYX[:3, ::-1].astype(np.float32)
    write(tmp_path / "image.tif", np.concatenate((image_ZYX[2:].astype(np.float32), mirrored_ZYX)))
    write(tmp_path / "labels.tif", np.concatenate((label_ZYX[2:], label_ZYX[:3, ::-1])))
    files = {"images": str(tmp_path / "image.tif"), "labels": str(tmp_path / "labels.tif")}
    with pytest.raises(UsageError, match=r"stack 'fly' holds out section 3 .* as its section 1;"):
        with_a_second(folder, train_config(), **files)
    with pytest.raises(UsageError, match=r"'fly' holds out sections 2, 3 .* as its sections 0, 1;"):
        with_a_second(folder, train_config(), first={"hold_out": 2}, **files)


def test_a_held_out_section_has_no_copy_among_those_that_are_trained_on(labelled, train_config):
    copied = labelled[np.array([0, 1, 3, 3])]
    stack = replace(copied, places=None)
    said = r"^section 3 \(from 0\), held out for validation, and section 2, trained on, are the same images"
    with pytest.raises(UsageError, match=said):
        TrainingData.of_one(stack, train_config())
    assert TrainingData.of_one(stack, train_config(hold_out=2)).stacks


def test_blank_sections_are_no_copies_of_each_other(labelled, train_config):
    image_ZYX = labelled.image_ZYX.copy()
    image_ZYX[[0, 3]] = 7
    stack = replace(labelled, image_ZYX=image_ZYX)
    assert TrainingData.of_one(stack, train_config(hold_out=2)).stacks
    assert section_digests(image_ZYX)[::3] == ["", ""]
    assert len(set(section_digests(image_ZYX))) == 3


@pytest.mark.parametrize("margin", [255, 0])
def test_sections_that_are_blank_but_for_a_margin_are_no_copies_of_each_other(labelled, train_config, margin):
    image_ZYX = labelled.image_ZYX.copy()
    image_ZYX[[0, 3]] = 7
    image_ZYX[[0, 3], :, :8] = margin
    assert TrainingData.of_one(replace(labelled, image_ZYX=image_ZYX), train_config(hold_out=2)).stacks


def test_whole_numbers_have_one_digest_in_every_type(labelled):
    image_ZYX = labelled.image_ZYX[:2]
    for kind in ("u2", "i4", "f4", "f8", ">u2"):
        assert section_digests(image_ZYX.astype(kind)) == section_digests(image_ZYX)
    assert section_digests(image_ZYX + 0.5) != section_digests(image_ZYX)


def test_a_copy_that_nobody_annotated_is_not_trained_on(labelled, train_config):
    copied = labelled[np.array([3, 1, 2, 3])]
    ignored_ZYX = np.zeros_like(copied.cell_ZYX)
    ignored_ZYX[0] = True
    stack = LabelledStack(copied.image_ZYX, copied.cell_ZYX & ~ignored_ZYX, 4.0, ignored_ZYX)
    assert TrainingData.of_one(stack, train_config()).stacks


def test_no_unlabelled_section_is_held_out_of_another_stack(folder, exported, train_config, tmp_path):
    """At the stored size of that stack, whatever the size of the one that it goes with."""
    image_ZYX = tifffile.imread(folder / "fly.tif")
    files = {"images": str(tmp_path / "image.tif"), "labels": str(tmp_path / "labels.tif")}
    write(tmp_path / "image.tif", image_ZYX[:, :, ::-1])
    write(tmp_path / "labels.tif", tifffile.imread(folder / "fly-labels.tif")[:, :, ::-1])
    others = np.stack((np.zeros_like(image_ZYX[0]), image_ZYX[0, :, ::-1], image_ZYX[3, :, ::-1]))
    write(tmp_path / "unlabelled.tif", others)
    taught = {"teachers": (str(exported / "model.onnx"),), "unlabelled": str(tmp_path / "unlabelled.tif")}
    config = train_config(**SHORT)
    data = with_a_second(folder, config, first=taught, **files)
    said = (
        r"^stack 'fly': .*unlabelled\.tif: section 2 is held out for validation of stack 'again' and must not"
    )
    with pytest.raises(UsageError, match=said):
        Teaching.of_list(data)
    data = with_a_second(folder, config, first=taught, **files, hold_out_start=1)
    assert list(Teaching.of_list(data)) == ["fly"]
