"""Half precision, eight bits, bytes in and out, programs: what each file holds, and how far it is from the others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from drawn import synthetic_stack
from onnx import TensorProto, helper, numpy_helper

from isbi_export.formats.exported import WRITERS
from isbi_export.formats.program import read_program
from isbi_export.graph import raw_io
from isbi_export.graph.int8 import _upsampling_by_convolution
from isbi_export.graph.metadata import stamp
from isbi_export.proof.gates import GATES, Gate
from isbi_export.proof.probes import probe_shapes
from isbi_export.publish import NotPublishedError, publish
from isbi_export.variants import Variant, plan_variants
from isbi_infer import Segmenter
from isbi_infer.errors import ModelError, UsageError
from isbi_infer.model.contract import parse_contract
from isbi_infer.model.devices import open_backend
from isbi_infer.model.opening import open_model
from isbi_infer.pixels.probability import encode
from isbi_train.config import NetworkConfig
from isbi_train.networks.checkpoint import load_checkpoint

PRECISIONS, IOS = ["fp32", "fp16", "int8"], ["float32", "uint8"]
ONNX = [
    "model.onnx",
    "model.uint8.onnx",
    "model.fp16.onnx",
    "model.fp16.uint8.onnx",
    "model.int8.onnx",
    "model.int8.uint8.onnx",
]


def contract(path):
    (entry,) = onnx.load(path).metadata_props
    return parse_contract(entry.value)


def segmented(path, image_ZYX, **options):
    """Give what a file's pipeline gives, as stored."""
    return np.stack(list(Segmenter(path, provider="cpu", **options).stream(image_ZYX)))


def test_every_variant_is_there_under_its_name(everything):
    folder, report = everything
    assert [file.path.name for file in report.files] == [*ONNX, "model.pt", "model.pt2"]
    assert all(file.published for file in report.files)
    assert sorted(os.listdir(folder)) == sorted(
        [*ONNX, "model.pt", "model.pt2", "model.parity.html", "model.parity.json"]
    )


@pytest.mark.parametrize("name", ONNX)
def test_a_file_says_what_it_is_and_the_runtime_agrees(everything, name):
    opened = open_model(everything[0] / name, "cpu")
    found, plain = opened.contract, contract(everything[0] / "model.onnx")
    raw = "uint8" in name
    precision = "float16" if ".fp16." in name else "int8" if ".int8." in name else "float32"
    assert found.precision == precision
    assert (found.input_dtype, found.output_dtype) == ("uint8", "uint8") if raw else ("float32", "float32")
    assert found.statistics_inputs == (("mean", "inverse_std") if raw else ())
    for field in ("stride", "halo", "border", "flops_per_pixel", "exact"):
        assert getattr(found, field) == getattr(plain, field), field
    for part in ("training", "scores"):
        assert found.provenance[part] == plain.provenance[part] != {}, part
    assert found.activation_bytes_per_pixel == plain.activation_bytes_per_pixel
    assert set(found.halo_error) == set(plain.halo_error) != set()
    variant = Variant(file_format="onnx", precision=precision)
    assert found.provenance["parity"]["gate"] == GATES[variant.arithmetic].to_plain()
    assert 0 < found.provenance["parity"]["largest"] < 0.2
    assert ("calibrated_on" in found.provenance["parity"]) == (precision == "int8")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(1, 1), (37, 83), (128, 96)])
def test_bytes_are_the_rounded_probabilities_of_the_same_graph(everything, precision, shape):
    middle = "" if precision == "fp32" else f".{precision}"
    image_ZYX = synthetic_stack(2, 128, 128)[0][:, : shape[0], : shape[1]]
    floats = Segmenter(everything[0] / f"model{middle}.onnx", provider="cpu")(image_ZYX)
    stored = Segmenter(everything[0] / f"model{middle}.uint8.onnx", provider="cpu")(image_ZYX)
    np.testing.assert_array_equal(encode(stored, "cell", "uint8"), encode(floats, "cell", "uint8"))
    assert np.ptp(floats) > 0 or shape == (1, 1)


@pytest.mark.parametrize("name", ONNX)
def test_tiles_of_every_variant_equal_the_whole_section_to_the_bit(everything, tissue_YX, name):
    image_ZYX = tissue_YX[None, :331, :290]
    whole_ZYX = segmented(everything[0] / name, image_ZYX)
    assert np.ptp(whole_ZYX) > 0
    halo, stride = contract(everything[0] / name).halo, contract(everything[0] / name).stride
    for tile in (2 * halo + stride, 2 * halo + 5 * stride):
        np.testing.assert_array_equal(segmented(everything[0] / name, image_ZYX, tile=tile), whole_ZYX)


