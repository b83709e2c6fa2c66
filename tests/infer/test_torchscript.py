"""TorchScript models: the same interface, exactness and refusals as ONNX ones; torch is touched only for them."""

import io
import os
import random
import subprocess
import sys
import threading
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import isbi_infer
from isbi_export.formats.deployable import Deployable
from isbi_export.formats.torchscript import write_torchscript
from isbi_infer import Segmenter
from isbi_infer.backends.cores import available_cores
from isbi_infer.errors import DependencyError, ModelError, UsageError
from isbi_infer.model.contract import CONTRACT_KEY
from isbi_infer.model.devices import open_backend, rows
from isbi_infer.plan.tiles import plan_section, read_mirrored
from isbi_models import default_model
from isbi_train.config import NetworkConfig
from isbi_train.networks.network import UNet

ROOT = Path(__file__).parents[2]
CONFIG = NetworkConfig(base=12, depth=2, unshuffle=2)
HALO = 48
RELEASED = Segmenter(default_model().path, provider="cpu").contract
CONTRACT = replace(RELEASED, stride=CONFIG.stride, halo=HALO)


def random_values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    network = UNet(CONFIG).train()
    with torch.no_grad():
        network.head.weight.normal_(0, 0.5)
        for _ in range(3):  # so that BatchNorms have something to fold
            network(torch.randn(2, 1, 64, 64))
    return network.eval()


@pytest.fixture(scope="module")
def script(network, tmp_path_factory):
    """A whole file, as bytes."""
    path = tmp_path_factory.mktemp("script") / "model.pt"
    copy = UNet(CONFIG).eval()
    copy.load_state_dict(network.state_dict())
    write_torchscript(path, Deployable(copy), CONTRACT)
    return path.read_bytes()


@pytest.fixture(scope="module")
def script_file(script, tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "model.pt"
    path.write_bytes(script)
    return path


@pytest.fixture(scope="module")
def session(script):
    return open_backend(script, next(rows("torchscript", "cpu")))


@pytest.fixture(autouse=True)
def three_threads():
    """More threads than one, whatever the machine: results must not depend on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def saved(module, contract=CONTRACT, example=None):
    """Give a traced module as a file, with or without a contract."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module.eval(), torch.zeros(1, 1, 16, 24))
        extra = {CONTRACT_KEY: contract.to_json()} if contract else {}
        torch.jit.save(traced, buffer, _extra_files=extra)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["BF16", "any"])
@pytest.mark.parametrize("library", ["ONEDNN", "DNNL"])
def test_an_environment_that_lowers_float32_is_refused_by_its_name(monkeypatch, library, mode, script_file):
    monkeypatch.setenv(f"{library}_DEFAULT_FPMATH_MODE", mode)
    with pytest.raises(DependencyError, match=f"{library}_DEFAULT_FPMATH_MODE={mode} makes torch compute"):
        Segmenter(script_file, provider="cpu")
    monkeypatch.setenv(f"{library}_DEFAULT_FPMATH_MODE", "STRICT")
    assert Segmenter(script_file, provider="cpu").precision == "fp32"


def test_it_has_the_interface_of_an_onnx_session(session):
    assert session.device.name == "cpu"
    assert session.workers == available_cores()
    assert session.on_all_cores() is session
    assert session.run(np.zeros((1, 1, 8, 8), np.float32)).shape == (1, 1, 8, 8)


def test_results_are_those_of_the_network(session, network):
    image_NCYX = random_values(3, 1, 40, 72)
    found_NCYX = session.run(image_NCYX)
    with torch.inference_mode():
        expected_NCYX = torch.sigmoid(network(torch.from_numpy(image_NCYX))).numpy()
    assert found_NCYX.dtype == np.float32
    np.testing.assert_allclose(found_NCYX, expected_NCYX, rtol=0, atol=1e-5)


def test_any_layout_of_an_array_is_taken_and_none_is_changed(session):
    image_NCYX = random_values(1, 1, 32, 48)
    expected_NCYX = session.run(image_NCYX)
    frozen_NCYX = image_NCYX.copy()
    frozen_NCYX.flags.writeable = False
    flipped_NCYX = image_NCYX[..., ::-1].copy()[..., ::-1]
    for same_NCYX in (frozen_NCYX, flipped_NCYX, np.asfortranarray(image_NCYX)):
        assert (session.run(same_NCYX) == expected_NCYX).all()
    assert (image_NCYX == frozen_NCYX).all()


