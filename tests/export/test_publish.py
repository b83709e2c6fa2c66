"""Publishing: files that carry their contract and equal their checkpoint, or no files at all."""

import getpass
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from isbi_export import publish as publish_module
from isbi_export.formats.exported import WRITERS
from isbi_export.formats.onnx_export import OPSET
from isbi_export.formats.torchscript import read_torchscript
from isbi_export.proof.gates import GATES
from isbi_export.proof.probes import probe_shapes
from isbi_export.publish import publish
from isbi_infer.errors import ModelError, OutputError, UsageError
from isbi_infer.model.contract import CONTRACT_KEY, SCHEMA, parse_contract, read_contract
from isbi_train.config import NetworkConfig, TrainConfig
from isbi_train.networks.checkpoint import file_sha256, load_checkpoint

FLOAT32_TOLERANCE = GATES["fp32"].largest
REPORT = ["model.parity.html", "model.parity.json"]


def onnx_contract(path):
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert list(metadata) == [CONTRACT_KEY]
    return metadata[CONTRACT_KEY]


def contents(path):
    """Give the bytes of a file, and of the members of a TorchScript archive, which are partly compressed."""
    yield path.read_bytes()
    if path.suffix in (".pt", ".pt2"):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name.encode() + b"\0" + archive.read(name)


def sessions(path):
    return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


def test_both_files_are_named_after_the_checkpoint_and_nothing_else_is_left(published):
    assert sorted(os.listdir(published)) == ["model.onnx", *REPORT, "model.pt"]


def test_both_files_carry_one_contract_but_for_what_was_measured_on_each(published):
    _, document = read_torchscript(published / "model.pt")
    script, graph = json.loads(document), json.loads(onnx_contract(published / "model.onnx"))
    for contract in (script, graph):
        assert 0 < contract["provenance"].pop("parity")["largest"] <= FLOAT32_TOLERANCE
        assert contract.pop("halo_error").keys() == {"0", "8", "16", "24", "32", "40"}
        assert "cpu fp32" in contract.pop("runtimes")
    for name in ("digest", "checksum"):
        assert script.pop(name) != graph.pop(name)
    assert script == graph
    assert read_contract((published / "model.pt").read_bytes()) == parse_contract(document)


def test_the_contract_says_what_the_checkpoint_and_the_network_are(published, trained):
    contract, checkpoint = parse_contract(onnx_contract(published / "model.onnx")), load_checkpoint(trained)
    assert (contract.stride, contract.halo, contract.border) == (8, 48, 8)
    assert contract.exact
    assert contract.pixel_size_nm == 4.0
    assert contract.threshold == checkpoint.scores["threshold"]
    assert contract.familiar == checkpoint.data.get("familiar")
    assert contract.provenance["scores"] == checkpoint.scores
    assert contract.provenance["training"] == {
        "checkpoint_sha256": file_sha256(trained),
        "data_sha256": checkpoint.data["sha256"],
        "sections": "0:2",
        "network": checkpoint.network.to_plain(),
        "epochs": 2,
    }


@pytest.mark.usefixtures("exported_once")
def test_the_contract_says_what_weights_a_training_began_with_and_what_it_learnt_from(save, tmp_path):
    data = {"sha256": {"images": "0", "labels": "1"}, "sections": 30, "pixel_size_nm": None}
    path = save(data={**data, "init": "2", "teaching": {"teacher 0": "3", "unlabelled": "4"}})
    (proof,) = publish(path, tmp_path, ["onnx"]).files
    training = parse_contract(onnx_contract(proof.path)).provenance["training"]
    assert training["init_sha256"] == "2"
    assert training["teaching_sha256"] == {"teacher 0": "3", "unlabelled": "4"}


def test_names_in_the_contract_are_those_of_the_graph(published):
    contract, session = (
        parse_contract(onnx_contract(published / "model.onnx")),
        sessions(published / "model.onnx"),
    )
    assert [tensor.name for tensor in session.get_inputs()] == [contract.input_name]
    assert [tensor.name for tensor in session.get_outputs()] == [contract.output_name]


@pytest.mark.usefixtures("exported_once")
def test_the_proof_covers_odd_and_oblong_shapes_and_batches(save, tmp_path):
    (proof,) = publish(save(), tmp_path, ["torchscript"]).files
    assert proof.path == tmp_path / "model.pt"
    random = [comparison for comparison in proof.evidence.comparisons if comparison.data == "random"]
    assert tuple(comparison.shape for comparison in random) == probe_shapes(4)
    assert {comparison.shape[0] for comparison in random} == {1, 3}
    assert any(comparison.shape[2] != comparison.shape[3] for comparison in random)
    assert {comparison.data for comparison in proof.evidence.comparisons} == {"random", "synthetic"}
    assert 0 < proof.evidence.largest <= FLOAT32_TOLERANCE


