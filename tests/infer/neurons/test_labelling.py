"""Labels of a stack: ids by size, dtypes that Fiji opens, a table in physical units, and what is refused."""

import csv
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack

from isbi_infer.errors import BusyError, OutputError, ResourceError, UsageError
from isbi_infer.files import reserved
from isbi_infer.neurons import labelling as labelling_room
from isbi_infer.neurons.labelling import Labelling, LabelSink, ids_by_size, label_array, label_dtype
from isbi_infer.neurons.measurements import COLUMNS
from isbi_infer.neurons.segments import pixels_of_size, segment_section
from isbi_infer.volumes.pixel_size import PixelSize
from isbi_infer.volumes.protocol import Block, StackInfo
from isbi_train.scores.instances import label_scores
from isbi_train.scores.metrics import thinned_scores

PROGRAM = Path(sys.executable).with_name("isbi-infer")
SIZE = PixelSize(y_nm=4, x_nm=5, z_nm=50)


def soft(sections=3, height=70, width=90, seed=0):
    """Return labels of cells, and probabilities that are unsure of them."""
    cell_ZYX = synthetic_stack(sections, height, width)[1] > 0
    noise = np.random.default_rng(seed).normal(0, 0.2, cell_ZYX.shape)
    return cell_ZYX, np.clip(cell_ZYX * 0.6 + 0.2 + noise, 0, 1).astype(np.float32)


def label(path, probability_ZYX, labelling=None, *, step=1, pixel_size=SIZE, membrane=False):
    like = StackInfo(shape=probability_ZYX.shape, pixel_size=pixel_size)
    with LabelSink(path, like, labelling or Labelling(), membrane=membrane) as sink:
        for z in range(0, len(probability_ZYX), step):
            part_ZYX = probability_ZYX[z : z + step]
            sink.write(Block(z, (z, z + len(part_ZYX)), (0, like.shape[1]), (0, like.shape[2])), part_ZYX)
        return sink.summarise()


def rows(path):
    with open(path, encoding="ascii", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8999999999999999])
def test_unlinked_labels_have_the_scores_of_the_probabilities_they_came_from(tmp_path, threshold):
    cell_ZYX, probability_ZYX = soft()
    label(tmp_path / "n.tif", probability_ZYX, Labelling(threshold=threshold))
    found = label_scores(tifffile.imread(tmp_path / "n.tif"), cell_ZYX)
    expected = thinned_scores(probability_ZYX, cell_ZYX)
    t = (
        int(np.flatnonzero(expected.thresholds.astype(np.float64) == threshold)[0])
        if threshold != 0.8999999999999999
        else 9
    )
    assert found == pytest.approx((expected.rand.mean[t], expected.info.mean[t]), abs=1e-12)


@pytest.mark.parametrize("link", ["none", "overlap", "multicut"])
def test_labels_in_memory_are_those_of_the_file(tmp_path, link):
    _, probability_ZYX = soft()
    how, counted = Labelling(link=link, min_pixels=20), []
    label(tmp_path / "n.tif", probability_ZYX, how)
    found_ZYX = label_array(probability_ZYX, how, progress=counted.append)
    expected_ZYX = tifffile.imread(tmp_path / "n.tif")
    assert found_ZYX.dtype == expected_ZYX.dtype
    np.testing.assert_array_equal(found_ZYX, expected_ZYX)
    assert counted == [1, 2, 3]


@pytest.mark.parametrize("link", ["none", "overlap", "multicut"])
def test_labels_do_not_depend_on_how_the_sections_come(tmp_path, link):
    _, probability_ZYX = soft(sections=5)
    files = []
    for step in (1, 2, 5):
        label(tmp_path / f"{step}.tif", probability_ZYX, Labelling(link=link), step=step)
        files.append([(tmp_path / f"{step}{end}").read_bytes() for end in (".tif", ".csv")])
    assert files[0] == files[1] == files[2]


def test_what_means_membrane_gives_the_same_labels(tmp_path):
    _, probability_ZYX = soft()
    stored_ZYX = np.rint(probability_ZYX * 255).astype(np.uint8)
    label(tmp_path / "cell.tif", stored_ZYX)
    label(tmp_path / "membrane.tif", 255 - stored_ZYX, membrane=True)
    assert (tmp_path / "cell.tif").read_bytes() == (tmp_path / "membrane.tif").read_bytes()


