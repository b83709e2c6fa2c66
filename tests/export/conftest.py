"""Shared by the tests of the export: a tiny trained checkpoint, and what becomes of it."""

import hashlib
from contextlib import nullcontext

import onnx
import pytest
import torch
from drawn import synthetic_stack

from isbi_export.formats.onnx_export import OPSET, graph_of
from isbi_export.publish import publish
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.data.labelled import LabelledStack
from isbi_train.networks.checkpoint import Checkpoint, save_checkpoint
from isbi_train.networks.network import UNet
from isbi_train.training.train import fit


@pytest.fixture(autouse=True)
def prove_on_onnxruntime_alone(request, proved_on_onnxruntime_alone):
    """Exports of single tests leave OpenVINO out; `everything` is proved on all that is installed."""
    everywhere = request.module.__name__.rpartition(".")[2] in ("test_runtimes", "test_precisions")
    with nullcontext() if everywhere else proved_on_onnxruntime_alone():
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A checkpoint of a tiny network, trained for a second; not to be changed."""
    image_ZYX, label_ZYX = synthetic_stack(3, 64, 64)
    return fit(
        LabelledStack(image_ZYX, label_ZYX > 0, 4.0),
        tmp_path_factory.mktemp("trained"),
        network=NetworkConfig(base=2, depth=2, unshuffle=2),
        augment=AugmentConfig(),
        train=TrainConfig(
            epochs=2, crop=32, batch=2, hold_out=1, border=8, precision="float32", device="cpu"
        ),
    )


@pytest.fixture(scope="session")
def published(trained, proved_on_onnxruntime_alone, tmp_path_factory):
    """The folder with model.onnx and model.pt of the trained checkpoint; not to be changed."""
    folder = tmp_path_factory.mktemp("published")
    with proved_on_onnxruntime_alone():
        publish(trained, folder, ["onnx", "torchscript"])
    return folder


@pytest.fixture(scope="session")
def everything(trained, tmp_path_factory):
    """The folder with every variant of the trained checkpoint, and the report; neither is to be changed."""
    folder = tmp_path_factory.mktemp("everything")
    choices = {"precisions": ["fp32", "fp16", "int8"], "ios": ["float32", "uint8"]}
    return folder, publish(trained, folder, ["onnx", "torchscript", "program"], **choices)


@pytest.fixture(scope="session")
def tissue_YX():
    """A section with structure, to be cut to size: pure noise counts as blank."""
    return synthetic_stack(1, 640, 640)[0][0]


@pytest.fixture(scope="session")
def seasoned():
    """Build a network whose BatchNorms have seen data, as those of a trained one have."""

    def build(config, seed=0):
        torch.manual_seed(seed)
        network = UNet(config).train()
        with torch.no_grad():
            network.head.weight.normal_(0, 0.5)
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0, 0.3)
            for contrast in (0.7, 1.0, 1.3):
                network(contrast * torch.randn(2, config.channels, 8 * config.stride, 8 * config.stride))
        return network.eval()

    return build


@pytest.fixture
def save(tmp_path, seasoned):
    """Write a checkpoint of a seasoned network as model.pth, its parts changed at will."""

    def write(*, state=lambda weights: None, **changes):
        config = changes.pop("network", NetworkConfig(base=2, depth=2, unshuffle=1))
        weights = seasoned(config).state_dict()
        state(weights)
        scores = {"sections": "25:30", "loss": 0.2, "v_rand_thin": 0.9, "v_info_thin": 0.9}
        parts = {
            "augment": AugmentConfig(),
            "train": TrainConfig(),
            "epoch": 3,
            "data": {"sha256": {"images": "0", "labels": "1"}, "sections": 30, "pixel_size_nm": None},
            "scores": scores,
            **changes,
        }
        save_checkpoint(tmp_path / "model.pth", Checkpoint(network=config, state_dict=weights, **parts))
        return tmp_path / "model.pth"

    return write


@pytest.fixture(scope="session")
def graphs():
    """The graphs that `exported_once` has made so far."""
    return {}


@pytest.fixture
def exported_once(monkeypatch, graphs):
    """Export each network once a session, where a test asks only what becomes of the graph; torch takes seconds for it.

    Not for tests of the exporter itself, or of the same bytes each time.
    """

    def graph_of_once(model, opset=OPSET):
        weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
        key = repr(model.network.config), opset, hashlib.sha256(weights).digest()
        if key not in graphs:
            graphs[key] = graph_of(model, opset).SerializeToString()
        return onnx.ModelProto.FromString(graphs[key])

    monkeypatch.setattr("isbi_export.formats.exported.graph_of", graph_of_once)
