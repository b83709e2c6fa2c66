"""Several stacks on one command line, where results go, and what they say of themselves."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack

from isbi_infer import Segmenter, UsageError
from isbi_infer.volumes import open_stack

PROGRAM = Path(sys.executable).with_name("isbi-infer")


def infer(*arguments, **options):
    return subprocess.run(
        [PROGRAM, *map(str, arguments), "--provider", "cpu"], capture_output=True, text=True, **options
    )


@pytest.fixture
def stacks(tmp_path):
    image_ZYX, _ = synthetic_stack(2, 64, 80)
    paths = [tmp_path / name for name in ("a.tif", "b.tif")]
    tifffile.imwrite(paths[0], image_ZYX, photometric="minisblack")
    tifffile.imwrite(paths[1], image_ZYX[:, ::-1], imagej=True, metadata={"axes": "ZYX"})
    return paths


def test_several_stacks_become_several_results_in_a_folder(stacks, tmp_path):
    done = infer(*stacks, "--out-dir", tmp_path / "new" / "folder")
    assert done.returncode == 0, done.stderr
    segmenter = Segmenter(provider="cpu")
    for stack in stacks:
        result = tmp_path / "new" / "folder" / f"{stack.stem}.probability.tif"
        assert (tifffile.imread(result) == segmenter(tifffile.imread(stack))).all()
        assert str(result) in done.stdout


def test_one_stack_that_fails_is_named_and_does_not_keep_the_others(stacks, tmp_path):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(stacks[0].read_bytes()[:-100])
    done = infer(broken, *stacks, "--out-dir", tmp_path)
    assert done.returncode == 4
    lines = [line for line in done.stderr.splitlines() if line.startswith("isbi-infer:")]
    assert str(broken) in lines[0]
    assert lines[-1] == "isbi-infer: 1 of 3 stacks failed, as listed above"
    assert all((tmp_path / f"{stack.stem}.probability.tif").exists() for stack in stacks)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-o", "x.tif"), "one output for 2 stacks; use --out-dir"),
        (("--label", "labels.tif"), "labels of one stack, but there are 2"),
    ],
)
def test_what_makes_sense_for_one_stack_only_is_refused_for_two(stacks, tmp_path, options, said):
    done = infer(*stacks, *options, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "b.tif"]


def test_two_stacks_of_one_name_are_not_written_over_each_other(stacks, tmp_path):
    (tmp_path / "other").mkdir()
    same = tmp_path / "other" / "a.tif"
    same.write_bytes(stacks[0].read_bytes())
    done = infer(stacks[0], same, "--out-dir", tmp_path / "out")
    assert done.returncode == 2
    assert "would be written twice, as the result of " in done.stderr
    assert "or run them one after the other with another --out-dir" in done.stderr


@pytest.mark.parametrize("suffix", [".png", ".npy", ".h5", ".jpg"])
def test_an_output_named_after_another_format_is_refused_before_any_work(stacks, tmp_path, suffix):
    done = infer(stacks[0], "-o", tmp_path / f"result{suffix}")
    assert done.returncode == 2
    assert (
        f"results are written as TIFF or OME-Zarr, not as {suffix}; name it {tmp_path}/result.tif"
        in done.stderr
    )
    assert not (tmp_path / f"result{suffix}").exists()
    with pytest.raises(UsageError, match="results are written as TIFF"):
        Segmenter(provider="cpu").segment_file(stacks[0], tmp_path / f"result{suffix}")


def test_a_result_that_was_there_is_replaced_and_said(stacks, tmp_path):
    target = tmp_path / "out.tif"
    assert "was replaced" not in infer(stacks[0], "-o", target).stderr
    assert f"note: {target} was there already, and was replaced" in infer(stacks[0], "-o", target).stderr


@pytest.mark.parametrize("stack", [0, 1])
def test_the_result_says_how_it_was_made_and_what_it_means(stacks, tmp_path, stack):
    done = infer(stacks[stack], "-o", tmp_path / "o.tif", "--json", "--emit", "membrane", "--dtype", "uint8")
    summary = json.loads(done.stdout)
    with tifffile.TiffFile(tmp_path / "o.tif") as tiff:
        software = tiff.pages[0].tags[305].value
        info = (tiff.imagej_metadata or {}).get("Info", software)
    for text in (software, info):
        assert f"model sha256 {summary['model_sha256']}" in text
        assert "int8 on cpu by onnxruntime" in text
        assert "255 = membrane, 0 = cell interior" in text
    with open_stack(tmp_path / "o.tif") as reader:
        assert reader.shape == (2, 64, 80)


def test_a_name_that_is_no_text_in_the_terminals_encoding_ends_no_run(tmp_path):
    image_ZYX, _ = synthetic_stack(1, 64, 64)
    path = tmp_path / "Membran\udce4.tif"  # a byte that is no UTF-8
    with open(path, "wb") as file:
        tifffile.imwrite(file, image_ZYX[0])
    done = infer(path, errors="replace", env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "Membran\udce4.probability.tif").exists()


def test_control_characters_in_names_do_not_reach_the_terminal(tmp_path):
    done = infer(tmp_path / "evil\x1b[31m.tif")
    assert done.returncode == 4
    assert "\x1b" not in done.stderr
    assert "evil\\x1b[31m.tif" in done.stderr


def test_what_nobody_foresaw_is_one_line_with_the_version_and_what_to_do():
    script = (
        "from isbi_infer.terminal import exit_codes\n"
        "with exit_codes('isbi-infer'):\n    raise RuntimeError('a fault\\nin two lines')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "RuntimeError: a fault in two lines" in line
    assert "run it again with --debug and report" in line


def test_memory_that_runs_out_outside_of_the_network_leaves_with_7():
    script = (
        "from isbi_infer.terminal import exit_codes\nwith exit_codes('isbi-infer'):\n    raise MemoryError\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 7
    assert done.stderr.startswith("isbi-infer: not enough memory")


def test_a_padded_stack_has_the_result_of_its_tissue_and_the_padding_is_said(tmp_path):
    image_ZYX, _ = synthetic_stack(3, 128, 160)
    padded_ZYX = np.zeros((3, 200, 256), np.uint8)
    for z, (y, x) in enumerate(((0, 0), (40, 60), (72, 96))):
        padded_ZYX[z, y : y + 128, x : x + 160] = image_ZYX[z]
    tifffile.imwrite(tmp_path / "padded.tif", padded_ZYX, photometric="minisblack")
    done = infer(tmp_path / "padded.tif", "-o", tmp_path / "o.tif")
    assert done.returncode == 0, done.stderr
    found_ZYX, expected_ZYX = tifffile.imread(tmp_path / "o.tif"), Segmenter(provider="cpu")(image_ZYX)
    for z, (y, x) in enumerate(((0, 0), (40, 60), (72, 96))):
        assert (found_ZYX[z, y : y + 128, x : x + 160] == expected_ZYX[z]).all()
        found_ZYX[z, y : y + 128, x : x + 160] = 0
    assert (found_ZYX == 0).all()
    assert "60 % of section 1 is canvas" in done.stderr


def test_blank_sections_are_named_and_come_out_as_membrane(tmp_path):
    image_ZYX, _ = synthetic_stack(5, 96, 96)
    image_ZYX[1:4] = np.array([0, 255, 77], np.uint8)[:, None, None]
    tifffile.imwrite(tmp_path / "stack.tif", image_ZYX, photometric="minisblack")
    done = infer(tmp_path / "stack.tif", "-o", tmp_path / "o.tif")
    assert done.returncode == 0
    found_ZYX = tifffile.imread(tmp_path / "o.tif")
    assert (found_ZYX[1:4] == 0).all()
    assert (found_ZYX[[0, 4]] > 0.5).mean() > 0.5
    assert [f"section {z} is blank" in done.stderr for z in range(5)] == [False, True, True, True, False]


def test_a_section_of_noise_alone_is_not_computed_but_comes_out_as_membrane(tmp_path):
    image_ZYX, _ = synthetic_stack(3, 256, 256)
    image_ZYX[1] = np.random.default_rng(0).normal(120, 9, (256, 256)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", image_ZYX, photometric="minisblack")
    done = infer(tmp_path / "stack.tif", "-o", tmp_path / "o.tif")
    assert done.returncode == 0, done.stderr
    found_ZYX = tifffile.imread(tmp_path / "o.tif")
    assert (found_ZYX[1] == 0).all()
    assert (found_ZYX[[0, 2]] > 0.5).mean() > 0.5
    assert "section 1 is blank but for noise" in done.stderr
