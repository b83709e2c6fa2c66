"""Shared by the tests of training: a tiny labelled stack, settings that train in a second, and one run of them.

`networks_at_hand` beside this file is found by its name.
"""

import sys
from pathlib import Path

import pytest
import tifffile
import torch
from drawn import synthetic_stack

from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.data.labelled import LabelledStack
from isbi_train.networks.checkpoint import Checkpoint
from isbi_train.networks.network import UNet
from isbi_train.training.train import fit

FOLDER = str(Path(__file__).parent)
if FOLDER not in sys.path:
    sys.path.append(FOLDER)

SETTINGS = {
    "epochs": 4,
    "crop": 32,
    "batch": 2,
    "learning_rate": 5e-3,
    "warmup_steps": 3,
    "average": 0.8,
    "hold_out": 1,
    "checkpoint_epochs": 1,
    "precision": "float32",
    "device": "cpu",
}


@pytest.fixture(scope="session")
def sample():
    """Four sections of 64x64 pixels and their labels, both uint8."""
    return synthetic_stack(4, 64, 64)


@pytest.fixture(scope="session")
def labelled(sample):
    image_ZYX, label_ZYX = sample
    return LabelledStack(image_ZYX, label_ZYX > 0, 4.0)


@pytest.fixture(scope="session")
def write_labelled():
    """Write images and labels into a folder under the names that training expects."""

    def write(folder, image_ZYX, label_ZYX, **options):
        tifffile.imwrite(folder / "train-volume.tif", image_ZYX, **{"photometric": "minisblack", **options})
        tifffile.imwrite(folder / "train-labels.tif", label_ZYX, **{"photometric": "minisblack", **options})
        return folder

    return write


@pytest.fixture(scope="session")
def network():
    return NetworkConfig(base=2, depth=2, unshuffle=2, dropout=0.1)


@pytest.fixture(scope="session")
def train_config():
    """Give settings that train in a second, some of them changed."""
    return lambda **changes: TrainConfig(**{**SETTINGS, **changes})


@pytest.fixture(scope="session")
def train(labelled, network, train_config):
    """Train on the tiny stack into a folder, some settings changed."""

    def run(out, *, stack=labelled, resume=False, report=None, inputs=None, **changes):
        settings = {"network": network, "augment": AugmentConfig(), "train": train_config(**changes)}
        return fit(stack, out, **settings, inputs=inputs, resume=resume, report=report)

    return run


@pytest.fixture(scope="session")
def trained(train, tmp_path_factory):
    """The folder of one uninterrupted run; not to be changed."""
    return train(tmp_path_factory.mktemp("trained")).parent


@pytest.fixture(scope="session")
def exported(trained, proved_on_onnxruntime_alone, tmp_path_factory):
    """A folder with model.pth of that run, and model.onnx and model.pt made of it; not to be changed."""
    from isbi_export.publish import publish

    folder = tmp_path_factory.mktemp("exported")
    (folder / "model.pth").write_bytes((trained / "model.pth").read_bytes())
    with proved_on_onnxruntime_alone():
        publish(folder / "model.pth", folder, ["onnx", "torchscript"])
    return folder


@pytest.fixture
def checkpoint(network, train_config):
    """A checkpoint of fresh weights."""
    torch.manual_seed(1)
    return Checkpoint(
        network=network,
        augment=AugmentConfig(),
        train=train_config(),
        state_dict=UNet(network).state_dict(),
        epoch=4,
        data={
            "sha256": {"images": "0" * 64, "labels": "1" * 64},
            "sections": 4,
            "pixel_size_nm": 4.0,
        },
        scores={"sections": "3:4", "loss": 0.25, "v_rand_thin": 0.9, "v_info_thin": 0.8},
    )


@pytest.fixture(scope="module")
def weights():
    from networks_at_hand import CONFIG, fresh

    return fresh(CONFIG).state_dict()


@pytest.fixture
def stored(tmp_path):
    """Write anything with torch.save."""

    def write(content, name="weights.pth", **options):
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return write
