"""A process that goes on for long: memory, open files and threads stay what they are, and results the same."""

import gc
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack
from tiny_files import tiny_checkpoint, tiny_onnx

from isbi_export.publish import publish
from isbi_infer import Segmenter
from isbi_train.networks.checkpoint import save_checkpoint

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="Linux tells what a process holds"
)

RUNTIMES = ["cpu", *(["openvino"] if importlib.util.find_spec("openvino") else []), "torchscript"]


def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def handles():
    held = (Path("/proc/self/fd") / number for number in os.listdir("/proc/self/fd"))
    return sorted(os.readlink(path) for path in held if path.exists())


def threads():
    return {thread.name for thread in threading.enumerate()}, len(os.listdir("/proc/self/task"))


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """A TorchScript file of a small network."""
    folder = tmp_path_factory.mktemp("script")
    save_checkpoint(folder / "model.pth", tiny_checkpoint())
    publish(folder / "model.pth", folder, ["torchscript"])
    return folder / "model.pt"


def opened(runtime, script):
    if runtime == "torchscript":
        return Segmenter(script, provider="cpu")
    return Segmenter(provider=runtime, precision="int8")


@pytest.mark.more
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_thousand_calls_and_twenty_file_runs_leave_memory_handles_and_threads_as_they_are(
    tmp_path, runtime, script, figures
):
    image_ZYX = synthetic_stack(2, 64, 96)[0]
    tifffile.imwrite(tmp_path / "stack.tif", np.repeat(image_ZYX, 5, axis=0), photometric="minisblack")
    with opened(runtime, script) as segmenter:
        expected = segmenter(image_ZYX).tobytes()

        def calls(count):
            for _ in range(count):
                assert segmenter(image_ZYX).tobytes() == expected

        def runs(count):
            for _ in range(count):
                segmenter.segment_file(tmp_path / "stack.tif", tmp_path / "out.tif")

        calls(100)
        runs(5)
        memory, files, alive = resident(), handles(), threads()
        calls(1000)
        runs(20)
        assert handles() == files
        assert threads() == alive
        assert resident() <= 1.05 * memory
    figures(soaked_calls=1000, soaked_runs=20)


@pytest.mark.more
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_opening_models_again_and_again_leaves_no_handles_and_threads(runtime, script):
    def open_and_close(count):
        for _ in range(count):
            with opened(runtime, script) as segmenter:
                segmenter(np.zeros((32, 32), np.uint8))

    open_and_close(10)
    memory, files, alive = resident(), handles(), threads()
    open_and_close(20)
    assert handles() == files
    assert threads()[0] == alive[0]
    assert threads()[1] <= alive[1] + (os.cpu_count() or 1)  # torch's own pool, which it makes once
    assert resident() <= 1.25 * memory


@pytest.mark.more
def test_of_two_processes_on_one_output_one_writes_it_and_the_other_leaves_with_8_or_after_it(tmp_path):
    (tmp_path / "tiny.onnx").write_bytes(tiny_onnx())
    image_ZYX = np.repeat(synthetic_stack(1, 400, 400)[0], 20, axis=0)
    tifffile.imwrite(tmp_path / "stack.tif", image_ZYX, photometric="minisblack")
    command = [Path(sys.executable).with_name("isbi-infer"), "stack.tif", "-o", "out.tif", "--quiet"]
    command += ["--model", "tiny.onnx", "--provider", "cpu"]
    both = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 8], [0, 0]), said  # both, where one was done before the other began
    assert sorted(os.listdir(tmp_path)) == ["out.tif", "stack.tif", "tiny.onnx"]
    alone = Segmenter(tmp_path / "tiny.onnx", provider="cpu")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif")[7], alone(image_ZYX[7]))
