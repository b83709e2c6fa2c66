"""A model that reads other files of whoever opens it, and lets them show in its probabilities.

An ONNX tensor may say that its numbers lie in another file, by a path that its author chose: beside the model, above
it (``..``), anywhere (absolute), behind a link, or in the working directory, which ONNX Runtime takes for the folder
of a model that is given as bytes. OpenVINO follows every one of them. The tensor may be an initialiser, a sparse one,
the value of a constant, or lie in a branch or a function of the model's own, where looking at initialisers misses it.

All of them are found before a runtime sees the file (`isbi_infer.model.file`), and ONNX Runtime is given a folder
that cannot exist. The conversion of a foreign model takes weights in from files beside it, and from nowhere else.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper

from attacks.attempt import Attempt
from attacks.files import graph_around, on_a_stack, weight_named

_REFUSED = "weights lie outside the file"


def _outside(location: str) -> TensorProto:
    tensor = weight_named()
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def _secret(folder: Path) -> Path:
    secret = folder / "elsewhere" / "secret.bin"
    secret.parent.mkdir()
    secret.write_bytes(np.arange(9, dtype=np.float32).tobytes())
    (folder / "link.bin").symlink_to(secret)
    (folder / "here.bin").write_bytes(secret.read_bytes())
    (folder / "models").mkdir()
    return secret


def _model(folder: Path, content: bytes, provider: str = "cpu") -> Attempt:
    path = folder / "models" / "model.onnx"
    path.write_bytes(content)
    arguments = [*on_a_stack(folder, path)[:-1], provider]
    return Attempt(program="isbi-infer", arguments=arguments, code=5, says=_REFUSED)


def _initialiser(folder: Path, location: str) -> Attempt:
    location = str(_secret(folder)) if location == "absolute" else (_secret(folder), location)[1]
    return _model(folder, graph_around((), [_outside(location)]).SerializeToString())


def _sparse(folder: Path) -> Attempt:
    _secret(folder)
    sparse, values = SparseTensorProto(), _outside("here.bin")
    values.dims[:] = [9]
    sparse.values.CopyFrom(values)
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(9), "places"))
    sparse.dims.extend([1, 1, 3, 3])
    return _model(folder, graph_around((), sparse=[sparse]).SerializeToString())


def _constant(folder: Path, provider: str) -> Attempt:
    node = helper.make_node("Constant", [], ["weight"])
    attribute = node.attribute.add()
    attribute.name, attribute.type = "value", 4
    attribute.t.CopyFrom(_outside(str(_secret(folder))))
    return _model(folder, graph_around([node]).SerializeToString(), provider)


def _foreign(folder: Path, location: str) -> Attempt:
    """Give the tool that adds a contract, which reads weights beside the file, a path to elsewhere."""
    secret = _secret(folder)
    location = str(secret) if location == "absolute" else location
    (folder / "models" / "link.bin").symlink_to(secret)
    path = folder / "models" / "model.onnx"
    path.write_bytes(graph_around((), [_outside(location)]).SerializeToString())
    target = folder / "models" / "with-contract"
    arguments = [str(path), "--contract", "--output", str(target)]
    return Attempt(program="isbi-export", arguments=arguments, code=5, says="weights")


ATTEMPTS = {
    "in the working directory": functools.partial(_initialiser, location="here.bin"),
    "above the model": functools.partial(_initialiser, location="../elsewhere/secret.bin"),
    "an absolute path": functools.partial(_initialiser, location="absolute"),
    "a link": functools.partial(_initialiser, location="link.bin"),
    "a device that never ends": functools.partial(_initialiser, location="/dev/zero"),
    "a sparse initialiser": _sparse,
    "a constant, for ONNX Runtime": functools.partial(_constant, provider="cpu"),
    "a constant, for OpenVINO": functools.partial(_constant, provider="openvino"),
    "a foreign model with ..": functools.partial(_foreign, location="../elsewhere/secret.bin"),
    "a foreign model with an absolute path": functools.partial(_foreign, location="absolute"),
    "a foreign model with a link": functools.partial(_foreign, location="link.bin"),
}