def test_half_precision_casts_twice_and_holds_the_halved_weights(everything, trained):
    graph, original = (onnx.load(everything[0] / name).graph for name in ("model.fp16.onnx", "model.onnx"))
    assert [node.op_type for node in graph.node].count("Cast") == 2
    assert graph.node[0].op_type == "Cast"
    assert [node.op_type for node in graph.node[-2:]] == ["Cast", "Sigmoid"]
    halved = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for tensor in original.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            expected = torch.from_numpy(numpy_helper.to_array(tensor).copy()).half().numpy()
            np.testing.assert_array_equal(halved[tensor.name], expected)
            assert halved[tensor.name].dtype == np.float16


def test_weights_of_eight_bits_use_seven_per_channel(everything):
    graph = onnx.load(everything[0] / "model.int8.onnx").graph
    quantised = [t for t in graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 4]
    assert len(quantised) == 12  # of 14 convolutions, all but the folding one and the head
    for tensor in quantised:
        assert np.abs(numpy_helper.to_array(tensor).astype(int)).max() <= 64
        (scale,) = [t for t in graph.initializer if t.name == tensor.name.replace("_quantized", "_scale")]
        assert list(scale.dims) == [tensor.dims[0]]
    assert not [node for node in graph.node if node.op_type == "ConvTranspose"]