def test_any_batch_height_and_width_runs_and_equals_the_checkpoint(published, trained):
    network = load_checkpoint(trained).load_network()
    session, (scripted, _) = sessions(published / "model.onnx"), read_torchscript(published / "model.pt")
    for shape in [(1, 1, 8, 8), (2, 1, 8, 64), (5, 1, 24, 16), (1, 1, 136, 72)]:
        image_NCYX = np.random.default_rng(3).standard_normal(shape, dtype=np.float32)
        (found_NCYX,) = session.run(None, {"image": image_NCYX})
        with torch.inference_mode():
            expected_NCYX = torch.sigmoid(network(torch.from_numpy(image_NCYX))).numpy()
            scripted_NCYX = scripted(torch.from_numpy(image_NCYX)).numpy()
        np.testing.assert_allclose(found_NCYX, expected_NCYX, rtol=0, atol=FLOAT32_TOLERANCE)
        np.testing.assert_allclose(scripted_NCYX, expected_NCYX, rtol=0, atol=FLOAT32_TOLERANCE)


def test_the_graph_passes_the_checker_at_the_opset_it_names(published):
    proto = onnx.load(published / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", OPSET)]
    assert {node.domain for node in proto.graph.node} == {""}
    dimensions = [dimension.dim_param for dimension in proto.graph.input[0].type.tensor_type.shape.dim]
    assert dimensions[0]
    assert dimensions[2]
    assert dimensions[3]


def test_all_weights_are_inside_the_file(published, tmp_path):
    proto = onnx.load(published / "model.onnx", load_external_data=False)
    weights = [*proto.graph.initializer]
    assert weights
    for tensor in weights:
        assert tensor.data_location == onnx.TensorProto.DEFAULT
        assert not tensor.external_data
    alone = shutil.copy(published / "model.onnx", tmp_path / "alone.onnx")
    (probability_NCYX,) = sessions(alone).run(None, {"image": np.zeros((1, 1, 8, 8), np.float32)})
    assert probability_NCYX.shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    "suffix",
    [
        "onnx",
        "fp16.onnx",
        "int8.onnx",
        "uint8.onnx",
        "int8.uint8.onnx",
        "pt",
        "pt2",
        "parity.json",
        "parity.html",
    ],
)
def test_no_trace_of_this_machine_is_in_a_file(everything, suffix):
    published, name = everything[0], f"model.{suffix}"
    traces = [
        b"site-packages",
        b".py(",
        b"Traceback",
        str(published.parent).encode(),
        str(Path.home()).encode() + b"/",
    ]
    for module in (publish_module, torch):
        traces.append(str(Path(module.__file__).parents[1]).encode())
    traces += [f"/{getpass.getuser()}/".encode(), socket.gethostname().encode(), b"/work", b"/tmp"]
    for content in contents(published / name):
        for trace in traces:
            assert trace not in content, (trace, content[:80])


def test_exporting_again_gives_the_same_bytes_from_and_into_any_folder(published, trained, tmp_path):
    elsewhere = tmp_path / "another name" / "model.pth"
    elsewhere.parent.mkdir()
    shutil.copy(trained, elsewhere)
    publish(elsewhere, elsewhere.parent, ["torchscript", "onnx"])
    for name in ("model.onnx", "model.pt"):
        assert elsewhere.with_name(name).read_bytes() == (published / name).read_bytes(), name


@pytest.mark.usefixtures("exported_once")
def test_a_script_is_the_same_whatever_torch_was_told_before(published, trained, tmp_path):
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=True, allow_tf32=True):
        publish(trained, tmp_path, ["torchscript"])
    assert (tmp_path / "model.pt").read_bytes() == (published / "model.pt").read_bytes()


def test_a_script_never_asks_for_narrow_arithmetic(published):
    model, _ = read_torchscript(published / "model.pt")
    calls = [line for line in model.code.splitlines() if "torch._convolution(" in line]
    assert calls
    assert all(line.endswith("True, False)") for line in calls)  # cuDNN yes, TensorFloat-32 no


