"""What surrounds a command is odd: streams that cannot be printed to, names, a terminal or a folder that is gone.

Its work is done all the same, and its exit code is that of the work.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from tiny_files import tiny_onnx

PROGRAM = Path(sys.executable).with_name("isbi-infer")
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")


@pytest.fixture
def folder(tmp_path):
    image_ZYX = np.random.default_rng(1).integers(0, 200, (2, 32, 48), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", image_ZYX, photometric="minisblack")
    (tmp_path / "tiny.onnx").write_bytes(tiny_onnx())
    return tmp_path


def in_shell(folder, rest, **environment):
    command = f"{PROGRAM} {rest}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


RUN = "stack.tif --model tiny.onnx --provider cpu -o out.tif"


def test_a_run_whose_standard_streams_are_closed_writes_the_same_bytes(folder):
    assert in_shell(folder, RUN.replace("out", "open")).returncode == 0
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        done = in_shell(folder, f"{RUN} {closed}")
        assert done.returncode == 0, f"{closed}: {done.stderr}"
        assert "Traceback" not in done.stderr
        assert (folder / "out.tif").read_bytes() == (folder / "open.tif").read_bytes()
        (folder / "out.tif").unlink()


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_an_error_keeps_its_code_where_streams_are_closed(folder, closed):
    done = in_shell(folder, f"missing.tif {closed}")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.count("\n") == (closed == ">&-")


@needs_full
@pytest.mark.parametrize("asked", [RUN, f"{RUN} --json", f"{RUN} --dry-run", "--help", "--version", "models"])
def test_standard_output_on_a_full_disk_is_6_and_the_result_is_there(folder, asked):
    done = in_shell(folder, f"{asked} > /dev/full")
    assert done.returncode == 6, done.stderr
    said = [line for line in done.stderr.splitlines() if ": note: " not in line]
    assert len(said) == 1
    assert "standard output: cannot be written (No space left on device)" in said[0]
    assert (folder / "out.tif").exists() == (asked in (RUN, f"{RUN} --json"))


@needs_full
@pytest.mark.parametrize(("asked", "code"), [(RUN, 0), ("missing.tif", 4), ("--nope", 2)])
def test_what_cannot_be_said_on_standard_error_changes_no_exit_code(folder, asked, code):
    assert in_shell(folder, f"{asked} 2> /dev/full").returncode == code
    assert (folder / "out.tif").exists() == (code == 0)


def test_a_reader_that_leaves_does_not_end_the_work_on_the_stacks_that_are_left(folder):
    for name in ("b", "c"):
        (folder / f"{name}.tif").write_bytes((folder / "stack.tif").read_bytes())
    rest = "stack.tif b.tif c.tif --model tiny.onnx --provider cpu --out-dir out 2>&1 | true; exit ${PIPESTATUS[0]}"
    assert in_shell(folder, rest).returncode == 0
    names = [f"{name}.probability.tif" for name in ("b", "c", "stack")]
    assert sorted(os.listdir(folder / "out")) == names


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
def test_a_name_that_no_encoding_holds_is_shown_by_report_and_json(folder):
    odd = os.fsencode(folder) + b"/bad\xff.tif"
    Path(os.fsdecode(odd)).write_bytes((folder / "stack.tif").read_bytes())
    asked = "$'bad\\xff.tif' --model tiny.onnx --provider cpu -o out.tif --json --report page.html"
    done = in_shell(folder, asked)
    assert done.returncode == 0, done.stderr
    assert "bad\\udcff.tif" in (folder / "page.html").read_text(encoding="utf-8")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="terminals do not hang up here")
@pytest.mark.parametrize("ignored", [False, True], ids=["a terminal that is closed", "nohup"])
def test_a_run_whose_terminal_hangs_up_leaves_nothing_half_written_and_goes_on_under_nohup(folder, ignored):
    many_ZYX = np.zeros((1500, 32, 48), np.uint8)
    many_ZYX[:, ::2] = 90
    tifffile.imwrite(folder / "stack.tif", many_ZYX, photometric="minisblack")
    (folder / "out.tif").write_bytes(b"old")
    before = sorted(os.listdir(folder))
    command = [*(["nohup"] if ignored else []), PROGRAM, *RUN.split()]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        until = time.monotonic() + 60
        while not list(folder.glob(".out.*.tmp.tif")) and run.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        run.send_signal(signal.SIGHUP)
        _, said = run.communicate(timeout=120)
    assert run.returncode == (0 if ignored else 129), said
    assert sorted(os.listdir(folder)) == before
    assert ((folder / "out.tif").read_bytes() == b"old") is not ignored
    assert ignored or "stopped by SIGHUP; nothing half-written" in said


def test_too_few_files_that_may_be_open_is_7_or_done(folder):
    done = in_shell(folder, f"stack.tif >/dev/null; ulimit -n 7; {PROGRAM} {RUN}")
    assert done.returncode in (0, 7), done.stderr
    assert "unforeseen" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a folder in use cannot be removed")
def test_in_a_working_folder_that_was_removed_a_whole_path_is_written_and_another_one_is_6(folder):
    def run(output):
        command = (
            f"mkdir gone; cd gone; rmdir ../gone; {PROGRAM} {folder}/stack.tif --model {folder}/tiny.onnx -o"
        )
        return subprocess.run(
            ["bash", "-c", f"{command} {output}"], cwd=folder, capture_output=True, text=True, check=False
        )

    done = run("out.tif")
    assert done.returncode == 6, done.stderr
    assert "out.tif: the working folder was removed" in done.stderr
    assert done.stderr.count("\n") == 1
    done = run(folder / "out.tif")
    assert done.returncode == 0, done.stderr
