import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack

from isbi_infer import Segmenter

PROGRAM = Path(sys.executable).with_name("isbi-infer")
NARROW = "isbi2012-unet-b32"  # a model whose halo leaves room for small tiles


def run(*arguments, **options):
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=120, **options)


@pytest.fixture
def stack(tmp_path, synthetic_ZYX):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(
        path,
        synthetic_ZYX,
        imagej=True,
        resolution=(200, 200),  # pixels of the 5 nm that the default model was trained at
        metadata={"axes": "ZYX", "spacing": 0.05, "unit": "um"},
    )
    return path


def assert_clean(result, code, *said):
    """One line, the exit code, no traceback."""
    assert result.returncode == code, result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("isbi-infer: ")
    for text in said:
        assert text in result.stderr


def test_a_stack_becomes_a_probability_stack_beside_it(stack, segmenter, synthetic_ZYX):
    result = run(stack)
    output = stack.with_name("stack.probability.tif")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("cpu int8: 3 sections in ")
    assert str(output) in result.stdout
    assert "tile" not in result.stderr  # of work that is over soon a log gets nothing
    assert (tifffile.imread(output) == segmenter(synthetic_ZYX)).all()


def test_axes_and_pixel_size_travel_to_the_output(stack):
    run(stack, "--quiet")
    with tifffile.TiffFile(stack.with_name("stack.probability.tif")) as tiff:
        assert tiff.series[0].axes == "ZYX"
        assert tiff.series[0].dtype == np.float32
        assert tiff.imagej_metadata["spacing"] == 0.05
        assert tiff.imagej_metadata["unit"] in ("um", "nm")
        assert tiff.pages[0].resolution == (200, 200)


def test_json_gives_one_object_and_nothing_else(stack, tmp_path):
    result = run(stack, "--json", "-o", tmp_path / "out.tif")
    found = json.loads(result.stdout)
    assert result.stderr == ""
    assert found["output"] == str(tmp_path / "out.tif")
    assert found["provider"] == "cpu"
    assert found["sections"] == 3
    assert found["shape"] == [3, 200, 260]
    assert found["seconds"] > 0
    assert found["megapixels_per_second"] == pytest.approx(3 * 200 * 260 / found["seconds"] / 1e6)
    assert len(found["model_sha256"]) == 64


def test_quiet_says_nothing(stack):
    result = run(stack, "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_membrane_and_uint8_are_what_they_say(stack, tmp_path, segmenter, synthetic_ZYX):
    assert run(stack, "--emit", "membrane", "--dtype", "uint8", "-o", tmp_path / "m.tif").returncode == 0
    expected = np.rint((1 - segmenter(synthetic_ZYX)) * np.float32(255)).astype(np.uint8)
    assert (tifffile.imread(tmp_path / "m.tif") == expected).all()


def test_tile_and_batch_change_nothing(stack, tmp_path, synthetic_ZYX):
    tiles = ("--model", NARROW, "--tile", "208", "--batch", "3")
    assert run(stack, *tiles, "-o", tmp_path / "t.tif").returncode == 0
    expected_ZYX = Segmenter(NARROW, provider="cpu", pixel_size=5.0)(synthetic_ZYX)
    assert (tifffile.imread(tmp_path / "t.tif") == expected_ZYX).all()


def test_a_single_section_stays_a_single_section(tmp_path, synthetic_ZYX):
    tifffile.imwrite(tmp_path / "one.tiff", synthetic_ZYX[0])
    assert run(tmp_path / "one.tiff").returncode == 0
    assert tifffile.imread(tmp_path / "one.probability.tif").shape == synthetic_ZYX[0].shape


def test_a_missing_file_leaves_4(tmp_path):
    assert_clean(run(tmp_path / "missing.tif"), 4, "missing.tif")


def test_a_truncated_stack_leaves_4_and_writes_nothing(stack):
    stack.write_bytes(stack.read_bytes()[:-1000])
    assert_clean(run(stack), 4, "stack.tif")
    assert os.listdir(stack.parent) == ["stack.tif"]


def test_no_tiff_leaves_4(tmp_path):
    (tmp_path / "page.tif").write_text("<html></html>")
    assert_clean(run(tmp_path / "page.tif"), 4, "page.tif")


def test_an_rgb_image_leaves_4_and_says_greyscale(tmp_path):
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((40, 50, 3), np.uint8), photometric="rgb")
    assert_clean(run(tmp_path / "rgb.tif"), 4, "greyscale")


def test_an_output_folder_that_does_not_exist_leaves_6_before_any_work(stack):
    assert_clean(run(stack, "-o", stack.parent / "no" / "out.tif"), 6, "does not exist")


def test_an_output_below_a_file_leaves_6(stack):
    assert_clean(run(stack, "-o", stack / "out.tif"), 6)


def test_writing_over_the_input_leaves_2(stack):
    before = stack.read_bytes()
    link = stack.with_name("link.tif")
    link.symlink_to(stack)
    for output in (stack, link):
        assert_clean(run(stack, "-o", output), 2)
    assert stack.read_bytes() == before


def test_cuda_asked_and_absent_leaves_3_and_writes_nothing(stack):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    assert_clean(run(stack, "--provider", "cuda"), 3, "isbi-infer[gpu]")
    assert os.listdir(stack.parent) == ["stack.tif"]


