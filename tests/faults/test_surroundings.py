"""Commands that load torch, where the working folder is gone, no temporary folder is there, or a name is odd.

Real processes: the exit code, one line that names the file, no traceback, and nothing half-written.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import tifffile
import torch
from drawn import synthetic_stack

from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.networks.checkpoint import Checkpoint, save_checkpoint
from isbi_train.networks.network import UNet

BIN = Path(sys.executable).parent
SMALL = "--epochs 2 --device cpu --hold-out 1 --base 2 --depth 2 --crop 32 --pixel-size 4 --quiet"
COMMANDS = {
    "fit": f"isbi-train fit --data {{here}}/stack.tif --labels {{here}}/labels.tif --out {{out}}/run {SMALL}",
    "export": "isbi-export {here}/model.pth -o {out} --formats onnx --quiet",
    "evaluate": "isbi-train evaluate {here}/model.pth {here}/labels.tif --image {here}/stack.tif --pixel-size 4 "
    "--provider cpu --plot {out}/plot.png --json --quiet",
}
WRITES = {"fit": "run/model.pth", "export": "model.onnx", "evaluate": "plot.png"}


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """A stack, its labels, and a checkpoint of a tiny network."""
    folder = tmp_path_factory.mktemp("inputs")
    image_ZYX, label_ZYX = synthetic_stack(3, 64, 64)
    tifffile.imwrite(folder / "stack.tif", image_ZYX, photometric="minisblack")
    tifffile.imwrite(folder / "labels.tif", (label_ZYX > 0).astype("uint8") * 255, photometric="minisblack")
    torch.manual_seed(0)
    network = NetworkConfig(base=2, depth=2)
    checkpoint = Checkpoint(
        network=network,
        augment=AugmentConfig(),
        train=TrainConfig(epochs=2, crop=32, device="cpu"),
        state_dict=UNet(network).state_dict(),
        epoch=2,
        data={"sha256": {"images": "0" * 64, "labels": "1" * 64}, "sections": 3, "pixel_size_nm": 4.0},
        scores={"sections": "2:3", "loss": 0.25, "v_rand_thin": 0.9, "v_info_thin": 0.8},
    )
    save_checkpoint(folder / "model.pth", checkpoint)
    return folder


def run(folder, command, *before):
    line = "; ".join((*before, f"exec {BIN}/{command}"))
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False, timeout=250
    )


def one_line(done):
    """Return the one line that a command ended with, besides notes."""
    assert "Traceback" not in done.stderr
    assert "unforeseen" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if ": note: " not in line]
    return line


GONE = ("mkdir gone", "cd gone", "rmdir ../gone")
linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a folder in use cannot be removed")


@linux
@pytest.mark.parametrize("name", COMMANDS)
def test_in_a_working_folder_that_was_removed_a_relative_output_is_6(tmp_path, inputs, name):
    done = run(tmp_path, COMMANDS[name].format(here=inputs, out="out"), *GONE)
    assert done.returncode == 6, done.stderr
    assert "the working folder was removed; change to one that is there, or name a whole path" in one_line(
        done
    )
    assert os.listdir(tmp_path) == []


@linux
@pytest.mark.more
@pytest.mark.parametrize("name", COMMANDS)
def test_in_a_working_folder_that_was_removed_whole_paths_are_written(tmp_path, inputs, name):
    out = tmp_path / "out"
    out.mkdir()
    done = run(tmp_path, COMMANDS[name].format(here=inputs, out=out), *GONE)
    assert done.returncode == 0, done.stderr
    assert (out / WRITES[name]).exists()


@linux
def test_torch_runs_in_a_working_folder_that_was_removed(tmp_path):
    script = (
        "from pathlib import Path\nfrom isbi_infer.surroundings import surroundings_of_torch\n"
        "with surroundings_of_torch(Path('/out')):\n import torch\n print((torch.ones(9, 9) @ torch.ones(9, 9))[0, 0])"
    )
    line = "; ".join((*GONE, f'{sys.executable} -c "$0"'))
    done = subprocess.run(
        ["bash", "-c", line, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "tensor(9.)\n"), done.stderr


@pytest.mark.more
@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
def test_a_name_that_no_encoding_holds_is_trained_on_resumed_exported_and_scored(tmp_path, inputs):
    odd = os.fsdecode(b"bad\xff$")
    for name in ("stack.tif", "labels.tif", "model.pth"):
        (tmp_path / f"{odd}.{name}").write_bytes((inputs / name).read_bytes())
    quoted = "$'bad\\xff$'"
    fit = f"isbi-train fit --data {quoted}.stack.tif --labels {quoted}.labels.tif --out {quoted} {SMALL}"
    resumed = f"isbi-train fit --resume --out {quoted} --quiet"
    export = f"isbi-export {quoted}.model.pth --formats onnx --quiet"
    scored = f"isbi-train evaluate {quoted}.labels.tif {quoted}.labels.tif --plot {quoted}.png --quiet"
    for command in (fit, resumed, export, scored):
        done = run(tmp_path, command)
        assert done.returncode == 0, (command, done.stderr)
    made = {odd, f"{odd}.png", f"{odd}.model.onnx"}
    assert made <= set(os.listdir(tmp_path))


IN_A_LIMIT = """
import os, resource, sys, tempfile
from pathlib import Path
from isbi_infer.surroundings import some_temporary_folder
from isbi_infer.terminal import exit_codes
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # so that no folder is usable to `tempfile`
with exit_codes("program"):
    with some_temporary_folder(Path(sys.argv[1])):
        print(tempfile.gettempdir())
        assert os.path.isdir(tempfile.gettempdir())
