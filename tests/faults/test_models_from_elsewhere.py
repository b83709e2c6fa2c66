"""Model files that no runtime of this machine takes, and weights that lie anywhere but in the file."""

import io
import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tifffile
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny_files import CONTRACT, graph_around, tiny_onnx, weight_named

from isbi_export.foreign import ForeignModel, add_contract
from isbi_export.graph.metadata import stamp
from isbi_infer import ModelError, Segmenter
from isbi_infer.model.contract import CONTRACT_KEY
from isbi_infer.model.devices import open_backend
from isbi_infer.model.file import read_model_file
from isbi_train.networks.weights import load_weights

SECRET = b"\1\2\3\4" * 9


@pytest.fixture
def refused(tmp_path):
    def check(content, says, name="model.onnx"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ModelError, match=says) as raised:
            Segmenter(path, provider="cpu")
        line = str(raised.value)
        assert line.startswith(f"{path}: ")
        assert line.isprintable()
        return line

    return check


def changed(change):
    """Return the tiny model with its graph changed, and the contract that belongs to it."""
    model = onnx.load_from_string(tiny_onnx())
    change(model)
    digest = read_model_file(model.SerializeToString()).digest
    (entry,) = (entry for entry in model.metadata_props if entry.key == CONTRACT_KEY)
    entry.value = replace(CONTRACT, digest=digest).to_json()
    return model.SerializeToString()


def newer_opset(model):
    model.opset_import[0].version = 999


def newer_ir(model):
    model.ir_version = 999


def custom_operator(model):
    model.graph.node[1].op_type, model.graph.node[1].domain = "Sharpen", "lab.example"
    model.opset_import.append(helper.make_opsetid("lab.example", 1))


@pytest.mark.parametrize("change", [newer_opset, newer_ir, custom_operator])
def test_too_new_opset_or_ir_and_custom_operators_need_a_newer_onnxruntime(refused, change):
    line = refused(changed(change), "needs a newer onnxruntime")
    assert ".cc:" not in line  # nor where in its source onnxruntime says so
    assert ".h:" not in line


def elsewhere(tensor, location):
    outside = TensorProto()
    outside.CopyFrom(tensor)
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value=location)
    return outside


def constant(value, **attribute):
    node = helper.make_node("Constant", [], [value])
    made = node.attribute.add()
    for name, part in attribute.items():
        made.name, made.type = {"t": ("value", 4), "sparse_tensor": ("sparse_value", 11)}[name]
        getattr(made, name).CopyFrom(part)
    return node


def sparse_of(values):
    sparse = onnx.SparseTensorProto()
    flat = TensorProto()
    flat.CopyFrom(values)
    flat.dims[:] = [9]
    sparse.values.CopyFrom(flat)
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(9), "places"))
    sparse.dims.extend([1, 1, 3, 3])
    return sparse


def in_a_branch(tensor):
    result = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1, 1, 3, 3])
    identity = helper.make_node("Identity", [tensor.name], ["inner"])
    branch = helper.make_graph([identity], "branch", [], [result], [tensor])
    return helper.make_node("If", ["always"], ["weight"], then_branch=branch, else_branch=branch)


def in_a_function(tensor):
    return helper.make_function(
        "lab", "Weight", [], ["w"], [constant("w", t=tensor)], [helper.make_opsetid("", 20)]
    )


