"""Disks that are full and machines without a temporary folder or a home: in a mount namespace of their own."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import tifffile
from drawn import synthetic_stack
from tiny_files import tiny_onnx

NAMESPACE = ("unshare", "--mount")


def _can_mount():
    try:
        test = subprocess.run(
            [*NAMESPACE, "mount", "-t", "tmpfs", "t", "/mnt"], capture_output=True, check=False
        )
    except FileNotFoundError:
        return False
    return test.returncode == 0


pytestmark = pytest.mark.skipif(not _can_mount(), reason="no file system may be mounted here")

# Runs commands in this process and says how each of them left, and what lay in the small file system afterwards.
DRIVER = """
import contextlib, hashlib, io, json, os, subprocess, sys
folder, work = sys.argv[1], json.loads(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "small", folder], check=True)

def listed():
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            found[os.path.relpath(path, folder)] = hashlib.sha256(open(path, "rb").read()).hexdigest()
    return found

def leaves(arguments):
    from isbi_infer.cli import app
    said, printed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
        try:
            app(arguments)
        except SystemExit as left:
            return left.code, said.getvalue()

results = []
for arguments in work:
    with open(os.path.join(folder, "old.tif"), "wb") as file:
        file.write(b"old")
    code, said = leaves(arguments)
    results.append([code, said, listed()])
    subprocess.run(["mount", "-o", "remount,size=8m", folder], check=True)
    code, said = leaves([*arguments, *(["--resume"] if arguments[-1].endswith("zarr") else [])])
    results.append([code, said, listed()])
    subprocess.run(["find", folder, "-mindepth", "1", "-delete"], check=True)
    subprocess.run(["mount", "-o", "remount,size=300k", folder], check=True)
print(json.dumps(results))
"""


def test_a_full_file_system_is_6_with_the_old_output_intact_and_with_room_again_the_run_is_done(tmp_path):
    folder, stack, model = tmp_path / "small", tmp_path / "stack.tif", tmp_path / "tiny.onnx"
    folder.mkdir()
    tifffile.imwrite(stack, synthetic_stack(4, 200, 260)[0], photometric="minisblack")
    model.write_bytes(tiny_onnx())
    asked = ["--model", model, "--provider", "cpu", "--quiet"]
    outputs = {"old.tif": [], "out.ome.zarr": ["--block=1,256,256"]}
    work = [[stack, *asked, *more, "-o", folder / name] for name, more in outputs.items()]
    named = json.dumps(work, default=str)
    done = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", DRIVER, folder, named], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (tiff, tiff_again, volume, volume_again) = json.loads(done.stdout)
    for code, said, _ in (tiff, volume):
        assert code == 6, said
        line = [one for one in said.splitlines() if ": note: " not in one]
        assert len(line) == 1, said
        assert str(folder) in line[0]
        assert "space" in line[0]
    assert tiff[2] == {"old.tif": hashlib.sha256(b"old").hexdigest()}
    assert not any(".tmp" in name for name in volume[2])
    assert not any("zarr.json" in name and "partial" not in name for name in volume[2])
    assert (tiff_again[0], volume_again[0]) == (0, 0), (tiff_again[1], volume_again[1])
    assert tiff_again[2]["old.tif"] != tiff[2]["old.tif"]
    assert "out.ome.zarr/zarr.json" in volume_again[2]


def test_without_a_temporary_folder_and_a_home_a_run_goes_on(tmp_path):
    stack, model = tmp_path / "stack.tif", tmp_path / "tiny.onnx"
    tifffile.imwrite(stack, synthetic_stack(1, 64, 64)[0], photometric="minisblack")
    model.write_bytes(tiny_onnx())
    script = (
        f"mount --bind {tmp_path} /mnt && for place in /tmp /var/tmp /dev/shm; do "
        'mount -t tmpfs -o ro nothing $place; done; cd /proc && exec "$@"'
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in ("TMPDIR", "XDG_CACHE_HOME")
    }
    asked = ["/mnt/stack.tif", "-o", "/mnt/out.tif", "--model", "/mnt/tiny.onnx", "--provider", "openvino"]
    program = "import tempfile; from isbi_infer.cli import main\ntry:\n tempfile.gettempdir()\n"
    program += "except FileNotFoundError:\n main()"
    done = subprocess.run(
        [*NAMESPACE, "sh", "-c", script, "sh", sys.executable, "-c", program, *asked],
        env=environment | {"HOME": "/proc/version/home", "ISBI_INFER_CACHE": "/proc/version/cache"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "cache" in done.stderr
    assert tifffile.imread(tmp_path / "out.tif").shape == (64, 64)
