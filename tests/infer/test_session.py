import gc
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from isbi_infer import DependencyError, ModelError, Segmenter
from isbi_infer.backends import onnxruntime as backend_module
from isbi_infer.backends.cores import available_cores
from isbi_infer.backends.nvidia import why_not
from isbi_infer.model.contract import read_contract
from isbi_infer.model.devices import DEVICES, open_backend
from isbi_infer.model.file import read_model_file
from isbi_models import default_model

MODEL = default_model().path.read_bytes()


def stamped(graph_change):
    """Return the released model's file with its graph changed, and a contract that belongs to it."""
    proto = onnx.load_from_string(MODEL)
    graph_change(proto)
    with suppress(ModelError):  # of weights outside the file there is no digest
        digest = read_model_file(proto.SerializeToString()).digest
        for entry in proto.metadata_props:
            entry.value = replace(read_contract(MODEL), digest=digest).to_json()
    return proto.SerializeToString()


def refused(tmp_path, model):
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    with pytest.raises(ModelError) as caught:
        Segmenter(path, provider="cpu")
    return str(caught.value)


PROVIDERS = {row.name: row.runtime_name for row in DEVICES if "OnnxSession" in row.backend}


@pytest.mark.parametrize("provider", sorted(set(PROVIDERS) - {"cpu"}))
def test_a_provider_that_is_not_there_is_an_error_and_never_the_cpu(provider):
    if PROVIDERS[provider] in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has {provider}")
    with pytest.raises(DependencyError, match="pip install"):
        open_backend(MODEL, provider)


def test_auto_takes_the_cpu_where_this_onnxruntime_has_no_other_provider():
    if set(PROVIDERS.values()) & set(onnxruntime.get_available_providers()) != {"CPUExecutionProvider"}:
        pytest.skip("this onnxruntime has a GPU provider")
    assert Segmenter(provider="auto", pixels=1).provider == "cpu"


@pytest.mark.parametrize(("gpus", "remedy"), [([], "--provider cpu"), (["a GPU"], "pip install --upgrade")])
def test_a_gpu_wheel_that_does_not_run_is_explained_by_what_the_machine_shows(monkeypatch, gpus, remedy):
    """As with the GPU wheel on a machine without a GPU: the provider is compiled in, and no session opens on it."""
    monkeypatch.setattr(backend_module, "list_gpus", lambda: gpus)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(DependencyError, match=r"does not run here|fell back") as refused:
        open_backend(MODEL, "cuda")
    assert remedy in str(refused.value)
    assert "onnxruntime-gpu" not in str(refused.value)


@pytest.mark.parametrize(
    ("gpus", "cuda", "found", "said"),
    [
        ([], "12.8", "anything", "no NVIDIA GPU or driver"),
        (
            ["A100, driver 470.82.01, 1 of 2 MiB free"],
            "12.8",
            "x",
            "driver 470.82.01 is too old for CUDA 12.8, which",
        ),
        (["A100, driver 550.54.14, 1 of 2 MiB free"], "13.0", "x", "needs 580 or newer; update the driver"),
        (["A100, driver 580.65, 1 of 2 MiB free"], "13.0", "no libcudnn.so.9", "cuDNN is missing; run: pip"),
        (
            ["A100, driver 580.65, 1 of 2 MiB free"],
            "",
            "libcublasLt.so.13",
            "the CUDA library cublas is missing; run",
        ),
        (["A100, driver 580.65, 1 of 2 MiB free"], "13.0", "no kernel", "missing (no kernel); run: pip"),
    ],
)
def test_a_gpu_that_does_not_compute_is_explained(gpus, cuda, found, said):
    assert said in why_not(gpus, cuda, found)


def test_weights_outside_the_file_are_never_read(tmp_path, monkeypatch):
    weights = onnx.numpy_helper.to_array(onnx.load_from_string(MODEL).graph.initializer[0])
    (tmp_path / "weights.bin").write_bytes(weights.tobytes())
    monkeypatch.chdir(tmp_path)

    def outside(proto):
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")

    assert "lie outside" in refused(tmp_path, stamped(outside))
    with pytest.raises(ModelError, match="cannot load"):
        open_backend(stamped(outside), "cpu")


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


def test_one_session_serves_several_workers_or_one_call_on_all_cores():
    session = open_backend(MODEL, "cpu")
    assert session.workers == available_cores()
    batch_NCYX = np.random.default_rng(0).standard_normal((2, 1, 64, 96), dtype=np.float32)
    assert session.on_all_cores().workers == 1
    assert session.on_all_cores() is session.on_all_cores()
    assert (session.on_all_cores().run(batch_NCYX) == session.run(batch_NCYX)).all()


def test_a_stop_ends_the_calls_that_it_was_handed_to_and_no_others():
    session = open_backend(MODEL, "cpu")
    large_NCYX = np.zeros((8, 1, 512, 512), np.float32)
    stop, failures = session.new_stop(), []

    def run():
        try:
            session.run(large_NCYX, stop=stop)
        except ModelError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.1)
    stop.set()
    assert session.run(large_NCYX[:1, :, :64, :64], stop=session.new_stop()).shape == (1, 1, 64, 64)
    thread.join(30)
    assert not thread.is_alive()
    assert len(failures) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted as Linux lists them")
