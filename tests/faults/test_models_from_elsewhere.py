"""Model files that no runtime of this machine takes, and weights that lie anywhere but in the file."""

import io
import json
import os
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny_files import CONTRACT, graph_around, tiny_onnx, weight_named

from isbi_infer import ModelError, Segmenter
from isbi_infer.model.contract import CONTRACT_KEY
from isbi_infer.model.devices import open_backend
from isbi_infer.model.file import read_model_file

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
    refused(changed(change), "needs a newer onnxruntime")


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
