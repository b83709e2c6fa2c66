"""What a run returns are probabilities, or it is an error: nothing else is ever written."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tifffile
from drawn import synthetic_stack
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from isbi_export.graph.metadata import stamp
from isbi_infer import Segmenter
from isbi_infer.errors import ModelError
from isbi_infer.model.contract import read_contract
from isbi_infer.pixels.probability import checked
from isbi_models import default_model

CONTRACT = replace(
    read_contract(default_model().path.read_bytes()), stride=1, halo=0, halo_error={}, runtimes=()
)


def linear_model(folder, slope):
    """Write a model that passes for one on small values, p = 1/2 + slope x, and leaves [0, 1] on large ones."""
    names = CONTRACT.input_name, CONTRACT.output_name
    image, result = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, "height", "width"])
        for name in names
    )
    constants = [
        numpy_helper.from_array(np.full((1, 1, 1, 1), value, np.float32), name)
        for name, value in (("slope", slope), ("half", 0.5))
    ]
    nodes = [
        helper.make_node("Mul", [image.name, "slope"], ["scaled"], "mul"),
        helper.make_node("Add", ["scaled", "half"], [result.name], "add"),
    ]
    graph = helper.make_graph(nodes, "g", [image], [result], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = folder / "linear.onnx"
    path.write_bytes(stamp(model, CONTRACT))
    onnx.checker.check_model(str(path))
    return path


def test_a_result_that_leaves_0_to_1_is_an_error_and_nothing_is_written(tmp_path):
    image_ZYX, _ = synthetic_stack(2, 64, 64)
    image_ZYX[1, 30:34, 30:34] = 255
    tifffile.imwrite(tmp_path / "stack.tif", image_ZYX, photometric="minisblack")
    done = subprocess.run(
        [
            Path(sys.executable).with_name("isbi-infer"),
            tmp_path / "stack.tif",
            "-o",
            tmp_path / "out.tif",
            "--model",
            linear_model(tmp_path, 0.24),
            "--provider",
            "cpu",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ModelError.exit_code
    assert "expected probabilities in [0, 1]" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["linear.onnx", "stack.tif"]


def test_a_result_within_0_to_1_is_returned_as_it_is(tmp_path):
    image_ZYX, _ = synthetic_stack(1, 64, 64)
    found_ZYX = Segmenter(linear_model(tmp_path, 0.01), provider="cpu")(image_ZYX)
    assert 0 < found_ZYX.min() < 0.5 < found_ZYX.max() < 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.01, -0.01])
def test_what_is_no_probability_is_refused(value):
    result_YX = np.full((3, 4), 0.5, np.float32)
    result_YX[1, 2] = value
    with pytest.raises(ModelError, match=r"expected probabilities in \[0, 1\]"):
        checked(result_YX)


@given(st.lists(st.floats(-(2**-20), 1 + 2**-20, width=32), min_size=1, max_size=8))
def test_what_rounding_leaves_beyond_0_and_1_is_taken_off_and_nothing_else(values):
    result = np.array(values, np.float32)
    found = checked(result)
    assert found.min() >= 0
    assert found.max() <= 1
    inside = (result >= 0) & (result <= 1)
    np.testing.assert_array_equal(found[inside], result[inside])


def test_resampled_results_of_one_stay_at_most_one():
    image_ZYX, label_ZYX = synthetic_stack(1, 100, 100)
    found_ZYX = Segmenter(provider="cpu", pixel_size=6.1)(np.where(label_ZYX > 0, 200, image_ZYX))
    assert found_ZYX.min() >= 0
    assert found_ZYX.max() <= 1