@pytest.mark.usefixtures("exported_once")
def test_a_network_without_pixel_unshuffle_is_published_too(save, tmp_path):
    proofs = publish(
        save(network=NetworkConfig(base=2, depth=2, unshuffle=1)), tmp_path, ["onnx", "torchscript"]
    ).files
    assert [proof.path.name for proof in proofs] == ["model.onnx", "model.pt"]
    assert all(proof.evidence.largest <= FLOAT32_TOLERANCE for proof in proofs)
    contract = parse_contract(onnx_contract(tmp_path / "model.onnx"))
    assert (contract.stride, contract.halo, contract.pixel_size_nm) == (4, 24, None)


@pytest.mark.usefixtures("exported_once")
def test_a_format_asked_for_twice_is_written_once(save, tmp_path):
    assert len(publish(save(), tmp_path, ["torchscript", "torchscript"]).files) == 1


@pytest.mark.parametrize("formats", [["tensorflow"], ["onnx", "onxx"], []])
def test_an_unknown_format_is_refused_before_anything_is_read(tmp_path, formats):
    with pytest.raises(UsageError, match="choose from onnx, torchscript, program"):
        publish(tmp_path / "nowhere.pth", tmp_path, formats)


def test_a_folder_that_cannot_be_written_is_found_before_any_export(monkeypatch, save, tmp_path):
    exported = []
    monkeypatch.setitem(WRITERS, "onnx", lambda *arguments: exported.append(arguments))
    checkpoint = save()
    (tmp_path / "taken" / "model.onnx").mkdir(parents=True)
    for folder in (tmp_path / "nowhere", checkpoint, tmp_path / "taken"):
        with pytest.raises(OutputError, match=re.escape(str(folder))):
            publish(checkpoint, folder, ["onnx"])
    assert not exported


@pytest.mark.parametrize("name", ["encoder.0.1.running_var", "encoder.0.1.running_mean", "bottom.4.weight"])
def test_nan_in_a_batch_norm_is_refused_by_name(save, tmp_path, name):
    path = save(state=lambda weights: weights[name].fill_(float("nan")))
    with pytest.raises(ModelError, match=re.escape(name)):
        publish(path, tmp_path, ["onnx", "torchscript"])
    assert os.listdir(tmp_path) == ["model.pth"]


def test_scores_that_are_no_numbers_are_refused(save, tmp_path):
    with pytest.raises(ModelError, match="loss"):
        publish(save(scores={"loss": float("nan")}), tmp_path, ["onnx"])
    assert os.listdir(tmp_path) == ["model.pth"]


def test_a_damaged_checkpoint_publishes_nothing(save, tmp_path):
    path = save()
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ModelError, match=r"model\.pth"):
        publish(path, tmp_path, ["onnx"])
    assert os.listdir(tmp_path) == ["model.pth"]


@pytest.mark.usefixtures("exported_once")
def test_a_progress_checkpoint_without_scores_is_published(save, tmp_path):
    publish(save(scores={}, train=TrainConfig(border=24)), tmp_path, ["torchscript"])
    contract = parse_contract(read_torchscript(tmp_path / "model.pt")[1])
    assert (contract.provenance["scores"], contract.border) == ({}, 24)


def test_the_contract_document_is_plain_json_without_nan(published):
    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(onnx_contract(published / "model.onnx"), parse_constant=refuse)["schema"] == SCHEMA


def test_foreign_and_damaged_scripts_are_model_errors(published, tmp_path):
    path = tmp_path / "model.pt"
    whole = (published / "model.pt").read_bytes()
    for content in (b"", b"<html>", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"model\.pt: not a readable TorchScript"):
            read_torchscript(path)
    with pytest.raises(ModelError, match=r"nowhere\.pt"):
        read_torchscript(tmp_path / "nowhere.pt")


def test_a_killed_export_leaves_no_final_file_and_the_next_one_sweeps(published, trained, tmp_path):
    checkpoint = Path(shutil.copy(trained, tmp_path / "model.pth"))
    program = [Path(sys.executable).with_name("isbi-export"), checkpoint]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    moments, killed = random.Random(2012), 0
    for _ in range(2):
        with subprocess.Popen(program, env=environment, stdout=-3, stderr=-3) as export:
            time.sleep(moments.uniform(0.8, 3.6))
            export.send_signal(signal.SIGKILL)
        killed += export.returncode == -signal.SIGKILL
        for name in ("model.onnx", "model.pt"):
            if (tmp_path / name).exists():  # only where the export was through, or all but
                assert (tmp_path / name).read_bytes() == (published / name).read_bytes()
                (tmp_path / name).unlink()
    assert killed
    publish(checkpoint, tmp_path, ["torchscript"])
    assert [name for name in os.listdir(tmp_path) if name.endswith(".pt")] == ["model.pt"]
