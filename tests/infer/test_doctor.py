"""The doctor finds what is wrong with an installation, in processes that see real folders, and says what mends it."""

import importlib.metadata
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

import isbi_infer
from isbi_infer import doctor
from isbi_infer.backends.nvidia import list_gpus
from isbi_infer.model.contract import read_contract
from isbi_infer.model.devices import rows
from isbi_models import default_model, released_models

PROGRAM = Path(sys.executable).with_name("isbi-infer")
CPU_WHEEL = [wheel.metadata["Name"] for wheel in doctor.installed_runtimes()] == ["onnxruntime"]
VERSION = importlib.metadata.version("onnxruntime") if CPU_WHEEL else ""

pytestmark = pytest.mark.skipif(not CPU_WHEEL, reason="these cases start from the CPU wheel of onnxruntime")


def examine(*arguments, command=(PROGRAM, "doctor"), **environment):
    """Run the doctor in an environment without a GPU's tools, unless they are given."""
    environment = {"PATH": "/nowhere", "LD_LIBRARY_PATH": "", **environment}
    return subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def findings(result):
    """Give {name: (ok, detail)} of a --json run; the last one of a name."""
    return {f["name"]: (f["ok"], f["detail"]) for f in json.loads(result.stdout)["findings"]}


def assert_ends_with(result, code, *commands):
    """The exit code, and the commands that mend it, all of them and nothing after them."""
    assert result.returncode == code, result.stdout + result.stderr
    assert result.stderr == ""
    said, _, mends = result.stdout.partition("to mend this, run:\n")
    assert [line.strip() for line in mends.splitlines()] == list(commands)
    assert "WRONG" in said