def test_the_table_says_what_the_labels_hold(tmp_path):
    _, probability_ZYX = soft(sections=4)
    summary = label(tmp_path / "n.tif", probability_ZYX, Labelling(link="multicut"))
    labels_ZYX, table = tifffile.imread(tmp_path / "n.tif"), rows(tmp_path / "n.csv")
    assert len(table) == labels_ZYX.max() == summary.ids > 1
    pixels = [int(row["pixels"]) for row in table]
    assert pixels == sorted(pixels, reverse=True)
    for row in table:
        z, y, x = np.nonzero(labels_ZYX == int(row["id"]))
        assert int(row["pixels"]) == len(z)
        assert [int(row[name]) for name in ("sections", "first_section", "last_section")] == [
            len(set(z)), z.min(), z.max(),
        ]  # fmt: skip
        assert [float(row[axis]) for axis in "zyx"] == pytest.approx(
            [z.mean(), y.mean(), x.mean()], abs=0.0051
        )
        assert float(row["volume_um3"]) == pytest.approx(len(z) * 4 * 5 * 50 / 1e9, rel=1e-5)
        assert float(row["mean_area_um2"]) == pytest.approx(len(z) * 4 * 5 / 1e6 / len(set(z)), rel=1e-5)
        edge = bool((np.isin(y, (0, 69)) | np.isin(x, (0, 89))).any())
        assert (row["touches_edge"], row["touches_end"]) == (
            str(int(edge)),
            str(int(bool(np.isin(z, (0, 3)).any()))),
        )


def test_the_page_names_every_column_of_the_table():
    page = Path(__file__).parents[3].joinpath("docs", "neurons.md").read_text(encoding="utf-8")
    assert f"\n    {','.join(COLUMNS)}\n" in page
    named = [
        name for row in page.splitlines() if row.startswith("| `") for name in row.split("|")[1].split(",")
    ]
    assert [name.strip(" `") for name in named] == list(COLUMNS)


def test_without_a_pixel_size_the_table_has_no_areas(tmp_path):
    _, probability_ZYX = soft()
    label(tmp_path / "n.tif", probability_ZYX, pixel_size=None)
    assert {(row["mean_area_um2"], row["volume_um3"]) for row in rows(tmp_path / "n.csv")} == {("", "")}


def test_ids_are_numbered_by_size_and_equals_by_where_they_begin():
    ids, count = ids_by_size(np.array([7, 3, 7, 5, 9]), np.array([2, 4, 2, 9, 1]))
    assert (ids.tolist(), count) == ([2, 3, 2, 1, 4], 4)


def test_small_segments_are_left_out_and_the_others_stay():
    _, probability_ZYX = soft(1)
    every_YX, large_YX = (segment_section(probability_ZYX[0], min_pixels=least) for least in (0, 30))
    sizes = np.bincount(every_YX.ravel())
    assert np.array_equal(large_YX > 0, (every_YX > 0) & (sizes >= 30)[every_YX])
    assert large_YX.max() == np.count_nonzero(sizes[1:] >= 30) < every_YX.max()


def test_labels_keep_pixel_size_and_unit_and_open_in_fiji(tmp_path):
    _, probability_ZYX = soft()
    summary = label(tmp_path / "n.tif", probability_ZYX)
    with tifffile.TiffFile(tmp_path / "n.tif") as file:
        found = file.imagej_metadata
        assert file.series[0].dtype == np.uint16
    assert (found["unit"], found["spacing"], found["max"]) == ("um", 0.05, summary.ids)


def test_ids_of_16_bits_give_way_to_32_and_more_than_those_are_refused():
    assert [label_dtype(count, "n.tif").name for count in (0, 2**16 - 1, 2**16, 2**32 - 1)] == [
        "uint16", "uint16", "uint32", "uint32",
    ]  # fmt: skip
    with pytest.raises(
        ResourceError, match=r"n\.tif: 4294967296 segments, but labels hold 4294967295"
    ) as caught:
        label_dtype(2**32, "n.tif")
    assert "\n" not in str(caught.value)


def test_a_stack_without_a_cell_has_labels_of_0_and_a_note(tmp_path):
    summary = label(tmp_path / "n.tif", np.zeros((2, 9, 8), np.float32), Labelling(link="multicut"))
    assert not tifffile.imread(tmp_path / "n.tif").any()
    assert rows(tmp_path / "n.csv") == []
    (note,) = summary.notes
    assert "no cell in any section" in note


