"""Ctrl-C and SIGTERM at any moment of a program: while it imports, while it ends, twice, where Python loses them."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack

from isbi_models import released_models

CHECKPOINT = next(iter(released_models().values())).checkpoint.path
PROGRAMS = {
    "isbi-infer": ["isbi_infer", "stack.tif", "-o", "out.tif", "--provider", "cpu"],
    "isbi-infer doctor": ["isbi_infer", "doctor"],
    "isbi-infer models": ["isbi_infer", "models"],
    "isbi-infer demo": ["isbi_infer.demo", "demo"],
    "isbi-infer sample": ["isbi_infer.sample", "drawn.tif", "--sections", "1"],
    "isbi-train fit": ["isbi_train", "fit", "--data", "stack.tif", "--labels", "labels.tif", "--out", "run"],
    "isbi-train evaluate": ["isbi_train", "evaluate", "stack.tif", "labels.tif"],
    "isbi-export": ["isbi_export", str(CHECKPOINT), "-o", "."],
}
FIRST = "isbi_infer.start"


@pytest.fixture(scope="module")
def drawn():
    return synthetic_stack(2, 64, 64)


@pytest.fixture
def inputs(tmp_path, drawn):
    image_ZYX, label_ZYX = drawn
    tifffile.imwrite(tmp_path / "stack.tif", image_ZYX)
    tifffile.imwrite(tmp_path / "labels.tif", label_ZYX)
    return tmp_path


def begun(name, folder, *options):
    """Start a program in a group of its own, as a terminal does."""
    return subprocess.Popen(
        [sys.executable, *options, "-m", *PROGRAMS[name]],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def signalled_after(module, name, folder, number):
    """Send a program a signal once it has imported a module; return its exit code and what it says."""
    with begun(name, folder, "-X", "importtime") as process:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.rstrip().endswith(f" {module}"):
                os.killpg(process.pid, number)
                break
        said += process.stderr.readlines()
    return process.returncode, [line for line in said if not line.startswith("import time:")]


@pytest.mark.parametrize(
    ("name", "module", "number"),
    [
        ("isbi-infer", "typer.main", signal.SIGINT),
        ("isbi-infer", "numpy", signal.SIGTERM),
        ("isbi-infer", "tifffile.tifffile", signal.SIGINT),
        ("isbi-infer doctor", "isbi_infer.terminal.commands", signal.SIGINT),
        ("isbi-infer demo", "numpy.linalg", signal.SIGTERM),
        ("isbi-infer sample", "numpy.linalg", signal.SIGINT),
        ("isbi-train fit", "isbi_train.config", signal.SIGTERM),
        pytest.param("isbi-train fit", "torch._C", signal.SIGINT, marks=pytest.mark.more),
        ("isbi-export", "isbi_infer.backends.compiled_cache", signal.SIGINT),
    ],
)
def test_a_signal_while_a_program_imports_ends_it_with_one_line(inputs, name, module, number):
    before = sorted(os.listdir(inputs))
    code, said = signalled_after(module, name, inputs, number)
    by = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert code == 128 + number, said
    (line,) = said
    assert line.endswith(f": stopped by {by}; nothing half-written was left behind\n")
    assert sorted(os.listdir(inputs)) == before


@pytest.mark.more
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_signal_in_the_first_two_seconds_leaves_no_traceback(inputs, name, number, figures):
    ours = 0
    for delay in np.arange(0.05, 2.0, 0.05):
        with begun(name, inputs, "-X", "importtime") as process:
            time.sleep(delay)
            if process.poll() is None:
                os.killpg(process.pid, number)
            said = process.stderr.read()
        if f" {FIRST}\n" not in said.rpartition("import time:")[0]:
            continue  # Python itself was starting
        ours += 1
        assert "Traceback" not in said, (delay, said[-2000:])
        assert process.returncode in (0, 128 + number), (delay, process.returncode, said[-2000:])
    figures(killed=ours)
    assert ours > 10


def test_ctrl_c_twice_is_as_ctrl_c_once(tmp_path, drawn):
    image_ZYX, _ = drawn
    tifffile.imwrite(tmp_path / "stack.tif", np.tile(image_ZYX, (200, 4, 4)))
    (tmp_path / "out.tif").write_bytes(b"the old result")
    with begun("isbi-infer", tmp_path) as process:
        assert "tile" in process.stderr.readline()
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.002)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "stopped by Ctrl-C" in said
    assert sorted(os.listdir(tmp_path)) == ["out.tif", "stack.tif"]
    assert (tmp_path / "out.tif").read_bytes() == b"the old result"


def python(code, *numbers, folder=None):
    """Run code; whenever it prints "now", send it the next signal. Return its exit code and standard error."""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for number in numbers:
            assert process.stdout.readline() == "now\n"
            process.send_signal(number)
        said = process.stderr.read()
    return process.returncode, said


@pytest.mark.parametrize("code", [0, 4])
def test_a_signal_while_python_ends_changes_no_exit_code(code):
    program = (
        "import sys, threading, time\n"
        "from isbi_infer.start import Program\n"
        "def still():\n"
        "    time.sleep(0.2)\n"
        "    print('now', flush=True)\n"
        "    time.sleep(60)\n"
        "with Program('isbi-infer'):\n"
        "    threading.Thread(target=still).start()\n"
        f"    sys.exit({code})\n"
    )
    assert python(program, signal.SIGINT) == (code, "")


def test_a_third_signal_leaves_at_once():
    program = (
        "import time\n"
        "from isbi_infer.terminal import exit_codes\n"
        "def wait():\n"
        "    print('now', flush=True)\n"
        "    time.sleep(2)\n"
        "with exit_codes('isbi-infer'):\n"
        "    try:\n"
        "        wait()\n"
        "    finally:\n"
        "        wait()\n"
        "        for _ in range(60):\n"
        "            wait()\n"
    )
    code, said = python(program, signal.SIGTERM, signal.SIGINT, signal.SIGTERM)
    assert code == 143
    assert said.splitlines() == [
        "isbi-infer: stopping; once more leaves at once",
        "isbi-infer: left at once; the next run removes what this one left unfinished",
    ]


@pytest.mark.parametrize(
    "lost",
    [
        "import swallows",
        "class Last:\n        def __del__(self): wait()\n    Last()",
        "try: wait()\n    except KeyboardInterrupt: raise ImportError",
        "try: wait()\n    except BaseException: pass",
    ],
    ids=["import that swallows", "finaliser", "another exception", "nothing left of it"],
)
def test_a_signal_that_python_or_a_library_loses_stops_the_command_all_the_same(tmp_path, lost):
    wait = "import time\ndef wait():\n    print('now', flush=True)\n    time.sleep(0.5)\n"
    (tmp_path / "swallows.py").write_text(f"{wait}try: wait()\nexcept BaseException: pass\n")
    program = (
        "import sys; sys.path.insert(0, '.')\n"
        f"{wait}from isbi_infer.terminal import exit_codes\n"
        f"with exit_codes('isbi-infer'):\n    {lost}\n    time.sleep(60)\n"
    )
    code, said = python(program, signal.SIGINT, folder=tmp_path)
    assert code == 130
    assert said == "isbi-infer: stopped by Ctrl-C; nothing half-written was left behind\n"