# Torch changes its kernels at certain numbers of pixels: strips, small tiles and batches lie on both sides of them.
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 500),
    tile=st.sampled_from([112, 120, 144, 200]),
    batch=st.integers(1, 4),
    seed=st.integers(0, 9),
)
@settings(max_examples=settings().max_examples * 2 // 3)
def test_tiled_equals_whole_bit_for_bit(session, height, width, tile, batch, seed):
    section_YX = random_values(height, width, seed=seed)

    def result(longest, batch):
        plan = plan_section((height, width), stride=CONFIG.stride, halo=HALO, border=8, tile=longest)
        tiles_NCYX = np.stack([read_mirrored(section_YX, plan.pad, tile.reads) for tile in plan.tiles])[
            :, None
        ]
        out_YX = np.full((height, width), np.nan, np.float32)
        done = [session.run(tiles_NCYX[i : i + batch]) for i in range(0, len(tiles_NCYX), batch)]
        for tile, probability_CYX in zip(plan.tiles, np.concatenate(done), strict=True):
            out_YX[tile.owns] = probability_CYX[0][tile.crop]
        return out_YX

    assert (result(tile, batch) == result(None, 1)).all()


@given(height=st.integers(1, 40), width=st.integers(1, 60), count=st.integers(2, 5))
@settings(max_examples=settings().max_examples * 2 // 3)
def test_an_image_gives_the_same_bits_alone_and_in_any_batch(session, height, width, count):
    batch_NCYX = random_values(count, 1, 8 * height, 8 * width, seed=height)
    alone_CYX = session.run(batch_NCYX[-1:])[0]
    assert (session.run(batch_NCYX)[-1] == alone_CYX).all()


def test_workers_at_once_give_the_same_bits_and_leave_the_threads_of_torch_alone(session):
    batches = [random_values(1, 1, 8 * n, 96, seed=n) for n in range(1, 13)]
    expected = [session.run(batch_NCYX) for batch_NCYX in batches]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(session.run, 4 * batches))
    for found_NCYX, expected_NCYX in zip(found, 4 * expected, strict=True):
        assert (found_NCYX == expected_NCYX).all()
    counted = []
    thread = threading.Thread(target=lambda: counted.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert counted == [3]


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"version https://git-lfs", b"\x80\x04N.", b"PK\x03\x04"]
)
def test_foreign_files_are_refused_in_one_line(content):
    with pytest.raises(ModelError, match="not a readable TorchScript file") as refused:
        open_backend(content, next(rows("torchscript", "cpu")))
    assert "\n" not in str(refused.value)


def test_a_truncated_file_is_refused_wherever_it_ends(script):
    for size in random.Random(5).sample(range(len(script)), 30):
        with pytest.raises(ModelError, match="not a readable"):
            open_backend(script[:size], next(rows("torchscript", "cpu")))


def test_a_file_with_any_flipped_byte_is_refused_or_gives_the_right_result(script, session):
    image_NCYX = random_values(1, 1, 16, 24)
    expected_NCYX = session.run(image_NCYX)
    refusals = []
    for at in random.Random(6).sample(range(len(script)), 50):
        damaged = bytearray(script)
        damaged[at] ^= 0x10
        try:
            found_NCYX = open_backend(bytes(damaged), next(rows("torchscript", "cpu"))).run(image_NCYX)
        except ModelError as error:
            refusals.append(str(error))
        else:
            assert (found_NCYX == expected_NCYX).all()
    assert len(refusals) > 25
    assert "\n" not in "".join(refusals)


def test_a_flipped_weight_is_noticed_by_its_checksum(script):
    with zipfile.ZipFile(io.BytesIO(script)) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    damaged = bytearray(script)
    damaged[largest.header_offset + largest.file_size // 2] ^= 1
    with pytest.raises(ModelError, match="another checksum"):
        open_backend(bytes(damaged), next(rows("torchscript", "cpu")))


def test_a_pickle_with_a_payload_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "payload"),)

    buffer = io.BytesIO()
    torch.save(Payload(), buffer)
    with pytest.raises(ModelError, match="not a readable"):
        open_backend(buffer.getvalue(), next(rows("torchscript", "cpu")))
    assert os.listdir(tmp_path) == []


def test_a_script_without_a_contract_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(saved(torch.nn.Conv2d(1, 1, 3, padding=1), None))
    with pytest.raises(ModelError, match="carries no contract"):
        Segmenter(path, provider="cpu")