"""


@pytest.mark.skipif(os.name == "nt", reason="there are no resource limits")
def test_without_a_temporary_folder_one_beside_the_output_is_used_and_said_and_removed(tmp_path):
    def leaves(output):
        command = [sys.executable, "-c", IN_A_LIMIT, output]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = leaves(tmp_path / "run" / "model.pth")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == tmp_path
    assert f"program: note: {done.stdout.strip()}: holds temporary files meanwhile" in done.stderr
    assert os.listdir(tmp_path) == []
    done = leaves("/proc/self/run")
    assert done.returncode == 6
    assert "set TMPDIR to one that can be written" in one_line(done)


@pytest.mark.more
@pytest.mark.parametrize("name", ["fit", "export"])
def test_a_limit_of_no_byte_in_a_file_is_6(tmp_path, inputs, name):
    done = run(tmp_path, COMMANDS[name].format(here=inputs, out=tmp_path), "ulimit -f 0")
    assert done.returncode == 6, done.stderr
    assert "File too large" in one_line(done)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.more
@pytest.mark.parametrize("kB", [4, 12, 20])
def test_an_export_that_does_not_fit_publishes_nothing_and_leaves_what_was_there(tmp_path, inputs, kB):
    (tmp_path / "model.onnx").write_bytes(b"old")
    done = run(tmp_path, COMMANDS["export"].format(here=inputs, out=tmp_path), f"ulimit -f {kB}")
    assert done.returncode == 6, done.stderr
    assert str(tmp_path) in one_line(done)
    assert os.listdir(tmp_path) == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == b"old"


@pytest.mark.more
@pytest.mark.parametrize("kB", [0, 20])
def test_a_plot_that_does_not_fit_leaves_what_was_there(tmp_path, inputs, kB):
    (tmp_path / "plot.png").write_bytes(b"old")
    command = (
        f"isbi-train evaluate {inputs}/labels.tif {inputs}/labels.tif --plot {tmp_path}/plot.png --quiet"
    )
    done = run(tmp_path, command, f"ulimit -f {kB}")
    assert done.returncode == 6, done.stderr
    assert "plot.png: cannot be written (File too large)" in one_line(done)
    assert os.listdir(tmp_path) == ["plot.png"]
    assert (tmp_path / "plot.png").read_bytes() == b"old"


STOPPED_WHILE_IT_READS = """
import os, sys
import typer
from isbi_infer.terminal.commands import Command, new_app
app = new_app()
@app.command(cls=Command)
def work(count: int = typer.Option(0, callback=lambda count: os.kill(os.getpid(), count))) -> None:
    "Never come here."
app(["--count", sys.argv[1]], prog_name="program")
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX systems")
@pytest.mark.parametrize(
    ("number", "by"), [(signal.SIGHUP, "SIGHUP"), (signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")]
)
def test_a_command_that_is_stopped_while_it_reads_its_arguments_says_so(number, by):
    command = [sys.executable, "-c", STOPPED_WHILE_IT_READS, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + number
    assert one_line(done) == f"program: stopped by {by}; nothing half-written was left behind"


THREADS_WITHOUT_MEMORY = """
import resource, sys, threading
from isbi_infer.terminal import exit_codes
with exit_codes("program"):
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    threading.stack_size(1 << 29)
    for _ in range(9):
        threading.Thread(target=threading.Event().wait, args=(30,), daemon=True).start()
"""
LIBRARY_WITHOUT_MEMORY = """
import ctypes, resource, sys
import numpy
from isbi_infer.terminal import exit_codes
with exit_codes("program"):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20),) * 2)
    ctypes.CDLL(sys.argv[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on addresses is Linux's")
@pytest.mark.parametrize(
    "script", [THREADS_WITHOUT_MEMORY, LIBRARY_WITHOUT_MEMORY], ids=["thread", "library"]
)
def test_memory_that_lacks_for_a_thread_or_a_library_is_7(script):
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/onnxruntime_pybind11_state*.so")
    done = subprocess.run(
        [sys.executable, "-c", script, library], capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
    assert one_line(done) == "program: not enough memory; use smaller sections, or a machine with more of it"
