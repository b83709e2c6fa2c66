"""What a finished checkpoint tells those who use it: the threshold of its cells, and how its training data look."""

import pytest
import torch
from drawn import synthetic_stack

from isbi_infer.pixels.texture import Familiar
from isbi_train.data.labelled import LabelledStack
from isbi_train.data.stacks import TrainingData
from isbi_train.networks.checkpoint import load_checkpoint, save_checkpoint
from isbi_train.training.finish import familiar_to, finish
from isbi_train.training.validate import HeldOut


def stack(height, width):
    image_ZYX, label_ZYX = synthetic_stack(4, height, width)
    return LabelledStack(image_ZYX, label_ZYX > 0, 4.0)


def test_sections_that_were_held_out_are_familiar(train_config):
    data = TrainingData.of_one(stack(128, 160), train_config())
    familiar = familiar_to(data)
    assert [look.name for look in familiar.looks] == [""]
    assert Familiar.from_plain(familiar.to_plain()) == familiar


def test_small_sections_have_no_look(train_config):
    assert familiar_to(TrainingData.of_one(stack(64, 64), train_config())) is None


@pytest.mark.parametrize(("height", "described"), [(128, True), (64, False)])
def test_a_checkpoint_is_finished_once(checkpoint, train_config, tmp_path, height, described):
    torch.manual_seed(1)
    config = train_config()
    data = TrainingData.of_one(stack(height, 128), config)
    held_out = [HeldOut.of(data.stacks[0], config)]
    path = tmp_path / "model.pth"
    save_checkpoint(path, checkpoint)
    finish(path, config, data, held_out)
    found, before = load_checkpoint(path), path.read_bytes()
    assert 0 < found.scores["threshold"] < 1
    assert ("familiar" in found.data) == described
    finish(path, config, data, held_out)
    assert path.read_bytes() == before