@pytest.mark.parametrize("value", [None, "1"])
def test_onnxruntime_is_imported_without_its_telemetry_and_the_environment_stays(tmp_path, value):
    """As a new user, on a machine that does not look like one that runs tests, on which there is none."""
    told = ("CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME")
    environment = {name: text for name, text in os.environ.items() if name not in told}
    environment |= {"HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    if value is not None:
        environment["ORT_DISABLE_TELEMETRY"] = value
    script = (
        "import os\n"
        "from isbi_infer.model.devices import open_backend\n"
        "from isbi_models import default_model\n"
        "before = dict(os.environ)\n"
        "session = open_backend(default_model().path.read_bytes(), 'cpu')\n"
        "assert dict(os.environ) == before\n"
        "print(len(os.listdir('/proc/self/task')))\n"
    )
    environment["OPENBLAS_NUM_THREADS"] = "1"  # else NumPy has threads, too
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert (result.stdout, result.stderr) == ("1\n", "")
    assert list(tmp_path.iterdir()) == []  # where the id of a user and what was not sent yet would be


def test_memory_that_runs_out_is_told_from_other_failures():
    """The real thing: a process whose address space is limited."""
    script = (
        "import resource, numpy as np\n"
        "from isbi_infer.model.devices import open_backend\n"
        "from isbi_infer.errors import ResourceError, ModelError\n"
        "from isbi_models import default_model\n"
        "session = open_backend(default_model().path.read_bytes(), 'cpu')\n"
        "batch = np.zeros((1, 1, 2048, 2048), np.float32)\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)\n"
        "try:\n    session.run(batch)\nexcept ResourceError as error:\n    print('said:', error)\n"
        "assert session.run(batch[..., :64, :64]).shape == (1, 1, 64, 64)\n"
        "try:\n    session.run(batch[..., :63, :63])\nexcept ModelError:\n    print('another failure')\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "said: not enough memory" in result.stdout, result.stderr
    assert "another failure" in result.stdout


def test_input_and_output_can_stay_on_the_device():
    """The path that CUDA takes, with the CPU as the device."""
    row = next(row for row in DEVICES if row.name == "cpu" and "onnx" in row.formats)
    session = open_backend(MODEL, row)
    bound = open_backend(MODEL, replace(row, memory_space="cpu"))
    batches = [np.random.default_rng(i).standard_normal((1, 1, 64, 64), dtype=np.float32) for i in range(3)]
    for batch in (*batches, *batches):
        assert (bound.run(batch) == session.run(batch)).all()


def held_on_the_device():
    """The shapes of the inputs and results that are kept there."""
    # Objects of other libraries may warn when they are asked of what class they are.
    return [x.shape() for x in gc.get_objects() if type(x) is onnxruntime.OrtValue]


def test_the_device_holds_inputs_and_results_of_the_last_two_shapes_however_many_there_were():
    """As where each section of an aligned stack has a tissue box of its own."""
    gc.collect()
    before = held_on_the_device()
    row = next(row for row in DEVICES if row.name == "cpu" and "onnx" in row.formats)
    session, bound = open_backend(MODEL, row), open_backend(MODEL, replace(row, memory_space="cpu"))
    shapes = [(1 + k % 2, 1, 64 + 32 * (k % 5), 64 + 32 * (k // 5)) for k in range(20)]
    batches = [np.random.default_rng(k).standard_normal(shape, np.float32) for k, shape in enumerate(shapes)]
    for k, batch in enumerate(batches):
        assert (bound.run(batch) == session.run(batch)).all()
        assert (bound.run(batches[k - 1]) == session.run(batches[k - 1])).all()
        expected = [list(shapes[j]) for j in {k, k - 1 if k else 19} for _ in ("input", "result")]
        assert sorted(held_on_the_device()) == sorted([*before, *expected])


def test_what_does_not_fit_on_the_device_is_not_kept_there_and_smaller_batches_run():
    """The real thing: a process whose address space is limited, with the CPU as the device."""
    script = (
        "import gc, resource, numpy as np, onnxruntime\n"
        "from dataclasses import replace\n"
        "from isbi_infer.errors import ResourceError\n"
        "from isbi_infer.model.devices import DEVICES, open_backend\n"
        "from isbi_models import default_model\n"
        "row = next(row for row in DEVICES if row.name == 'cpu' and 'onnx' in row.formats)\n"
        "content = default_model().path.read_bytes()\n"
        "bound = open_backend(content, replace(row, memory_space='cpu'))\n"
        "batch = np.zeros((1, 1, 2048, 2048), np.float32)\n"
        "small = bound.run(batch[..., :64, :64])\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)\n"
        "try:\n    bound.run(batch)\nexcept ResourceError as error:\n    print('said:', error)\n"
        "held = [x.shape() for x in gc.get_objects() if isinstance(x, onnxruntime.OrtValue)]\n"
        "print('held:', held)\n"
        "assert (bound.run(batch[..., :64, :64]) == small).all()\n"
        "print('went on')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    said, held, went_on = done.stdout.splitlines()
    assert said.startswith("said: not enough memory on cpu for a batch of shape (1, 1, 2048, 2048)")
    assert (held, went_on) == ("held: []", "went on"), done.stderr
