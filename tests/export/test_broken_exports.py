"""Exports broken on purpose: each is caught by its gate, and what was there before stays."""

import errno
import json
import os
import warnings

import numpy as np
import onnx
import pytest
import torch

from isbi_export.formats.deployable import Deployable
from isbi_export.formats.exported import WRITERS
from isbi_export.formats.onnx_export import graph_of
from isbi_export.formats.torchscript import write_torchscript
from isbi_export.graph.metadata import write_onnx
from isbi_export.proof.gates import GATES
from isbi_export.publish import NotPublishedError, publish
from isbi_infer.errors import OutputError
from isbi_infer.model.contract import parse_contract
from isbi_train.networks.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("exported_once")

FLOAT32_TOLERANCE = GATES["fp32"].largest
REPORT = ["model.parity.html", "model.parity.json"]


def perturbed_onnx(path, exported, variant, contract):
    """Write a file of a network with one weight that is not the checkpoint's."""
    graph = exported.graph_for(variant)
    (tensor,) = [t for t in graph.graph.initializer if t.name.endswith("head.weight")]
    weight = onnx.numpy_helper.to_array(tensor).copy()
    weight[0, 0] += 1e-2
    tensor.raw_data = weight.tobytes()
    write_onnx(path, graph, contract)


def perturbed_torchscript(path, exported, variant, contract):
    with torch.no_grad():
        exported.module.network.head.weight[0, 0] += 1e-2
    write_torchscript(path, exported.module, contract)


def corrupted(path, exported, variant, contract):
    write_torchscript(path, exported.module, contract)
    path.write_bytes(path.read_bytes()[:-200])


def with_other_size(path, exported, variant, contract):
    class Larger(Deployable):
        def forward(self, image_NCYX):
            return super().forward(image_NCYX).repeat(1, 1, 2, 2)

    exported.module.__class__ = Larger
    write_torchscript(path, exported.module, contract)


class ForgottenEval(torch.nn.Module):
    """The checkpoint's network as an exporter sees it that forgot ``eval()``: BatchNorm goes by what it is given."""

    def __init__(self, checkpoint):
        super().__init__()
        self.network = load_checkpoint(checkpoint).load_network()
        for module in self.network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean = module.running_var = None
        self.eval()  # for the dropout, whose noise would show anyway

    def forward(self, image_NCYX):
        return torch.sigmoid(self.network(image_NCYX))


def in_training_mode(path, exported, variant, contract):
    module = ForgottenEval(path.parents[1] / "model.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        if variant.file_format == "onnx":
            write_onnx(path, graph_of(module), contract)
        else:
            write_torchscript(path, module, contract)


def with_a_wrong_epsilon(path, exported, variant, contract):
    """Fold BatchNorm with a constant that is not its own, as an exporter's default may be."""
    graph = exported.graph_for(variant)
    for tensor in graph.graph.initializer:
        if tensor.name.endswith("0.0.weight"):
            tensor.raw_data = (onnx.numpy_helper.to_array(tensor) * np.float32(1.001)).tobytes()
    write_onnx(path, graph, contract)


def changed_when_stamped(path, exported, variant, contract):
    """Give what is published other weights than what was compared."""
    (perturbed_onnx if contract.provenance["parity"] else WRITERS_ONNX)(path, exported, variant, contract)


WRITERS_ONNX = WRITERS["onnx"]


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("onnx", perturbed_onnx, "the onnx file differs from the checkpoint by .*; it was not published"),
        ("onnx", with_a_wrong_epsilon, "the onnx file differs from the checkpoint"),
        ("onnx", changed_when_stamped, "gives other results since its contract is in it"),
        ("torchscript", perturbed_torchscript, "the torchscript file differs from the checkpoint"),
        pytest.param(
            "onnx", in_training_mode, "the onnx file differs from the checkpoint", marks=pytest.mark.more
        ),
        ("torchscript", in_training_mode, "the torchscript file differs from the checkpoint"),
        ("torchscript", corrupted, "not a readable TorchScript file"),
        ("torchscript", with_other_size, r"the torchscript file gives \(1, 1, 8, 8\)"),
    ],
)
def test_a_file_that_differs_from_its_checkpoint_is_not_published(
    monkeypatch, save, tmp_path, name, write, reason
):
    monkeypatch.setitem(WRITERS, name, write)
    folder = tmp_path / "out"
    folder.mkdir()
    older = folder / {"onnx": "model.onnx", "torchscript": "model.pt"}[name]
    older.write_bytes(b"older")
    with pytest.raises(NotPublishedError, match=reason) as raised:
        publish(save(), folder, [name])
    assert str(raised.value).count(str(older)) == 1
    assert older.read_bytes() == b"older"
    assert os.listdir(folder) == [older.name]


def test_one_file_that_differs_keeps_back_itself_alone(monkeypatch, save, tmp_path):
    monkeypatch.setitem(WRITERS, "torchscript", perturbed_torchscript)
    (tmp_path / "model.pt").write_bytes(b"older")
    with pytest.raises(NotPublishedError, match=r"model\.pt: the torchscript file differs") as raised:
        publish(save(), tmp_path, ["onnx", "torchscript"])
    assert [file.published for file in raised.value.report.files] == [True, False]
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", *REPORT, "model.pt", "model.pth"]
    assert (tmp_path / "model.pt").read_bytes() == b"older"
    contract = parse_contract(onnx.load(tmp_path / "model.onnx").metadata_props[0].value)
    assert 0 < contract.provenance["parity"]["largest"] <= FLOAT32_TOLERANCE
    described = json.loads((tmp_path / "model.parity.json").read_text())["files"]
    assert [file["published"] for file in described] == [True, False]
    assert "differs from the checkpoint" in described[1]["refused"][0]


def test_a_full_disk_leaves_all_old_files_as_they_were(monkeypatch, save, tmp_path):
    def full(path, exported, variant, contract):
        path.write_bytes(b"some of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setitem(WRITERS, "torchscript", full)
    checkpoint, names = save(), ["model.onnx", "model.pt", *REPORT]
    for name in names:
        (tmp_path / name).write_bytes(b"older")
    with pytest.raises(OutputError, match="No space left"):
        publish(checkpoint, tmp_path, ["onnx", "torchscript"])
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "model.pth"])
    assert {(tmp_path / name).read_bytes() for name in names} == {b"older"}