def wheel(folder, name, version="9.9", files=()):
    """Put what pip leaves of a wheel beside the packages of a folder."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("".join(f"{file},sha256=0,{size}\n" for file, size in files))


@pytest.fixture
def site(tmp_path):
    """A folder with all packages but onnxruntime and torch; and how to run the doctor in it alone."""
    here = Path(onnxruntime.__file__).parents[1]
    folder = tmp_path / "site"
    folder.mkdir()
    for entry in here.iterdir():
        if not entry.name.startswith(("onnxruntime", "torch", "isbi", "__editable__")):
            (folder / entry.name).symlink_to(entry)
    (folder / "isbi_infer").symlink_to(Path(isbi_infer.__file__).parent)
    (folder / "isbi_models").symlink_to(default_model().path.parent)

    def run(*arguments):
        code = "import sys; sys.argv[1:1] = ['doctor']; from isbi_infer.cli import main; main()"
        return examine(*arguments, command=(sys.executable, "-S", "-c", code), PYTHONPATH=str(folder))

    run.folder, run.here = folder, here
    return run


@pytest.fixture(scope="module")
def healthy():
    """What it says of this machine as it is."""
    return examine()


def test_a_healthy_machine_is_well_and_says_what_runs(healthy):
    assert healthy.returncode == 0, healthy.stdout
    lines = healthy.stdout.splitlines()
    assert lines[-1] == "all is well"
    assert any(line.split()[:4] == ["ok", "cpu", "runs", "in"] for line in lines)
    assert any("onnxruntime" in line and VERSION in line for line in lines)
    halo = read_contract(default_model().path.read_bytes()).halo
    assert any(f"halo {halo}" in line and "exact" in line for line in lines)
    assert any(f"as released ({default_model().name})" in line for line in lines)
    assert "\x1b" not in healthy.stdout


def test_every_finding_is_one_line_of_mark_name_and_detail(healthy):
    *lines, _ = healthy.stdout.splitlines()
    assert all(line.split()[0] in ("ok", "-") for line in lines)
    assert len(lines) >= 14


@pytest.mark.parametrize("columns", [40, pytest.param(80, marks=pytest.mark.more)])
def test_on_a_terminal_findings_are_wrapped_at_words(terminal, columns):
    shown = terminal(PROGRAM, "doctor", columns=columns, NO_COLOR="1")
    assert shown.code == 0
    assert "\x1b" not in shown.raw
    rows = shown.raw.replace("\r", "").splitlines()
    assert all(
        len(row) <= columns for row in rows if "/" not in row and " " in row.strip()
    )  # words stay whole
    assert any(re.match(r"ok     cpu\b", row) for row in rows)
    assert len(rows) > 20


def test_a_terminal_gets_colour(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    leader, follower = pty.openpty()
    with subprocess.Popen([PROGRAM, "doctor"], stdout=follower, stderr=follower) as process:
        os.close(follower)
        said = b""
        try:
            while part := os.read(leader, 4096):
                said += part
        except OSError:  # Linux's way of saying that the other end is closed
            pass
    os.close(leader)
    assert process.returncode == 0
    assert b"\x1b[32mok" in said


def test_json_is_one_object_with_the_same_findings():
    result = examine("--json")
    assert result.returncode == 0
    said = json.loads(result.stdout)
    assert (said["exit_code"], said["remedies"]) == (0, [])
    assert findings(result)["cpu"] == (True, "runs in int8, fp32")
    assert {"python", "isbi-infer", "numpy", "torch", "memory", "cores", "model", "scores"} <= set(
        findings(result)
    )


def test_the_scores_of_the_model_are_named_without_raw_dictionaries():
    found = findings(examine("--json"))["scores"][1]
    scores = read_contract(default_model().path.read_bytes()).provenance["scores"]
    assert f"V_rand {scores['v_rand_thin']:.4f}" in found
    assert "{" not in found


def test_no_torch_is_imported():
    code = (
        "import sys; from isbi_infer.doctor import app; app(args=['--json'], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    assert examine(command=(sys.executable, "-c", code)).returncode == 0


def test_a_damaged_model_is_named_and_leaves_with_5(tmp_path):
    path = tmp_path / "my model.onnx"
    path.write_bytes(default_model().path.read_bytes()[:-1000])
    result = examine("--model", path)
    assert_ends_with(result, 5, f"isbi-export '{tmp_path}/my model.pth'")
    assert str(path) in result.stdout
    # on the released one:
    assert ["ok", "cpu", "runs", "in"] in [line.split()[:4] for line in result.stdout.splitlines()]


def test_another_model_is_examined_and_said_to_be_another(tmp_path):
    content = default_model().path.read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(content + b"\x72\x06\x0a\x01a\x12\x01b")  # a line of metadata by another program
    result = examine("--model", path, "--json")
    assert result.returncode == 0, result.stdout
    assert "not a released model" in findings(result)["model"][1]
    assert str(path) in findings(result)["model"][1]


def copied_models(site):
    """Give the site models of its own; return their folder."""
    shutil.copytree((site.folder / "isbi_models").resolve(), site.folder / "copy")
    (site.folder / "isbi_models").unlink()
    (site.folder / "onnxruntime").symlink_to(site.here / "onnxruntime")
    return (site.folder / "copy").rename(site.folder / "isbi_models")


def test_a_released_model_that_was_changed_leaves_with_5(site):
    with open(copied_models(site) / default_model().path.name, "r+b") as file:
        file.seek(5_000_000)
        file.write(b"\0\0\0\0")
    assert_ends_with(site(), 5, "pip install --force-reinstall --no-deps isbi-infer")


def test_another_whole_model_in_the_place_of_a_released_one_leaves_with_5(site):
    models = copied_models(site)
    other = next(model for model in released_models().values() if model.path != default_model().path)
    shutil.copy(other.path, models / default_model().path.name)
    assert_ends_with(site(), 5, "pip install --force-reinstall --no-deps isbi-infer")


def test_two_wheels_leave_with_3_and_the_two_commands(tmp_path):
    wheel(tmp_path, "onnxruntime-gpu")
    result = examine(PYTHONPATH=str(tmp_path))
    mend = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'isbi-infer[gpu]'"
    assert_ends_with(result, 3, mend)
    assert "onnxruntime and onnxruntime-gpu are both installed" in result.stdout


def test_of_two_wheels_the_one_whose_files_were_overwritten_is_named(tmp_path):
    wheel(tmp_path, "onnxruntime-openvino", files=[("onnxruntime/__init__.py", 7), ("onnxruntime/x.so", 9)])
    result = examine("--json", PYTHONPATH=str(tmp_path))
    assert findings(result)["onnxruntime-openvino"] == (
        False,
        "9.9, 2 of its files are missing or another wheel's",
    )
    assert json.loads(result.stdout)["remedies"] == [
        "pip uninstall -y onnxruntime onnxruntime-openvino && pip install 'isbi-infer[cpu]'"
    ]


def test_one_wheel_with_files_of_another_is_reinstalled(site):
    (site.folder / "onnxruntime").symlink_to(site.here / "onnxruntime")
    size = (site.here / "onnxruntime" / "__init__.py").stat().st_size
    wheel(site.folder, "onnxruntime", VERSION, [("onnxruntime/__init__.py", size - 1)])
    assert_ends_with(site(), 3, f"pip install --force-reinstall --no-deps onnxruntime=={VERSION}")


def test_no_onnxruntime_leaves_with_3(site):
    result = site()
    assert_ends_with(result, 3, "pip install 'isbi-infer[cpu]'")
    assert any(line.split()[:4] == ["-", "torch", "not", "installed;"] for line in result.stdout.splitlines())


def test_an_onnxruntime_that_cannot_be_imported_is_reinstalled(site):
    (site.folder / "onnxruntime").mkdir()
    (site.folder / "onnxruntime" / "__init__.py").write_text("raise ImportError('libgomp.so.1: cannot open')")
    wheel(site.folder, "onnxruntime", "1.40.0")
    result = site()
    assert_ends_with(result, 3, "pip install --force-reinstall --no-deps onnxruntime==1.40.0")
    assert "libgomp.so.1" in result.stdout


def test_an_onnxruntime_beside_no_metadata_is_taken_as_it_is(site):
    (site.folder / "onnxruntime").symlink_to(site.here / "onnxruntime")
    result = site("--json")
    assert result.returncode == 0, result.stdout
    assert findings(result)["onnxruntime"][0] is None


def test_the_gpu_wheel_without_cuda_in_it_leaves_with_3(site):
    (site.folder / "onnxruntime").symlink_to(site.here / "onnxruntime")
    wheel(site.folder, "onnxruntime-gpu", VERSION)
    assert_ends_with(site(), 3, "pip install --force-reinstall --no-deps onnxruntime-gpu")


def test_a_missing_base_package_is_found_before_it_is_needed(site):
    for found in site.folder.glob("tifffile*"):
        found.unlink()
    assert_ends_with(site(), 3, "pip install tifffile")


def test_a_provider_that_does_not_run_is_wrong_only_where_it_has_to():
    model = {"float32": default_model().path.read_bytes()}
    cuda, tensorrt, cpu = (next(rows("onnx", name)) for name in ("cuda", "tensorrt", "cpu"))
    found = doctor.check_device(cuda, model, "the remedy")
    assert (found.ok, found.remedy, found.exit_code) == (False, "the remedy", 3)
    found = doctor.check_device(tensorrt, model, None)
    assert (found.ok, found.remedy) == (None, None)
    assert doctor.check_device(cpu, model, "the remedy").ok


def tool(folder, name, code):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!{sys.executable}\n{code}\n")
    (folder / name).chmod(0o755)
    return str(folder)


def test_the_gpu_and_its_free_memory_are_said_and_the_wheel_that_would_use_it(tmp_path):
    path = tool(tmp_path / "bin", "nvidia-smi", "print('NVIDIA H100, 580.65.06, 80000, 81559')")
    result = examine("--json", PATH=path)
    assert result.returncode == 0
    assert findings(result)["gpu"][1] == "NVIDIA H100, driver 580.65.06, 80000 of 81559 MiB free"
    assert "isbi-infer[gpu]" in findings(result)["cuda"][1]


WITHOUT_GPU = ["raise SystemExit(9)", "print('No devices were found')", "print('a, b')"]


@pytest.mark.parametrize("code", WITHOUT_GPU)
def test_a_driver_without_a_gpu_lists_none(tmp_path, monkeypatch, code):
    monkeypatch.setenv("PATH", tool(tmp_path / "bin", "nvidia-smi", code))
    assert list_gpus() == []


def test_a_driver_without_a_gpu_is_no_gpu(tmp_path):
    result = examine("--json", PATH=tool(tmp_path / "bin", "nvidia-smi", WITHOUT_GPU[0]))
    assert result.returncode == 0
    assert findings(result)["gpu"] == (None, "no NVIDIA driver or GPU found (nvidia-smi)")
    assert "cuda" not in findings(result)


def test_libraries_are_found_in_pip_packages_on_the_path_and_in_the_cache(tmp_path):
    places = {"nvidia/cudnn/lib/libcudnn.so.9": "site", "libcufft.so.12": "path", "libcublas.so.13": "cache"}
    for name, place in places.items():
        (tmp_path / place / name).parent.mkdir(parents=True)
        (tmp_path / place / name).touch()
    (tmp_path / "path" / "libcudartistic.so.1").touch()
    cache = f"\tlibcublas.so.13 (libc6,x86-64) => {tmp_path}/cache/libcublas.so.13\n\tlibcudart.so.13 => /gone/x.so\n"
    path = tool(tmp_path / "bin", "ldconfig", f"print({cache!r})")
    tool(tmp_path / "bin", "nvidia-smi", "print('NVIDIA H100, 580.65.06, 80000, 81559')")
    result = examine(
        "--json", PYTHONPATH=str(tmp_path / "site"), LD_LIBRARY_PATH=str(tmp_path / "path"), PATH=path
    )
    assert findings(result)["cuda libraries"][1].split("; ") == [
        "cudart, curand not found",
        f"cublas in {tmp_path}/cache",
        f"cufft in {tmp_path}/path",
        f"cuDNN in {tmp_path}/site/nvidia/cudnn/lib",
    ]


def test_a_stack_named_doctor_is_reached_by_a_path(tmp_path):
    (tmp_path / "doctor").write_bytes(b"<html>")
    plain = subprocess.run([PROGRAM, "doctor", "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert "isbi-infer doctor [OPTIONS]" in plain.stdout
    stack = subprocess.run([PROGRAM, "./doctor"], capture_output=True, text=True, cwd=tmp_path)
    assert stack.returncode == 4
    assert "isbi-infer doctor" in subprocess.run([PROGRAM, "--help"], capture_output=True, text=True).stdout


def test_a_wrong_option_is_a_usage_error():
    assert examine("--nonsense").returncode == 2
