"""Limits on memory, from less than a program needs to start to more than it takes: the right bytes, or 7."""

import os
import resource
import subprocess
import sys

import pytest
import tifffile
import zarr
from drawn import synthetic_stack

from isbi_infer.errors import ResourceError
from isbi_infer.headroom import check_headroom, is_lack_of_memory, says_lack_of_memory
from isbi_models import released_models

CHECKPOINT = next(iter(released_models().values())).checkpoint.path
PROGRAMS = {
    "TIFF on onnxruntime": ["isbi_infer", "stack.tif", "-o", "out.tif", "--provider", "cpu"],
    "TIFF on OpenVINO": ["isbi_infer", "stack.tif", "-o", "out.tif", "--provider", "openvino"],
    "Zarr on onnxruntime": ["isbi_infer", "volume.zarr", "-o", "out.tif", "--provider", "cpu"],
    "Zarr on OpenVINO": ["isbi_infer", "volume.zarr", "-o", "out.tif", "--provider", "openvino"],
    "export": ["isbi_export", str(CHECKPOINT), "-o", "exported"],
    "training": [
        *("isbi_train", "fit", "--data", "stack.tif", "--labels", "labels.tif", "--out", "run"),
        *("--steps", "1", "--epochs", "1", "--crop", "64", "--batch", "1"),
    ],
    "evaluation": ["isbi_train", "evaluate", "stack.tif", "labels.tif"],
}
# Below it OpenBLAS, which comes with NumPy, ends the process by itself, with 1.
LEAST = 130


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    image_ZYX, label_ZYX = synthetic_stack(3, 96, 96)
    tifffile.imwrite(folder / "stack.tif", image_ZYX, photometric="minisblack")
    tifffile.imwrite(folder / "labels.tif", label_ZYX, photometric="minisblack")
    zarr.create_array(folder / "volume.zarr", data=image_ZYX, chunks=(1, 96, 96))
    return folder


def ended(program, inputs, folder, megabytes=None):
    """Run a program in a folder of its own under a limit; return its exit code and what it said."""

    def limited():
        if megabytes:
            resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    (folder / "exported").mkdir(parents=True)
    for path in inputs.iterdir():
        (folder / path.name).symlink_to(path)
    done = subprocess.run(
        [sys.executable, "-m", *PROGRAMS[program]],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ISBI_INFER_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        preexec_fn=limited,
        timeout=300,  # libraries may stand still
    )
    return done.returncode, done.stderr


def check(program, inputs, folder, megabytes, expected):
    code, said = ended(program, inputs, folder, megabytes)
    assert code in (0, 7), (megabytes, code, said)
    assert "Traceback" not in said, megabytes
    if code == 7:
        assert "not enough memory" in said.splitlines()[-1], (megabytes, said)
        assert not (folder / "out.tif").exists()
    elif expected:
        assert (folder / "out.tif").read_bytes() == expected
    return code


@pytest.mark.parametrize(
    ("program", "megabytes"),
    [
        ("TIFF on OpenVINO", 150),
        ("TIFF on OpenVINO", 280),
        ("Zarr on onnxruntime", 340),
        ("training", 590),
        ("export", 540),
        ("evaluation", 250),
        *(pytest.param(*more, marks=pytest.mark.more) for more in [("training", 400), ("evaluation", 400)]),
    ],
)
def test_too_little_memory_for_a_library_or_its_threads_is_7(inputs, tmp_path, program, megabytes):
    assert check(program, inputs, tmp_path / "limited", megabytes, None) == 7


@pytest.mark.more
@pytest.mark.parametrize("program", PROGRAMS)
def test_any_limit_on_memory_gives_the_right_bytes_or_7(inputs, tmp_path, program, figures):
    expected = None
    if "on" in program.split():
        assert ended(program, inputs, tmp_path / "whole")[0] == 0
        expected = (tmp_path / "whole" / "out.tif").read_bytes()
    limits = [*range(LEAST, 600, 20), *range(600, 2100, 100)]
    codes = [check(program, inputs, tmp_path / str(limit), limit, expected) for limit in limits]
    figures(limited=len(codes))
    assert 7 in codes


@pytest.mark.parametrize(
    "said",
    [
        "std::bad_alloc",
        "Resource temporarily unavailable",
        "libx.so.1: failed to map segment from shared object",
        "can't start new thread",
        "OSError: [Errno 12] Cannot allocate memory",
        "could not create a primitive",
        "Failed to serialize proto",
    ],
)
def test_what_libraries_say_of_too_little_memory_is_understood(said):
    assert says_lack_of_memory(said)
    outer = ImportError("cannot be loaded")
    outer.__cause__ = OSError(said)
    assert is_lack_of_memory(outer)


@pytest.mark.parametrize(
    "said",
    [
        "libx.so.1: failed to map segment from shared object: Operation not permitted",
        "a bad allocator",
        "could not create a primitive descriptor for a convolution",
        "no such file",
    ],
)
def test_other_failures_are_not_taken_for_it(said):
    assert not says_lack_of_memory(said)


def test_headroom_that_no_machine_has_is_an_error():
    with pytest.raises(ResourceError, match="not enough memory for everything"):
        check_headroom("everything", 2**60)
