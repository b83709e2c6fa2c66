"""Whole runs where something is wrong around them: the code, one line, and what was there before untouched."""

import os

import numpy as np
import onnxruntime
import pytest
import tifffile
from drawn import synthetic_stack
from tiny_files import tiny_onnx

from isbi_infer import ImageError, Segmenter


@pytest.fixture
def stack(tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", synthetic_stack(2, 64, 80)[0], photometric="minisblack")
    return tmp_path / "stack.tif"


@pytest.fixture
def model(tmp_path):
    (tmp_path / "tiny.onnx").write_bytes(tiny_onnx())
    return tmp_path / "tiny.onnx"


def test_both_wheels_installed_is_3_with_the_two_commands_before_anything_is_written(
    tmp_path, stack, model, monkeypatch, leaves
):
    wheel = tmp_path / "site" / "onnxruntime_gpu-9.9.dist-info"
    wheel.mkdir(parents=True)
    (wheel / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(str(wheel.parent))
    (tmp_path / "out.tif").write_bytes(b"old")
    code, printed, said = leaves(stack, "-o", tmp_path / "out.tif", "--model", model, "--provider", "cpu")
    assert (code, printed) == (3, "")
    assert said.count("\n") == 1
    assert "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'isbi-infer[gpu]'" in said
    assert (tmp_path / "out.tif").read_bytes() == b"old"


def test_shards_of_fill_values_are_stored_and_count_as_done(tmp_path, model, leaves):
    tifffile.imwrite(tmp_path / "blank.tif", np.full((4, 64, 80), 7, np.uint8), photometric="minisblack")
    out = tmp_path / "out.ome.zarr"
    asked = [tmp_path / "blank.tif", "-o", out, "--model", model, "--provider", "cpu", "--block", "1,64,80"]
    code, _, said = leaves(*asked, "--shard", "1/2")
    assert code == 0, said
    stored = [path for path in (tmp_path / "out.ome.zarr.partial").rglob("c/*/*/*") if path.is_file()]
    assert len(stored) == 2
    code, _, said = leaves(*asked, "--resume")
    assert code == 0, said
    assert "2 of 4 blocks were there already" in said


BEFORE = {"out.tif", "stack.tif", "tiny.onnx"}


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--model", "missing.onnx"], 5, "missing.onnx"),
        (["--provider", "cuda"], 3, "pip"),
        (["--channel", "4"], 4, "stack.tif"),
        (["--tile", "-5"], 2, "tile"),
        (["-o", "tiny.onnx/out.tif"], 6, "tiny.onnx"),
        (["-o", "stack.tif"], 2, "input"),
    ],
)
def test_a_run_that_cannot_be_leaves_everything_as_it_was(
    tmp_path, stack, model, monkeypatch, leaves, options, code, says
):
    if "cuda" in options and onnxruntime.get_device() == "GPU":
        pytest.skip("there is a GPU")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.tif").write_bytes(b"old")
    contents = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(contents) == BEFORE
    found, printed, said = leaves("stack.tif", "-o", "out.tif", "--model", "tiny.onnx", *options)
    assert (found, printed) == (code, "")
    assert said.count("\n") == 1
    assert says in said
    assert "Traceback" not in said
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == contents


def test_an_input_that_changes_during_the_run_is_4_and_nothing_is_written(tmp_path, stack, model, leaves):
    def change(done, total):
        with stack.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\0")
        os.utime(stack, ns=(1, 1))

    many = np.repeat(tifffile.imread(stack), 20, axis=0)
    tifffile.imwrite(stack, many, photometric="minisblack")
    with pytest.raises(ImageError, match=r"stack\.tif.*changed") as raised:
        Segmenter(model, provider="cpu").segment_file(stack, tmp_path / "out.tif", progress=change)
    assert raised.value.exit_code == 4
    assert sorted(os.listdir(tmp_path)) == ["stack.tif", "tiny.onnx"]


def test_a_runtime_that_falls_back_to_the_cpu_without_a_word_is_3_and_nothing_is_written(
    tmp_path, stack, model, monkeypatch, leaves
):
    """As onnxruntime did where a library of CUDA was missing: the session opens, on the CPU."""
    real = onnxruntime.InferenceSession

    def fall_back(content, options, providers, enable_fallback):
        return real(content, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", fall_back)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    (tmp_path / "out.tif").write_bytes(b"old")
    code, printed, said = leaves(stack, "-o", tmp_path / "out.tif", "--model", model, "--provider", "cuda")
    assert (code, printed) == (3, "")
    assert said.count("\n") == 1
    assert "fell back to CPUExecutionProvider" in said
    assert (tmp_path / "out.tif").read_bytes() == b"old"
