"""What a command writes never takes the place of what it reads, of its other outputs, or of annotations."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack

from isbi_infer.neurons.measurements import table_of

PROGRAM = Path(sys.executable).with_name("isbi-infer")
CPU = ("--provider", "cpu", "--quiet")


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """The working folder: a stack, a folder of its sections, and labels."""
    image_ZYX, labels_ZYX = synthetic_stack(2, 64, 80)
    tifffile.imwrite(tmp_path / "stack.tif", image_ZYX, photometric="minisblack")
    tifffile.imwrite(tmp_path / "truth.tif", labels_ZYX, photometric="minisblack")
    (tmp_path / "sec").mkdir()
    for z, image_YX in enumerate(image_ZYX):
        tifffile.imwrite(tmp_path / "sec" / f"{z}.tif", image_YX)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def infer(*arguments):
    return subprocess.run([PROGRAM, *arguments, *CPU], capture_output=True, text=True, check=False)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sec", "-o", "sec/0.tif"), "sec/0.tif: the output (the result of sec) is 0.tif, an image of the input sec"),
        (("sec", "-o", "o.tif", "--labels", "sec/1.tif"), "(--labels) is 1.tif, an image of the input sec"),
        (("sec", "-o", "o.tif", "--overlay", "sec/2.png"), "(--overlay) is 2.png, an image of the input sec"),
        (("stack.tif", "stack.probability.tif"), "is the input stack.probability.tif itself; leave one of them out"),
        (("stack.tif", "-o", "o.ome.zarr", "--mask", "m.tif", "--labels", "m.tif"), "is the input m.tif itself"),
        (("stack.tif", "--label", "truth.tif", "--labels", "truth.tif"), "is the input truth.tif itself"),
        (("stack.tif", "--labels", "stack.probability.tif"), "would be written twice"),
        (("stack.tif", "--model", "net", "-o", "net"), "is the input net itself"),
        (("stack.tif", "-o", "o.zarr", "--labels", "o.zarr/l.zarr"), "would hold o.zarr/l.zarr"),
    ],
)  # fmt: skip
def test_an_output_that_is_an_input_or_another_output_is_refused_before_any_work(desk, arguments, said):
    for name in ("stack.probability.tif", "m.tif", "net"):
        (desk / name).write_bytes((desk / "stack.tif").read_bytes())
    (desk / "sec" / "2.png").write_bytes(b"a section")
    before = contents(desk)
    done = infer(*arguments)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert said in line
    assert contents(desk) == before


@pytest.mark.parametrize("name", ["mine.tif", "mine.csv", "noise.tif"])
def test_ids_and_their_table_replace_nothing_that_isbi_infer_has_not_written(desk, name):
    (desk / "mine.tif").write_bytes((desk / "truth.tif").read_bytes())
    (desk / "mine.csv").write_text("id,name\n1,Purkinje\n")
    (desk / "noise.tif").write_bytes(np.random.default_rng(0).bytes(400))
    if name == "mine.csv":
        (desk / "mine.tif").unlink()
    before = contents(desk)
    done = infer("stack.tif", "--labels", Path(name).with_suffix(".tif"))
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"isbi-infer: {name}: isbi-infer has not written this file")
    assert "--label)" in line
    assert contents(desk) == before


def test_a_result_that_isbi_infer_wrote_is_no_ids_and_stays(desk):
    assert infer("stack.tif", "-o", "mine.tif").returncode == 0
    before = contents(desk)
    assert infer("stack.tif", "--labels", "mine.tif").returncode == 2
    assert contents(desk) == before


def test_annotations_in_ome_zarr_stay_also_where_results_are_overwritten(desk):
    assert infer("stack.tif", "-o", "mine.ome.zarr").returncode == 0
    before = contents(desk)
    for how in ("--overwrite", "--resume"):
        done = infer("stack.tif", "-o", "o.ome.zarr", "--labels", "mine.ome.zarr", how)
        assert done.returncode == 2
        assert "has not written this file" in done.stderr
    assert contents(desk) == before


@pytest.mark.parametrize("document", ['{"zarr_format": 3, "node_type": "group"}', '{"zarr_format"'])
def test_a_group_that_says_nothing_of_itself_is_no_ids_and_stays(desk, document):
    (desk / "mine.zarr").mkdir()
    (desk / "mine.zarr" / "zarr.json").write_text(document)
    before = contents(desk)
    done = infer("stack.tif", "-o", "o.ome.zarr", "--labels", "mine.zarr", "--overwrite")
    assert done.returncode == 2, done.stderr
    assert "mine.zarr: isbi-infer has not written this file" in done.stderr
    assert contents(desk) == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("folder.tif", "folder.tif: is a folder; expected the name of a file to write"),
        ("folder.zarr", "folder.zarr: is there already, and is no OME-Zarr"),
    ],
)
def test_ids_are_not_written_over_a_folder_of_anything_else(desk, name, said):
    (desk / name).mkdir()
    (desk / name / "mine.txt").write_text("notes")
    before = contents(desk)
    done = infer("stack.tif", "-o", "o.ome.zarr", "--labels", name, "--overwrite")
    assert done.returncode == 6, done.stderr
    assert said in done.stderr
    assert contents(desk) == before


@pytest.mark.parametrize(
    "name", ["ids.tif", pytest.param("ids.ome.tif", marks=pytest.mark.more), "ids.ome.zarr"]
)
def test_ids_of_an_earlier_run_are_replaced_with_the_table_beside_them(desk, name):
    flags = ("-o", "o.ome.zarr", "--overwrite") if name.endswith(".zarr") else ()
    for _ in range(2):
        before = set(desk.iterdir())
        done = infer("stack.tif", "--labels", name, *flags)
        assert done.returncode == 0, done.stderr
    assert set(desk.iterdir()) == before
    assert table_of(desk / name) in before  # where it was written, so that it is looked at before


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ids.tif", "ids.tiff"),
        ("ids.tif", "ids.ome.zarr"),
        pytest.param("ids.ome.zarr", "ids.TIF", marks=pytest.mark.more),
        pytest.param("ids.ome.zarr", "ids.zarr", marks=pytest.mark.more),
    ],
)
def test_a_table_of_ids_of_another_name_is_not_replaced(desk, first, second):
    assert infer("stack.tif", "-o", "o.tif", "--labels", first).returncode == 0
    before = contents(desk)
    done = infer("stack.tif", "-o", "o.tif", "--labels", second)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"isbi-infer: {second}: its table would be ids.csv, which is that of {first}; ")
    assert f"or move {first} and ids.csv away" in line
    assert contents(desk) == before


def test_ids_of_the_same_name_that_isbi_infer_has_not_written_are_no_hindrance(desk):
    (desk / "ids.tiff").write_bytes((desk / "truth.tif").read_bytes())
    (desk / "ids.zarr").mkdir()
    done = infer("stack.tif", "--labels", "ids.tif")
    assert done.returncode == 0, done.stderr


def test_chunked_ids_beside_a_result_in_tiff_are_replaced_as_the_message_says(desk):
    run = ("stack.tif", "-o", "o.tif", "--labels", "ids.ome.zarr")
    assert infer(*run).returncode == 0
    before = contents(desk)
    again = infer(*run)
    assert (again.returncode, contents(desk)) == (2, before)
    assert "ids.ome.zarr: is there already; --overwrite replaces it" in again.stderr
    done = infer(*run, "--threshold", "0.9", "--overwrite")
    assert done.returncode == 0, done.stderr
    after = contents(desk)
    assert after.keys() == before.keys()
    assert {path.name for path in after if after[path] != before[path]} >= {"zarr.json", "ids.csv"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--labels", "ids.tif", "--overwrite"), "--overwrite, --shard, --mask and --cluster are for OME-Zarr"),
        (("--labels", "ids.zarr", "--overwrite", "--resume"), "--resume and --overwrite exclude each other"),
    ],
)  # fmt: skip
def test_where_nothing_is_chunked_or_ids_are_gone_on_with_there_is_nothing_to_overwrite(desk, options, said):
    before = contents(desk)
    done = infer("stack.tif", "-o", "o.tif", *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert contents(desk) == before


def test_the_working_folder_has_a_result_of_its_name_beside_it(desk, monkeypatch):
    monkeypatch.chdir(desk / "sec")
    done = infer(".")
    assert done.returncode == 0, done.stderr
    assert tifffile.imread(desk / "sec.probability.tif").shape == (2, 64, 80)
    assert sorted(path.name for path in (desk / "sec").iterdir()) == ["0.tif", "1.tif"]
    nameless = infer("/")
    assert nameless.returncode == 2
    assert "name one with --output" in nameless.stderr
