import onnx
import onnxruntime
import pytest
from isbi_models import default_model
from onnx import TensorProto, helper

from isbi_infer import DependencyError, ModelError, Segmenter
from isbi_infer.session import PROVIDERS, OnnxSession, open_session

MODEL = default_model().path.read_bytes()


def stamped(graph_change):
    """Give the released model's file with its graph changed, contract and all."""
    proto = onnx.load_from_string(MODEL)
    graph_change(proto)
    return proto.SerializeToString()


def refused(tmp_path, model):
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    with pytest.raises(ModelError) as caught:
        Segmenter(path, provider="cpu")
    return str(caught.value)


@pytest.mark.parametrize("provider", sorted(set(PROVIDERS) - {"cpu"}))
def test_a_provider_that_is_not_there_is_an_error_and_never_the_cpu(provider):
    if PROVIDERS[provider] in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has {provider}")
    with pytest.raises(DependencyError, match="pip install"):
        OnnxSession(MODEL, provider)


def test_auto_says_which_provider_it_took():
    assert open_session(MODEL, "auto").provider in ("cpu", "cuda")
    if PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        assert open_session(MODEL, "auto").provider == "cpu"


def test_weights_outside_the_file_are_never_read(tmp_path, monkeypatch):
    weights = onnx.numpy_helper.to_array(onnx.load_from_string(MODEL).graph.initializer[0])
    (tmp_path / "weights.bin").write_bytes(weights.tobytes())
    monkeypatch.chdir(tmp_path)

    def outside(proto):
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")

    assert "cannot load" in refused(tmp_path, stamped(outside))


def test_damaged_weights_are_noticed_at_load(tmp_path):
    def spoil(proto):
        tensor = max(proto.graph.initializer, key=lambda t: len(t.raw_data))
        tensor.raw_data = b"\xff\xff\xff\x7f" * (len(tensor.raw_data) // 4)

    assert "damaged" in refused(tmp_path, stamped(spoil))


def test_an_output_of_another_size_than_the_contract_says_is_noticed_at_load(tmp_path):
    def halve(proto):
        last = proto.graph.output[0].name
        for node in proto.graph.node:
            node.output[:] = ["whole" if name == last else name for name in node.output]
        proto.graph.node.append(
            helper.make_node("MaxPool", ["whole"], [last], kernel_shape=[2, 2], strides=[2, 2])
        )
        for dim in proto.graph.output[0].type.tensor_type.shape.dim[2:]:
            dim.dim_param = "half_" + dim.dim_param

    assert "the contract says" in refused(tmp_path, stamped(halve))


def test_tensors_named_otherwise_than_the_contract_says_are_noticed_at_load(tmp_path):
    def rename(proto):
        old = proto.graph.output[0].name
        proto.graph.output[0].name = "elsewhere"
        for node in proto.graph.node:
            node.output[:] = ["elsewhere" if name == old else name for name in node.output]

    assert "elsewhere" in refused(tmp_path, stamped(rename))


def test_a_newer_opset_asks_for_a_newer_runtime(tmp_path):
    def newer(proto):
        proto.opset_import[0].version = 999

    assert "newer onnxruntime" in refused(tmp_path, stamped(newer))


def test_a_model_without_a_contract_says_how_to_get_one(tmp_path):
    assert "isbi-export" in refused(tmp_path, stamped(lambda proto: proto.ClearField("metadata_props")))
