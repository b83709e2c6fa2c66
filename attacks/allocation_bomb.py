"""A file of a few bytes that asks for terabytes: by a size that it declares, and nobody checks.

Memory is asked for before the first byte is read, so the program ends, or the machine stands still. Every declared
size is compared with what the file holds, and with what the contract allows, before it is believed. What a graph
computes while a runtime loads it cannot be known; an amount that the machine does not have is refused by the system,
and said.
"""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import tifffile
import torch
from onnx import TensorProto, helper, numpy_helper

from attacks.attempt import Attempt
from attacks.files import CONTRACT, graph_around, on_a_stack, tiny_checkpoint, tiny_onnx
from isbi_infer.model.contract import CONTRACT_KEY
from isbi_infer.model.file import read_model_file


def _tiff(folder: Path) -> Attempt:
    path = folder / "bomb.tif"
    tifffile.imwrite(path, np.zeros((10, 10), np.uint8), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tiff.pages[0].tags[name].overwrite(2_000_000)
    return Attempt(program="isbi-infer", arguments=[str(path)], code=4, says="bomb.tif")


def _tag(folder: Path) -> Attempt:
    path = folder / "bomb.tif"
    tags = struct.pack("<HHII", 256, 4, 2**31 - 1, 8) + struct.pack("<HHII", 257, 4, 2**32 - 1, 8)
    path.write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + tags + bytes(4))
    return Attempt(program="isbi-infer", arguments=[str(path)], code=4, says="bomb.tif")


def _zarr(folder: Path) -> Attempt:
    place = folder / "bomb.zarr"
    place.mkdir()
    side = 2**40
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [4, side, side],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, side, side]}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
    }
    (place / "zarr.json").write_text(json.dumps(document))
    return Attempt(program="isbi-infer", arguments=[str(place)], code=4, says="bomb.zarr")


def _with_contract(model: onnx.ModelProto, **changes: object) -> bytes:
    model.ClearField("metadata_props")
    digest = read_model_file(model.SerializeToString()).digest
    document = json.loads(replace(CONTRACT, digest=digest).to_json()) | changes
    model.metadata_props.add(key=CONTRACT_KEY, value=json.dumps(document))
    return model.SerializeToString()


def _initialiser(folder: Path) -> Attempt:
    side = 2**20
    weight = TensorProto(
        name="weight", data_type=TensorProto.FLOAT, dims=[side, 1, side, 3], raw_data=b"1234"
    )
    (folder / "model.onnx").write_bytes(_with_contract(graph_around((), [weight])))
    return Attempt(
        program="isbi-infer", arguments=on_a_stack(folder, folder / "model.onnx"), code=5, says="model.onnx"
    )


def _constant_of_shape(folder: Path) -> Attempt:
    shape = numpy_helper.from_array(np.array([2**20, 2**20, 3, 3]), "shape")
    node = helper.make_node("ConstantOfShape", ["shape"], ["weight"])
    (folder / "model.onnx").write_bytes(_with_contract(graph_around([node], [shape])))
    return Attempt(
        program="isbi-infer", arguments=on_a_stack(folder, folder / "model.onnx"), code=7, says="model.onnx"
    )


def _stride(folder: Path) -> Attempt:
    model = onnx.load_from_string(tiny_onnx())
    (folder / "model.onnx").write_bytes(_with_contract(model, stride=2**40, halo=2**40))
    return Attempt(
        program="isbi-infer",
        arguments=on_a_stack(folder, folder / "model.onnx"),
        code=5,
        says="beyond any network",
    )


def _expanded(folder: Path) -> Attempt:
    """Four bytes with strides of nothing are a tensor of any shape."""
    weights = {**tiny_checkpoint().state_dict, "head.weight": torch.zeros(()).expand(2**24, 2**20)}
    torch.save(weights, folder / "model.pth")
    arguments = [str(folder / "model.pth"), "--arch", "unet"]
    return Attempt(program="isbi-export", arguments=arguments, code=5, says="head.weight")


def _network(folder: Path) -> Attempt:
    weights = {"encoder.0.0.weight": torch.zeros(1, 4, 3, 3), "head.weight": torch.zeros(4, 1, 1, 1)}
    weights["encoder.6000.0.weight"] = torch.zeros(1)
    torch.save(weights, folder / "model.pth")
    return Attempt(program="isbi-export", arguments=[str(folder / "model.pth")], code=5, says="model.pth")


ATTEMPTS = {
    "a TIFF of 2,000,000 x 2,000,000 pixels": _tiff,
    "a TIFF tag of four thousand million values": _tag,
    "a volume of exabytes in one chunk": _zarr,
    "an ONNX weight of petabytes in four bytes": _initialiser,
    "an ONNX graph that makes one of terabytes": _constant_of_shape,
    "a contract whose smallest tile is a yottabyte": _stride,
    "a checkpoint with a tensor of four bytes and terabytes": _expanded,
    "weights of a network of 6000 levels": _network,
}