WAYS = {
    "an initialiser": lambda t: graph_around((), [t]),
    "a sparse initialiser": lambda t: graph_around((), sparse=[sparse_of(t)]),
    "a constant": lambda t: graph_around([constant("weight", t=t)]),
    "a sparse constant": lambda t: graph_around([constant("weight", sparse_tensor=sparse_of(t))]),
    "a branch": lambda t: graph_around([in_a_branch(t)], [numpy_helper.from_array(np.array(True), "always")]),
    "a function": lambda t: graph_around(
        [helper.make_node("Weight", [], ["weight"], domain="lab")], functions=[in_a_function(t)]
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_external_data_is_refused_wherever_the_tensor_lies_and_whatever_path_it_names(
    tmp_path, monkeypatch, refused, way
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(SECRET)
    (tmp_path / "link.bin").symlink_to("secret.bin")
    os.link(tmp_path / "secret.bin", tmp_path / "hard.bin")
    for location in (
        "secret.bin",
        "../secret.bin",
        "link.bin",
        "hard.bin",
        str(tmp_path / "secret.bin"),
        "/dev/zero",
    ):
        content = WAYS[way](elsewhere(weight_named(), location)).SerializeToString()
        refused(content, "weights lie outside the file")


@pytest.mark.parametrize("way", WAYS)
def test_a_session_of_onnxruntime_alone_reads_no_other_file_either(tmp_path, monkeypatch, way):
    """The second wall: what would come past the first one is looked for in a folder that cannot be."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(SECRET)
    content = WAYS[way](elsewhere(weight_named(), "secret.bin")).SerializeToString()
    with pytest.raises(ModelError, match="cannot load"):
        open_backend(content, "cpu")


def test_a_field_whose_number_is_cut_to_another_by_parsers_hides_no_tensor(refused):
    """A key beyond 32 bits, which protobuf's parser takes for that of an initialiser."""
    model = graph_around((), []).SerializeToString()
    graph_key = bytes([0xBA, 0x80, 0x80, 0x80, 0x10])  # 7 << 3 | 2, and bit 32
    refused(model + graph_key + b"\x00", "number of a field is too large")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_under_the_name_of_an_onnx_file_is_refused_since_it_may_run_code(refused):
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Sigmoid()), buffer)
    line = refused(buffer.getvalue(), "may run any code")
    assert "name it model.pt" in line
    refused(buffer.getvalue(), "no contract", name="model.pt")


@pytest.mark.parametrize("field", ["stride", "halo", "border"])
def test_a_contract_of_absurd_sizes_is_refused_before_anything_is_allocated(refused, field):
    content = tiny_onnx()
    document = replace(CONTRACT, digest=read_model_file(content).digest).to_json()
    model = onnx.load_from_string(content)
    plain = json.loads(document)
    (entry,) = model.metadata_props
    entry.value = json.dumps(plain | {"halo": 2**20, field: 2**20})
    refused(model.SerializeToString(), "beyond any network")


READERS = {
    "isbi-infer": lambda path, _: Segmenter(path, provider="cpu"),
    "isbi-export": lambda path, _: load_weights(path),
    "isbi-export --contract": lambda path, folder: add_contract(path, folder / "out.onnx", ForeignModel()),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_or_a_device_is_refused_and_not_read_to_its_end(tmp_path, reader):
    """They may have none: a run would wait for ever, or take all of the memory."""
    os.mkfifo(tmp_path / "model.onnx")
    for path in (tmp_path / "model.onnx", Path("/dev/zero")):
        with pytest.raises(ModelError, match=f"^{path}: is a device or a pipe; expected a file"):
            READERS[reader](path, tmp_path)
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_a_zip_archive_is_no_file_of_pytorch(tmp_path, refused):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("package/model.onnx", tiny_onnx())
    refused(buffer.getvalue(), "a zip archive and no model; unpack it")


def test_a_page_with_a_mark_of_its_encoding_is_html(refused):
    refused(b"\xef\xbb\xbf<!DOCTYPE html>", "HTML; download the model again")


def test_a_link_to_nowhere_is_not_taken_for_a_slip_of_its_own_name(tmp_path):
    (tmp_path / "model.onnx").symlink_to("gone.onnx")
    with pytest.raises(ModelError, match=r"No such file or directory\); expected an \.onnx file$"):
        Segmenter(tmp_path / "model.onnx", provider="cpu")


@pytest.mark.parametrize("place", range(9))
def test_a_single_weight_that_is_no_number_is_noticed_at_load(refused, place):
    def spoil(model):
        weights = np.full(9, 0.1, np.float32)
        weights[place] = np.nan
        (weight,) = model.graph.initializer
        weight.CopyFrom(numpy_helper.from_array(weights.reshape(1, 1, 3, 3), weight.name))

    refused(changed(spoil), "are the weights damaged")


def test_a_network_that_fails_on_some_sections_only_is_named_with_the_first_of_them(tmp_path):
    """A probe at load has small values; |z| / 2.5 is a probability of most sections and of some is not."""
    image, result = CONTRACT.input_name, CONTRACT.output_name
    model = graph_around((), [weight_named()])
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.4), "share"))
    model.graph.node.extend(
        [helper.make_node("Abs", [image], ["size"]), helper.make_node("Mul", ["size", "share"], [result])]
    )
    path, stack = tmp_path / "model.onnx", tmp_path / "stack.tif"
    path.write_bytes(stamp(model, CONTRACT))
    even, uneven = np.random.default_rng(0).integers(0, 200, (2, 64, 64))
    uneven[:16, :16] += 400
    tifffile.imwrite(stack, np.stack([even, uneven]).astype(np.uint16), photometric="minisblack")
    with pytest.raises(ModelError) as raised:
        Segmenter(path, provider="cpu").segment_file(stack, tmp_path / "out.tif")
    assert str(raised.value).startswith(f"{path}: on section 1 of {stack}, the model gives values between 0")
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "stack.tif"]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"), (b"<html>", "HTML"), (b"", "empty")],
)
def test_what_is_no_model_is_named_for_what_it_is_where_a_contract_is_added_too(tmp_path, content, says):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"^{path}: .*{says}"):
        add_contract(path, tmp_path / "out.onnx", ForeignModel())
    assert os.listdir(tmp_path) == ["model.onnx"]