@pytest.mark.parametrize("side", [2, 3])
def test_upsampling_written_as_a_convolution_is_the_same_function(side):
    generator = np.random.default_rng(side)
    weight_IOYX = generator.standard_normal((5, 3, side, side), np.float32)
    weights = [
        numpy_helper.from_array(weight_IOYX, "weight"),
        numpy_helper.from_array(generator.standard_normal(3, np.float32), "bias"),
    ]
    node = helper.make_node(
        "ConvTranspose", ["image", "weight", "bias"], ["up"], strides=[side, side], kernel_shape=[side, side]
    )
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, None, None])
        for name, channels in (("image", 5), ("up", 3))
    ]
    graph = helper.make_graph([node], "upsampling", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    rewritten = _upsampling_by_convolution(model)
    assert [node.op_type for node in rewritten.graph.node] == ["Conv", "DepthToSpace"]
    image_NCYX = generator.standard_normal((2, 5, 4, 7), np.float32)
    found, expected = (
        open_backend(proto.SerializeToString(), "cpu").run(image_NCYX) for proto in (rewritten, model)
    )
    assert expected.shape == (2, 3, 4 * side, 7 * side)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.more
def test_another_process_gives_the_same_bytes(everything, trained, tmp_path):
    program = Path(sys.executable).with_name("isbi-export")
    choices = [
        "--formats",
        "onnx,torchscript,program",
        "--precision",
        "int8,fp32",
    ]
    done = subprocess.run(
        [program, trained, "-o", tmp_path, *choices], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "isbi-export:" not in done.stderr  # only how far it is
    assert [line.count("differs from the checkpoint") for line in done.stdout.splitlines()] == [
        1,
        1,
        1,
        1,
        0,
        0,
    ]
    for name in ("model.onnx", "model.int8.onnx", "model.pt", "model.pt2"):
        assert (tmp_path / name).read_bytes() == (everything[0] / name).read_bytes(), name


def test_a_program_takes_any_batch_height_and_width_and_carries_the_contract(everything, trained):
    module, found = read_program(everything[0] / "model.pt2")
    network = load_checkpoint(trained).load_network()
    assert (found.stride, found.halo, found.border) == (8, 48, 8)
    for shape in (*probe_shapes(8), (2, 1, 8, 64), (5, 1, 24, 16)):
        image_NCYX = torch.randn(shape)
        with torch.inference_mode():
            expected_NCYX = torch.sigmoid(network(image_NCYX))
            torch.testing.assert_close(module(image_NCYX), expected_NCYX, rtol=0, atol=1e-5)


def test_damaged_and_foreign_programs_are_model_errors(everything, tmp_path):
    path = tmp_path / "model.pt2"
    whole = (everything[0] / "model.pt2").read_bytes()
    for content in (b"", b"<html>", whole[: len(whole) // 2], (everything[0] / "model.pt").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"model\.pt2: not a readable torch.export program"):
            read_program(path)


@pytest.mark.parametrize(
    "network",
    [
        NetworkConfig(base=2, depth=1, unshuffle=4),
        NetworkConfig(base=2, depth=1, unshuffle=2, neighbours=2),
        pytest.param(NetworkConfig(base=8, depth=1, unshuffle=2, separable=True), marks=pytest.mark.more),
        pytest.param(NetworkConfig(base=2, depth=1, unshuffle=1, arch="valid-unet"), marks=pytest.mark.more),
        pytest.param(
            NetworkConfig(base=3, depth=3, unshuffle=1, widest=6, dropout=0.5), marks=pytest.mark.more
        ),
    ],
    ids=str,
)
def test_every_kind_of_network_passes_in_every_variant(monkeypatch, save, tmp_path, network):
    # Random weights have no segments that eight bits could spare; exactness and rounding are still required.
    monkeypatch.setitem(GATES, "int8", Gate(changed=0.1))
    report = publish(save(network=network), tmp_path, ["onnx", "torchscript"], precisions=PRECISIONS, ios=IOS)
    assert [file.path.name for file in report.files] == [*ONNX, "model.pt"]
    for file in report.files:
        shapes = {found.shape for found in file.evidence.comparisons if found.data == "random"}
        assert shapes == set(probe_shapes(network.stride))
        assert file.evidence.tiles == 0
    halos = {contract(tmp_path / name).halo for name in ONNX}
    assert len(halos) == 1


def test_a_program_of_unpadded_convolutions_equals_its_checkpoint(save, tmp_path):
    network = NetworkConfig(base=2, depth=1, unshuffle=1, arch="valid-unet")
    (file,) = publish(save(network=network), tmp_path, ["program"]).files
    assert 0 < file.evidence.largest <= 1e-5


@pytest.mark.parametrize("opset", [18, pytest.param(23, marks=pytest.mark.more)])
def test_other_opsets_pass_too(save, tmp_path, opset):
    publish(save(network=NetworkConfig(base=2, depth=1)), tmp_path, ["onnx"], opset=opset)
    (found,) = onnx.load(tmp_path / "model.onnx").opset_import
    assert found.version == opset


def wrong_constant(path, exported, variant, contract):
    graph = exported.graph_for(variant)
    for tensor in graph.graph.initializer:
        if tensor.name == "largest_byte":
            tensor.float_data[:] = [254.0]
    path.write_bytes(stamp(graph, contract))


@pytest.mark.usefixtures("exported_once")
def test_a_wrong_constant_in_the_rounding_is_caught(monkeypatch, save, tmp_path):
    monkeypatch.setitem(WRITERS, "onnx", wrong_constant)
    with pytest.raises(
        NotPublishedError, match=r"uint8\.onnx: .* rounds \d+ pixels otherwise than isbi-infer"
    ):
        publish(save(), tmp_path, ["onnx"], ios=["uint8"])
    assert os.listdir(tmp_path) == ["model.pth"]


@pytest.mark.usefixtures("exported_once")
def test_swapped_statistics_are_caught(monkeypatch, save, tmp_path):
    mean, inverse_std = raw_io.MEAN, raw_io.INVERSE_STD
    with_raw_io = raw_io.with_raw_io

    def swapped(graph):
        model = with_raw_io(graph)
        names = {mean: inverse_std, inverse_std: mean}
        for node in model.graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
        return model

    monkeypatch.setattr("isbi_export.formats.exported.with_raw_io", swapped)
    with pytest.raises(NotPublishedError, match="differs from the checkpoint"):
        publish(save(), tmp_path, ["onnx"], ios=["uint8"])


def test_weights_beyond_half_precision_are_refused_and_float32_is_published(save, tmp_path):
    def huge(weights):
        """Make one layer's result a million times as large and take that back in the next: the same function."""
        for name in ("encoder.0.1.weight", "encoder.0.1.bias"):
            weights[name] *= 1e6
        weights["encoder.0.3.weight"] *= 1e-6

    with pytest.raises(NotPublishedError, match=r"fp16\.onnx: .*differs from the checkpoint by nan"):
        publish(save(state=huge), tmp_path, ["onnx"], precisions=["fp32", "fp16"])
    described = json.loads((tmp_path / "model.parity.json").read_text())["files"]
    assert [file["published"] for file in described] == [True, False]
    assert "model.fp16.onnx" not in os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("formats", "precisions", "ios", "reason"),
    [
        (["onnx"], ["fp8"], ["float32"], "choose from fp32, fp16, int8"),
        (["onnx"], ["fp32"], ["uint16"], "choose from float32, uint8"),
        (["onnx"], [], ["uint8"], "choose from fp32, fp16, int8"),
        (["torchscript"], ["fp16"], ["float32"], "torchscript files are float32 only; add onnx"),
        (["program"], ["fp32"], ["uint8"], "program files are float32 only; add onnx"),
    ],
)
def test_variants_that_cannot_be_are_refused(formats, precisions, ios, reason):
    with pytest.raises(UsageError, match=reason):
        plan_variants(formats, precisions, ios)


def test_variants_are_laid_out_once_each():
    found = plan_variants(["onnx", "program", "onnx"], ["int8", "fp32"], ["uint8", "float32"])
    assert [variant.suffix for variant in found] == [
        ".int8.onnx",
        ".int8.uint8.onnx",
        ".onnx",
        ".uint8.onnx",
        ".pt2",
    ]
    assert str(Variant(file_format="onnx", precision="int8", io="uint8")) == "onnx int8 uint8"


def test_half_precision_on_the_processor_says_that_tiles_may_differ(everything):
    (note,) = Segmenter(everything[0] / "model.fp16.onnx", provider="cpu").notes
    assert "tiles may differ from the whole section" in note