def test_a_bad_model_leaves_5(stack, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    assert_clean(run(stack, "--model", tmp_path / "model.onnx"), 5, "model.onnx")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--tile", "7"),
        ("--provider", "abacus"),
        ("--dtype", "int4"),
        ("--no",),
        ("--block", f"1,{'9' * 5000},256"),
    ],
)
def test_an_impossible_option_leaves_2(stack, arguments):
    assert run(stack, *arguments).returncode == 2
    assert os.listdir(stack.parent) == ["stack.tif"]


def test_debug_shows_where_it_went_wrong(tmp_path):
    result = run(tmp_path / "missing.tif", "--debug")
    assert result.returncode == 4
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.more), (signal.SIGTERM, 143)]
)
def test_a_stopped_run_leaves_the_old_output_and_nothing_else(tmp_path, number, code):
    stack, output = tmp_path / "stack.tif", tmp_path / "out.tif"
    image_ZYX, _ = synthetic_stack(1, 512, 512)
    tifffile.imwrite(stack, np.repeat(image_ZYX, 200, axis=0))
    output.write_bytes(b"the old result")
    with subprocess.Popen([PROGRAM, stack, "-o", output], stderr=subprocess.PIPE, text=True) as process:
        assert "tile" in process.stderr.readline()  # it is in the middle of its work
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(30) == code
    assert "Traceback" not in rest
    assert output.read_bytes() == b"the old result"
    assert sorted(os.listdir(tmp_path)) == ["out.tif", "stack.tif"]


def test_a_reader_that_leaves_is_no_error(stack):
    with subprocess.Popen(
        [PROGRAM, stack, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0


@pytest.mark.parametrize("columns", [40, 80])
def test_a_large_section_is_counted_in_tiles_on_a_terminal_and_wiped_away(tmp_path, terminal, columns):
    image_ZYX, _ = synthetic_stack(1, 256, 256)
    tifffile.imwrite(tmp_path / "large.tif", np.tile(image_ZYX[0], (2, 4)))
    shown = terminal(
        PROGRAM,
        "large.tif",
        "--model",
        NARROW,
        "--provider",
        "cpu",
        "--tile",
        "352",
        columns=columns,
        cwd=tmp_path,
    )
    assert shown.code == 0, shown.text
    counts = [frame for frame in shown.frames if frame.startswith("tile ")]
    assert any(re.match(r"tile \d+/12 ", frame) for frame in counts)
    assert max(map(len, counts)) < columns
    assert shown.lines[-1].startswith("cpu int8: 1 section in ")
    assert not any("tile" in line for line in shown.lines)


def test_a_dry_run_prints_the_plan_and_writes_nothing(stack):
    result = run(stack, "--model", NARROW, "--dry-run", "--tile", "208")
    assert result.returncode == 0, result.stderr
    assert "3 sections of 200 x 260" in result.stdout
    assert "overhead" in result.stdout
    found = json.loads(run(stack, "--model", NARROW, "--dry-run", "--json").stdout)
    assert (found["shape"], found["halo"]) == ([3, 200, 260], 96)
    assert os.listdir(stack.parent) == ["stack.tif"]


def test_a_smaller_halo_is_allowed_and_its_measured_error_said(stack):
    result = run(stack, "--model", NARROW, "--halo", "32", "--tile", "112")
    assert result.returncode == 0, result.stderr
    assert "a halo of 32 is not exact (96 is)" in result.stderr


def test_flips_and_rotations_are_averaged(stack, tmp_path, segmenter, synthetic_ZYX):
    assert run(stack, "--tta", "-o", tmp_path / "tta.tif").returncode == 0
    found_ZYX = tifffile.imread(tmp_path / "tta.tif")
    assert 0 < np.abs(found_ZYX - segmenter(synthetic_ZYX)).mean() < 0.1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="one core is asked for as on Linux")
@pytest.mark.parametrize("blank", [0, 1, 3, 4])
def test_a_blank_section_does_not_hold_up_those_beside_it(tmp_path, blank):
    """On one core, as on a GPU: a batch waits for tiles of the section behind a blank one."""
    image_ZYX, _ = synthetic_stack(5, 96, 96)
    image_ZYX[blank] = 0
    tifffile.imwrite(tmp_path / "stack.tif", image_ZYX, photometric="minisblack")
    core = {min(os.sched_getaffinity(0))}
    asked = "--provider", "cpu", "--tta", "--batch", "3", "-o", tmp_path / "out.tif"
    done = run(tmp_path / "stack.tif", *asked, preexec_fn=lambda: os.sched_setaffinity(0, core))
    assert done.returncode == 0, done.stderr
    assert f"section {blank} is blank" in done.stderr
    assert (tifffile.imread(tmp_path / "out.tif") == Segmenter(provider="cpu", tta=True)(image_ZYX)).all()


def test_memory_is_an_amount_and_bounds_the_tiles(stack, tmp_path, segmenter, synthetic_ZYX):
    assert run(stack, "--memory", "40MiB", "-o", tmp_path / "m.tif").returncode == 0
    assert (tifffile.imread(tmp_path / "m.tif") == segmenter(synthetic_ZYX)).all()
    assert_clean(run(stack, "--memory", "lots"), 2, "4GiB")
    assert_clean(run(stack, "--memory", "1MiB"), 7, "memory")
