"""``isbi-export --contract``: what it needs, and what it writes."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from isbi_export.foreign import ForeignModel, add_contract
from isbi_infer import ModelError, Segmenter
from isbi_infer.model.contract import parse_contract, read_contract
from isbi_infer.sample import synthetic_stack

ABSENT = ("torch", "onnxscript", "scipy", "skimage", "numba", "matplotlib", "yaml", "isbi_train")


@pytest.fixture
def foreign(tmp_path):
    """A model of one 3x3 convolution after 2x2 pooling, to logits of membrane."""
    kernel = numpy_helper.from_array(np.full((1, 1, 3, 3), 0.2, np.float32), "kernel")
    image, result = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, "y", "x"]) for name in ("x", "y")
    )
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    nodes = [
        helper.make_node("MaxPool", ["x"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["pooled", "kernel"], ["seen"], pads=[1] * 4),
        helper.make_node("Resize", ["seen", "", "scales"], ["y"], mode="nearest"),
    ]
    graph = helper.make_graph(nodes, "g", [image], [result], [kernel, scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path / "foreign.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_it_needs_onnx_and_a_runtime_and_nothing_that_trains(foreign):
    """A process in which torch and its company cannot be imported, as where they are not installed."""
    script = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({ABSENT!r}))\n"
        "from isbi_export.cli import main\n"
        f"sys.argv = ['isbi-export', '--contract', {str(foreign)!r}, '--output-is', 'membrane-logits', '--json']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    contract = parse_contract(json.dumps(json.loads(done.stdout)))
    assert (contract.stride, contract.halo, contract.exact) == (2, 2, True)
    written = foreign.with_name("foreign.contract.onnx")
    assert read_contract(written.read_bytes()) == contract
    image_ZYX, _ = synthetic_stack(1, 64, 80)
    found_ZYX = Segmenter(written, provider="cpu", tile=40)(image_ZYX)
    assert (found_ZYX == Segmenter(written, provider="cpu")(image_ZYX)).all()


def test_without_onnx_it_says_in_one_line_what_to_install(foreign):
    script = (
        "import sys, importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'onnx' else find(name, *more)\n"
        "from isbi_export.cli import main\n"
        f"sys.argv = ['isbi-export', '--contract', {str(foreign)!r}]\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == "isbi-export: onnx not installed; run: pip install 'isbi-infer[export]'\n"
    assert not foreign.with_name("foreign.contract.onnx").exists()


def test_weights_in_another_file_are_refused_with_the_remedy(foreign):
    model = onnx.load(foreign)
    onnx.save(model, foreign, save_as_external_data=True, size_threshold=0, location="weights.bin")
    with pytest.raises(ModelError, match=rf"{foreign.name}: the weights lie outside the file"):
        add_contract(foreign, foreign.with_name("out.onnx"), ForeignModel())
    assert not foreign.with_name("out.onnx").exists()


def test_what_is_no_onnx_file_is_one_line_that_names_it(foreign):
    foreign.write_bytes(foreign.read_bytes()[:-40])
    done = subprocess.run(
        [sys.executable, "-c", "from isbi_export.cli import main; main()", "--contract", str(foreign)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)
    assert f"{foreign}: cannot load the model: it is damaged" in done.stderr
