"""``isbi-export --contract``: what it needs, and what it writes."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from drawn import synthetic_stack
from onnx import TensorProto, helper, numpy_helper

from isbi_export.foreign import ForeignModel, add_contract
from isbi_infer import ModelError, Segmenter
from isbi_infer.model.contract import parse_contract, read_contract

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


def graph_of(nodes, *, image=("n", 1, "y", "x"), result=("n", 1, "y", "x"), weights=(), **options):
    """A model from input x to output y, of float32 where nothing else is said."""
    kinds = [options.get(name, TensorProto.FLOAT) for name in ("takes", "returns")]
    inputs = [helper.make_tensor_value_info("x", kinds[0], image)]
    inputs += [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, image) for name in options.get("more", ())
    ]
    outputs = [helper.make_tensor_value_info("y", kinds[1], result)]
    outputs += [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, result) for n in options.get("beside", ())
    ]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    opset = options.get("opset", 20)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def node(operation, *names, **attributes):
    return helper.make_node(operation, names[:-1], names[-1:], **attributes)


@pytest.fixture
def adopt(tmp_path):
    """Adopt a model, and open the copy."""

    def adopting(model, **stated):
        source, target = tmp_path / "theirs.onnx", tmp_path / "ours.onnx"
        source.write_bytes(model.SerializeToString())
        add_contract(source, target, ForeignModel(**stated))
        return Segmenter(target, provider="cpu")

    return adopting


@pytest.fixture
def refuse(adopt, tmp_path):
    """Expect a model to be refused in one line that names its file, with nothing left behind."""

    def refusing(model, said, **stated):
        with pytest.raises(ModelError, match=said) as refused:
            adopt(model, **stated)
        assert str(refused.value).startswith(f"{tmp_path / 'theirs.onnx'}: ")
        assert "\n" not in str(refused.value)
        assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["theirs.onnx"]

    return refusing


def expected_of(section_YX):
    """The sigmoid of normalised grey values."""
    normal_YX = (section_YX - section_YX.mean(dtype=np.float64)) / section_YX.std(dtype=np.float64)
    return 1 / (1 + np.exp(-normal_YX))


LOGITS = [node("Identity", "x", "y")]
PROBABILITY = [node("Sigmoid", "x", "y")]
KERNEL_TO_2 = ("kernel", np.array([1, -1], np.float32).reshape(2, 1, 1, 1))


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 20])
@pytest.mark.parametrize(
    ("nodes", "output", "inverted"),
    [
        (PROBABILITY, "cell", False),
        (PROBABILITY, "membrane", True),
        (LOGITS, "cell-logits", False),
        (LOGITS, "membrane-logits", True),
    ],
)
def test_each_kind_of_output_becomes_the_probability_of_cell(adopt, opset, nodes, output, inverted):
    section_YX = synthetic_stack(1, 90, 120)[0][0]
    found_YX = adopt(graph_of(nodes, opset=opset), output=output)(section_YX)
    cell_YX = expected_of(section_YX)
    np.testing.assert_allclose(found_YX, 1 - cell_YX if inverted else cell_YX, atol=1e-5)


@pytest.mark.parametrize("opset", [8, 20])
@pytest.mark.parametrize("output", ["cell", "membrane"])
def test_rounding_beyond_a_probability_is_taken_off(adopt, opset, output):
    weights = [("steep", np.float32(100)), ("factor", np.float32(1.000004))]
    nodes = [node("Mul", "x", "steep", "z"), node("Sigmoid", "z", "p"), node("Mul", "p", "factor", "y")]
    section_YX = synthetic_stack(1, 96, 64)[0][0]
    found_YX = adopt(graph_of(nodes, weights=weights, opset=opset), output=output)(section_YX)
    assert (found_YX.min() >= 0, found_YX.max() <= 1) == (True, True)
    assert (found_YX.max() if output == "cell" else 1 - found_YX.min()) == 1


@pytest.mark.parametrize("output", ["cell", "membrane"])
@pytest.mark.parametrize(
    "nodes",
    [
        LOGITS,
        [node("Tanh", "x", "y")],
        [node("Relu", "x", "y")],
        [node("Sigmoid", "x", "p"), node("Log", "p", "y")],
    ],
)
def test_what_is_no_probability_is_refused_with_its_range_and_the_option(refuse, nodes, output):
    refuse(graph_of(nodes), rf"values from .* to .*, use --output-is {output}-logits", output=output)


def test_logits_that_happen_to_lie_within_0_and_1_are_no_probabilities(refuse):
    """As of a network that was hardly trained: another contrast takes them out of [0, 1]."""
    weights = [("factor", np.float32(0.1)), ("offset", np.float32(0.5))]
    nodes = [node("Mul", "x", "factor", "z"), node("Add", "z", "offset", "y")]
    refuse(graph_of(nodes, weights=weights), "use --output-is cell-logits")


@pytest.mark.parametrize("output", ["cell", "membrane"])
@pytest.mark.parametrize("moved", [[], [node("Identity", "p", "y")]])
def test_probabilities_called_logits_are_refused_with_the_option(refuse, output, moved):
    nodes = [node("Sigmoid", "x", "p" if moved else "y"), *moved]
    refuse(
        graph_of(nodes),
        rf"last operation is Sigmoid, .*; use --output-is {output}$",
        output=f"{output}-logits",
    )


@pytest.mark.parametrize("output", ["cell", "cell-logits"])
def test_class_numbers_are_refused(refuse, output):
    two = [node("Conv", "x", "kernel", "z"), node("ArgMax", "z", "c", axis=1, keepdims=1)]
    whole = graph_of([*two, node("Identity", "c", "y")], weights=[KERNEL_TO_2], returns=TensorProto.INT64)
    refuse(whole, r"is of int64, .* without argmax", output=output)
    cast = graph_of([*two, node("Cast", "c", "y", to=TensorProto.FLOAT)], weights=[KERNEL_TO_2])
    refuse(cast, r"only whole numbers from 0 to 1 .* without argmax", output=output)


def test_an_output_without_the_image_is_refused(refuse):
    one = graph_of([node("Softmax", "x", "y", axis=1)])
    refuse(one, "returns 1 everywhere")


def test_an_output_that_is_not_finite_is_refused(refuse):
    broken = graph_of([node("Sqrt", "x", "z"), node("Sigmoid", "z", "y")])
    refuse(broken, "NaN or infinite")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            graph_of(PROBABILITY, image=("n", 3, "y", "x"), result=("n", 3, "y", "x")),
            "of 3 channels, expected one",
        ),
        (graph_of(PROBABILITY, image=("n", "y", "x", 1), result=("n", "y", "x", 1)), "channels last"),
        (graph_of(PROBABILITY, image=("n", "y", "x", 3), result=("n", "y", "x", 3)), "channels last"),
        (graph_of(PROBABILITY, image=(1, 1, 64, 64), result=(1, 1, 64, 64)), "fixed size"),
        (graph_of(PROBABILITY, image=(4, 1, "y", "x"), result=(4, 1, "y", "x")), "fixed batch of 4"),
        (graph_of(PROBABILITY, image=("y", "x"), result=("y", "x")), "four dimensions"),
        (
            graph_of(PROBABILITY, takes=TensorProto.FLOAT16, returns=TensorProto.FLOAT16),
            "of float16, expected",
        ),
        (graph_of(PROBABILITY, takes=TensorProto.DOUBLE, returns=TensorProto.DOUBLE), "of double, expected"),
        (graph_of([node("Add", "x", "z", "y")], more=["z"]), r"2 inputs \(x, z\), expected one"),
        (graph_of([*PROBABILITY, node("Neg", "x", "z")], beside=["z"]), r"2 outputs \(y, z\), expected one"),
        (graph_of(PROBABILITY, opset=6), "opset 6, expected 7"),
        (
            graph_of([node("Conv", "x", "kernel", "y")], weights=[KERNEL_TO_2], result=("n", 2, "y", "x")),
            "returns .*, expected the same shape; export the map of one class alone",
        ),
        (
            graph_of(
                [node("MaxPool", "x", "y", kernel_shape=[2, 2], strides=[2, 2])], result=("n", 1, "v", "w")
            ),
            "returns .*, expected the same shape; export it padded",
        ),
        (
            graph_of([node("Cast", "x", "y", to=TensorProto.FLOAT16)], returns=TensorProto.FLOAT16),
            "output 'y' is of float16, .*; export it in float32",
        ),
    ],
)
def test_a_network_of_another_form_is_refused_with_what_was_found(refuse, model, said):
    refuse(model, said)


def test_a_model_that_has_a_contract_is_used_as_it_is(foreign):
    adopted = foreign.with_name("adopted.onnx")
    add_contract(foreign, adopted, ForeignModel(output="cell-logits"))
    with pytest.raises(ModelError, match="carries a contract already"):
        add_contract(adopted, foreign.with_name("twice.onnx"), ForeignModel())


@pytest.fixture
def outside(foreign):
    """The model with its weights in a file beside it, as torch exports by default."""
    model = onnx.load(foreign)
    onnx.save(model, foreign, save_as_external_data=True, size_threshold=0, location="weights.bin")
    return foreign


def test_weights_beside_the_file_are_taken_in(foreign):
    inside, taken = foreign.with_name("inside.onnx"), foreign.with_name("taken.onnx")
    stated = ForeignModel(output="membrane-logits")
    add_contract(foreign, inside, stated)
    onnx.save(
        onnx.load(foreign), foreign, save_as_external_data=True, size_threshold=0, location="weights.bin"
    )
    add_contract(foreign, taken, stated)
    foreign.with_name("weights.bin").unlink()
    image_ZYX, _ = synthetic_stack(1, 64, 80)
    found, expected = (Segmenter(path, provider="cpu")(image_ZYX) for path in (taken, inside))
    assert (found == expected).all()


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (None, "'weights.bin', which is not there; copy it beside"),
        (8, "'weights.bin' cannot be read"),
    ],
)
def test_weights_that_are_missing_or_cut_are_refused_with_the_remedy(outside, kept, said):
    weights = outside.with_name("weights.bin")
    content = weights.read_bytes()
    weights.unlink()
    if kept is not None:
        weights.write_bytes(content[:kept])
    with pytest.raises(ModelError, match=rf"{outside.name}: its weights .*{said}.*external_data=False"):
        add_contract(outside, outside.with_name("out.onnx"), ForeignModel(output="cell-logits"))
    assert not outside.with_name("out.onnx").exists()


def test_weights_are_not_read_from_elsewhere(outside):
    """A path that leads out of the model's folder is refused, also where there is such a file."""
    model = onnx.load(outside, load_external_data=False)
    folder = outside.with_name("folder")
    folder.mkdir()
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../weights.bin" if entry.key == "location" else entry.value
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="cannot be read"):
        add_contract(folder / "m.onnx", folder / "out.onnx", ForeignModel(output="cell-logits"))
    assert not (folder / "out.onnx").exists()


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
