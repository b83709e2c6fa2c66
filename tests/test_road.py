"""The whole road, as a user walks it: train, export, segment."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from drawn import synthetic_stack

from isbi_infer.model.contract import read_contract
from isbi_train.networks.checkpoint import load_checkpoint
from isbi_train.networks.whole import predict_whole

BIN = Path(sys.executable).parent


def run(*arguments):
    result = subprocess.run([BIN / arguments[0], *arguments[1:]], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("road")
    image_ZYX, labels_ZYX = synthetic_stack(4, 120, 136)
    for name, stack_ZYX in (("train-volume.tif", image_ZYX), ("train-labels.tif", labels_ZYX)):
        metadata = {"axes": "ZYX", "unit": "um", "spacing": 0.05}
        tifffile.imwrite(folder / name, stack_ZYX, imagej=True, resolution=(250, 250), metadata=metadata)
    small = ("--base=8", "--depth=2", "--epochs=12", "--crop=48", "--batch=2", "--hold-out=1", "--border=8")
    run("isbi-train", "fit", "--data", folder, "--out", folder / "run", *small)
    run("isbi-export", folder / "run" / "model.pth", "--formats", "onnx")
    said = run(
        "isbi-infer",
        folder / "train-volume.tif",
        "--model",
        folder / "run" / "model.onnx",
        "--tile",
        "104",
        "--json",
    )
    return folder, image_ZYX, json.loads(said)


def test_the_segmented_stack_is_what_the_checkpoint_computes_on_whole_sections(walked):
    folder, image_ZYX, summary = walked
    checkpoint = load_checkpoint(folder / "run" / "model.pth")
    logits_ZYX = predict_whole(checkpoint.load_network(), image_ZYX, stride=8, border=8)
    expected_ZYX = torch.sigmoid(torch.from_numpy(logits_ZYX)).numpy()
    found_ZYX = tifffile.imread(summary["output"])
    assert found_ZYX.shape == image_ZYX.shape
    np.testing.assert_allclose(found_ZYX, expected_ZYX, atol=1e-5)


def test_the_network_has_learnt_something(walked):
    folder, _, _ = walked
    history = json.loads((folder / "run" / "history.json").read_text())
    assert [entry["epoch"] for entry in history] == [2, 4, 6, 8, 10, 12]
    assert history[-1]["training_loss"] < 0.9 * history[0]["training_loss"]


def test_the_exported_model_tells_where_it_comes_from(walked):
    folder, _, _ = walked
    model = (folder / "run" / "model.onnx").read_bytes()
    contract = read_contract(model)
    assert (contract.stride, contract.border, contract.pixel_size_nm) == (8, 8, 4.0)
    assert contract.provenance["training"]["sections"] == "0:3"
    assert contract.provenance["scores"]["sections"] == "3:4"
    assert contract.exact