@pytest.mark.parametrize(("text", "pixels"), [("50", 50), ("50px", 50), ("1000nm2", 50), ("1000 nm^2", 50)])
def test_a_smallest_size_is_in_pixels_or_nanometres(text, pixels):
    assert pixels_of_size(text, SIZE) == pixels


@pytest.mark.parametrize(("text", "size"), [("-3", SIZE), ("5um", SIZE), ("50nm2", None)])
def test_a_smallest_size_that_cannot_be_known_is_refused(text, size):
    with pytest.raises(UsageError, match="--min-size"):
        pixels_of_size(text, size)


def both(folder):
    """Return the bytes of labels and of their table; nothing else is there."""
    assert sorted(path.name for path in folder.iterdir()) == ["n.csv", "n.tif"]
    return (folder / "n.tif").read_bytes(), (folder / "n.csv").read_bytes()


@pytest.mark.parametrize("name", ["n.tif", "n.csv"])
def test_where_another_run_writes_labels_or_table_both_stay_as_they_are(tmp_path, name):
    _, probability_ZYX = soft()
    label(tmp_path / "n.tif", probability_ZYX)
    before = both(tmp_path)
    with reserved(tmp_path / name), pytest.raises(BusyError, match=name):
        label(tmp_path / "n.tif", probability_ZYX, Labelling(threshold=0.8))
    assert both(tmp_path) == before


@pytest.mark.parametrize("full", ["table", "labels"])
def test_where_labels_or_table_find_no_room_both_stay_as_they_are(tmp_path, monkeypatch, full):
    _, probability_ZYX = soft()
    label(tmp_path / "n.tif", probability_ZYX)
    before = both(tmp_path)

    def write(path, *_):
        path.write_text("a part")
        raise OSError(28, "No space left on device")

    holder, name = {
        "table": (labelling_room, "write_rows"),
        "labels": (labelling_room.TiffSink, "finish"),
    }[full]
    monkeypatch.setattr(holder, name, write if full == "table" else lambda _: write(tmp_path / "n.csv.part"))
    with pytest.raises(OutputError, match=r"n\.csv" if full == "table" else r"n\.tif"):
        label(tmp_path / "n.tif", probability_ZYX, Labelling(threshold=0.8))
    (tmp_path / "n.csv.part").unlink(missing_ok=True)
    assert both(tmp_path) == before


def test_segments_that_do_not_fit_on_the_disk_are_an_error_that_names_the_labels(tmp_path):
    _, probability_ZYX = soft(2, 32, 32)
    label(tmp_path / "n.tif", probability_ZYX)  # kernels are compiled, and labels are there
    before, (usual, most) = both(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, most))
        with pytest.raises(OutputError, match=r"n\.tif: no room for segments beside it .*free some space"):
            label(tmp_path / "n.tif", probability_ZYX, Labelling(threshold=0.8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (usual, most))
    assert both(tmp_path) == before


def test_the_command_writes_labels_and_table_beside_the_probabilities(tmp_path):
    stack = tmp_path / "s.tif"
    tifffile.imwrite(stack, synthetic_stack(2, 64, 80)[0])
    command = [
        PROGRAM,
        stack,
        "--provider",
        "cpu",
        "--labels",
        tmp_path / "n.tif",
        "--link",
        "overlap",
        "--json",
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(said.stdout)["labels"]
    expected = label(tmp_path / "e.tif", tifffile.imread(tmp_path / "s.probability.tif"),
                     Labelling(link="overlap", threshold=found["threshold"]))  # fmt: skip
    assert found["ids"] == expected.ids == len(rows(tmp_path / "n.csv"))
    assert np.array_equal(tifffile.imread(tmp_path / "n.tif"), tifffile.imread(tmp_path / "e.tif"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--link", "overlap"], "--labels"),
        (["--labels", "n.png"], r"n.tif"),
        (["--labels", "s.tif"], "is the input"),
        (["--labels", "n.tif", "--threshold", "1.5"], "threshold 1.5"),
        (["--labels", "missing/n.tif"], "missing"),
    ],
)
def test_what_cannot_be_labelled_is_one_line_and_nothing_is_written(tmp_path, options, named):
    tifffile.imwrite(tmp_path / "s.tif", synthetic_stack(1, 32, 32)[0])
    command = [PROGRAM, "s.tif", "--provider", "cpu", *options]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert said.returncode in (2, 6)
    (line,) = said.stderr.splitlines()
    assert named in line
    assert [path.name for path in tmp_path.iterdir()] == ["s.tif"]