def test_a_script_that_gives_something_else_is_a_model_error():
    class Two(torch.nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(ModelError, match="returns a tuple"):
        open_backend(saved(Two()), next(rows("torchscript", "cpu"))).run(np.zeros((1, 1, 16, 16), np.float32))


def test_a_batch_that_the_network_refuses_is_a_model_error_in_one_line(session):
    for shape in ((1, 2, 16, 16), (1, 1, 15, 16)):
        with pytest.raises(ModelError, match="the model failed on a batch of shape") as refused:
            session.run(np.zeros(shape, np.float32))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("provider", ["tensorrt", "openvino", "gpu"])
def test_providers_of_onnxruntime_are_refused(script_file, provider):
    with pytest.raises(UsageError, match=r"cuda, cpu only|unknown provider 'gpu'; choose auto, cpu"):
        Segmenter(script_file, provider=provider)


def test_cuda_that_is_not_there_is_an_error_and_auto_takes_the_cpu(script_file):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(DependencyError, match="--provider cpu"):
        Segmenter(script_file, provider="cuda")
    assert Segmenter(script_file).provider == "cpu"


@pytest.mark.cuda
def test_cuda_agrees_with_the_cpu_and_leaves_the_settings_of_torch_alone(script, script_file, session):
    try:
        on_cuda = open_backend(script, next(rows("torchscript", "cuda")))
    except DependencyError as error:
        pytest.skip(f"torch runs no CUDA here: {error}")
    image_NCYX = random_values(2, 1, 256, 320)
    before = torch.backends.cudnn.allow_tf32
    assert np.abs(on_cuda.run(image_NCYX) - session.run(image_NCYX)).max() < 1e-3
    assert torch.backends.cudnn.allow_tf32 == before
    assert Segmenter(script_file).provider == "cuda"


# Each of the following needs a process of its own.


def python(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments, "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **environment},
    )


def test_the_light_path_brings_in_no_torch():
    code = (
        "import sys, numpy as np, isbi_infer, isbi_infer.backends.torchscript\n"
        "isbi_infer.Segmenter(provider='cpu')(np.zeros((1, 64, 64), np.uint8))\n"
        "print(sorted({'torch', 'scipy', 'skimage', 'zarr', 'dask'} & set(sys.modules)))\n"
    )
    assert python(code).stdout == "[]\n"


def test_without_torch_one_line_says_what_to_install(script, tmp_path):
    """A process that sees only what the light path needs."""
    site = Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs"):
        (tmp_path / name).symlink_to(site / name)
    (tmp_path / "isbi_infer").symlink_to(Path(isbi_infer.__file__).parent)
    code = (
        "from isbi_infer.model.devices import open_backend, rows\n"
        "from isbi_infer.errors import DependencyError\n"
        "try:\n"
        "    open_backend(b'PK', next(rows('torchscript', 'cpu')))\n"
        "except DependencyError as error:\n"
        "    print(error)\n"
    )
    said = python(code, "-S", PYTHONPATH=str(tmp_path))
    assert "needs torch, which is not installed; run: pip install torch" in said.stdout, said.stderr
    assert said.stdout.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_opens_the_model_again_whatever_threads_its_parent_had(tmp_path):
    """Large weights, which torch rearranges in several threads where it may."""
    config, path = NetworkConfig(base=64, depth=3), tmp_path / "model.pt"
    write_torchscript(path, Deployable(UNet(config).eval()), replace(CONTRACT, stride=config.stride))
    code = (
        "import os, sys, numpy as np, torch\n"
        "torch.set_num_threads(3)\n"
        "torch.ones(2000, 2000).exp()  # in three threads\n"
        "from isbi_infer import Segmenter\n"
        "segmenter = Segmenter(os.environ['MODEL'], provider='cpu')\n"
        "image_YX = np.arange(3000, dtype=np.float32).reshape(50, 60)\n"
        "expected_YX = segmenter(image_YX)\n"
        "if os.fork() == 0:\n"
        "    assert (segmenter(image_YX) == expected_YX).all()\n"
        "    sys.exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    done = python(code, "-W", "ignore", MODEL=str(path))
    assert (done.returncode, done.stderr) == (0, "")


def test_too_little_memory_is_said_and_a_smaller_tile_still_runs(script, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(script)
    code = (
        "import pathlib, resource, sys, numpy as np\n"
        "from isbi_infer.errors import ResourceError\n"
        "from isbi_infer.model.devices import open_backend, rows\n"
        "session = open_backend(pathlib.Path(sys.argv[1]).read_bytes(), next(rows('torchscript', 'cpu')))\n"
        "session.run(np.zeros((1, 1, 64, 64), np.float32))\n"
        "large = np.zeros((1, 1, 2048, 2048), np.float32)\n"
        "size = int(next(l for l in open('/proc/self/status') if l.startswith('VmSize')).split()[1]) * 1024\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 2**27, size + 2**27))\n"
        "try:\n"
        "    session.run(large)\n"
        "except ResourceError as error:\n"
        "    print(error)\n"
        "print(session.run(large[:, :, :256, :256]).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=100)
    assert done.stdout.splitlines() == [
        "not enough memory on cpu for a batch of shape (1, 1, 2048, 2048); use a smaller --batch or --tile",
        "(1, 1, 256, 256)",
    ], done.stderr
