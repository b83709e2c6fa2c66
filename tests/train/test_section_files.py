"""A stack in single files and back: order, pixels, and what is refused."""

import math
import os

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isbi_infer.errors import BusyError, ImageError, OutputError, UsageError
from isbi_infer.files import replacing
from isbi_infer.volumes import PixelSize, StackInfo, open_stack, write_stack
from isbi_infer.volumes.images import natural_key
from isbi_train.data.folders import filled_at_once
from isbi_train.data.section_files import merge_sections, split_stack

DTYPES = st.sampled_from([np.uint8, np.uint16, np.uint32, np.int16, np.float32, np.float64])
SIZES = st.sampled_from([None, PixelSize(y_nm=4.0, x_nm=4.0, z_nm=50.0), PixelSize(y_nm=4.6, x_nm=5.1)])


def put(path, stack_ZYX, kind="imagej", pixel_size=None, nodata=None):
    info = StackInfo(shape=stack_ZYX.shape, kind=kind, pixel_size=pixel_size)
    with replacing(path) as temporary:
        write_stack(temporary, stack_ZYX, like=info, dtype=stack_ZYX.dtype, nodata=nodata)
    return path


def contents(path):
    with open_stack(path) as reader:
        return np.stack(list(reader)), reader.info.pixel_size, reader.kind, str(reader.nodata)


@given(
    data=st.data(),
    dtype=DTYPES,
    shape=st.tuples(st.integers(2, 12), st.integers(1, 9), st.integers(1, 9)),
    kind=st.sampled_from(["imagej", "ome"]),
    size=SIZES,
    nodata=st.sampled_from([None, 0.0, -32768.0, 0.1, math.nan]),
)
def test_merging_what_was_split_gives_the_stack_back(
    tmp_path_factory, data, dtype, shape, kind, size, nodata
):
    folder = tmp_path_factory.mktemp("law")
    finite = {"allow_nan": False, "allow_infinity": False} if np.dtype(dtype).kind == "f" else {}
    stack_ZYX = data.draw(hnp.arrays(dtype, shape, elements=hnp.from_dtype(np.dtype(dtype), **finite)))
    stack = put(folder / "stack.tif", stack_ZYX, kind, size, nodata)
    files = split_stack(stack, folder / "sections")
    assert len(files) == len(stack_ZYX)
    assert merge_sections(folder / "sections", folder / "merged.tif") == (len(stack_ZYX), ())
    before, after = contents(stack), contents(folder / "merged.tif")
    np.testing.assert_array_equal(after[0], stack_ZYX)
    assert after[0].dtype == dtype
    assert after[1:] == before[1:]
    assert after[3] == str(nodata)


def test_more_than_a_hundred_sections_keep_their_order(tmp_path):
    stack_ZYX = np.arange(103, dtype=np.uint8)[:, None, None] * np.ones((2, 3), np.uint8)
    files = split_stack(put(tmp_path / "stack.tif", stack_ZYX), tmp_path / "s")
    assert [file.name for file in files[:2] + files[-1:]] == ["000.tif", "001.tif", "102.tif"]
    merge_sections(tmp_path / "s", tmp_path / "merged.tif")
    np.testing.assert_array_equal(contents(tmp_path / "merged.tif")[0], stack_ZYX)


def test_foreign_names_are_taken_in_natural_order_and_other_files_left_out(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    for number in (10, 2, 1):
        tifffile.imwrite(folder / f"Slice_{number}.TIFF", np.full((2, 2), number, np.uint8))
    for name in (".hidden.tif", "notes.txt"):
        (folder / name).write_text("none")
    count, notes = merge_sections(folder, tmp_path / "merged.tif")
    assert contents(tmp_path / "merged.tif")[0][:, 0, 0].tolist() == [1, 2, 10]
    assert count == 3
    assert notes == ("numbers left out between the sections: 7, the first is 3",)


@given(st.lists(st.text("aB1²0._ 9", max_size=8), unique=True))
def test_natural_order_is_one_order_and_counts(names):
    ordered = sorted(names, key=natural_key)
    backwards = names[::-1]
    assert ordered == sorted(backwards, key=natural_key)
    assert sorted([f"s{n}" for n in (100, 9, 20)], key=natural_key) == ["s9", "s20", "s100"]


def test_sections_that_are_there_stay_unless_overwritten(tmp_path):
    first, second = (put(tmp_path / f"{v}.tif", np.full((2, 2, 2), v, np.uint8)) for v in (1, 2))
    split_stack(first, tmp_path / "s")
    with pytest.raises(UsageError, match=r"00\.tif: is there already \(2 TIFF files.*--overwrite"):
        split_stack(second, tmp_path / "s")
    assert contents(tmp_path / "s" / "00.tif")[0].max() == 1
    split_stack(second, tmp_path / "s", overwrite=True)
    assert contents(tmp_path / "s" / "01.tif")[0].min() == 2


def test_sections_of_a_longer_stack_are_never_mixed_with_those_of_a_shorter_one(tmp_path):
    split_stack(put(tmp_path / "long.tif", np.ones((4, 2, 2), np.uint8)), tmp_path / "s")
    short = put(tmp_path / "short.tif", np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(UsageError, match=r"02\.tif: is none of the 2 .*\(2 such files"):
        split_stack(short, tmp_path / "s", overwrite=True)
    assert contents(tmp_path / "s" / "00.tif")[0].max() == 1


def test_a_damaged_stack_leaves_no_section_and_no_folder(tmp_path):
    path = tmp_path / "stack.tif"
    stack_ZYX = np.zeros((3, 64, 64), np.uint8)
    tifffile.imwrite(path, stack_ZYX, photometric="minisblack", compression="zlib")
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[2].dataoffsets[0]
    path.write_bytes(whole[: offset + 2] + b"\xff" * 8 + whole[offset + 10 :])
    with pytest.raises(ImageError, match=r"stack\.tif: section 2"):
        split_stack(path, tmp_path / "s")
    assert not (tmp_path / "s").exists()


MIXED = {
    "shape": (np.zeros((2, 3), np.uint8), {}, r"is \(2, 3\); expected \(2, 2\)"),
    "dtype": (np.zeros((2, 2), np.uint16), {}, "is uint16; expected uint8"),
    "pixel size": (np.zeros((2, 2), np.uint8), {"resolution": (1e6, 1e6), "resolutionunit": 3}, "pixel size"),
    "sections": (np.zeros((3, 2, 2), np.uint8), {"photometric": "minisblack"}, "holds 3 sections"),
}


@pytest.mark.parametrize("case", MIXED)
def test_sections_that_do_not_belong_together_are_refused_by_name(tmp_path, case):
    odd, options, message = MIXED[case]
    folder = tmp_path / "s"
    folder.mkdir()
    tifffile.imwrite(folder / "0.tif", np.zeros((2, 2), np.uint8))
    tifffile.imwrite(folder / "1.tif", odd, **options)
    with pytest.raises(ImageError, match=rf"1\.tif: .*{message}"):
        merge_sections(folder, tmp_path / "merged.tif")
    assert not (tmp_path / "merged.tif").exists()


def test_sections_that_differ_in_what_stands_for_no_data_are_refused(tmp_path):
    for name, nodata in (("0.tif", math.nan), ("1.tif", None)):
        put(tmp_path / name, np.ones((1, 4, 5), np.float32), nodata=nodata)
    with pytest.raises(ImageError, match=r'1\.tif: has None for "no data"; expected nan, as 0\.tif has'):
        merge_sections(tmp_path, tmp_path.parent / "merged.tif")


def test_sections_whose_pixel_sizes_differ_by_less_than_a_percent_are_merged(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    for z, per_cm in enumerate((2_500_000, 2_500_001, 2_480_000)):
        options = {
            "resolution": (per_cm, per_cm),
            "resolutionunit": 3,
            "photometric": "minisblack",
            "metadata": None,
        }
        tifffile.imwrite(folder / f"{z}.tif", np.full((2, 2), z, np.uint8), **options)
    merge_sections(folder, tmp_path / "merged.tif")
    with open_stack(tmp_path / "merged.tif") as merged:
        assert (merged.shape, merged.pixel_size.x_nm) == ((3, 2, 2), 4.0)


def test_merging_refuses_what_would_lose_something(tmp_path):
    folder = tmp_path / "s"
    with pytest.raises(ImageError, match="is no folder"):
        merge_sections(folder, tmp_path / "merged.tif")
    folder.mkdir()
    with pytest.raises(ImageError, match="holds no TIFF files"):
        merge_sections(folder, tmp_path / "merged.tif")
    split_stack(put(tmp_path / "stack.tif", np.ones((2, 2, 2), np.uint8)), folder)
    with pytest.raises(UsageError, match="among its own sections"):
        merge_sections(folder, folder / "merged.tif")
    os.link(folder / "00.tif", tmp_path / "linked.tif")
    with pytest.raises(UsageError, match=r"is the input .* itself"):
        merge_sections(folder, tmp_path / "linked.tif", overwrite=True)
    (tmp_path / "merged.tif").write_bytes(b"old")
    with pytest.raises(UsageError, match="--overwrite"):
        merge_sections(folder, tmp_path / "merged.tif")
    assert (tmp_path / "merged.tif").read_bytes() == b"old"
    assert merge_sections(folder, tmp_path / "merged.tif", overwrite=True) == (2, ())


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path):
    stack = put(tmp_path / "stack.tif", np.ones((2, 2, 2), np.uint8))
    with pytest.raises(OutputError, match="no such folder can be made"):
        split_stack(stack, stack / "below")


def test_what_a_killed_process_left_is_swept(tmp_path):
    left = tmp_path / ".0123456789abcdef.unfinished"
    left.mkdir()
    (left / "half.tif").write_bytes(b"h")
    with filled_at_once(tmp_path) as aside:
        (aside / "b.tif").write_bytes(b"b")
    assert [path.name for path in tmp_path.iterdir()] == ["b.tif"]


def test_two_runs_do_not_fill_one_folder_at_once(tmp_path):
    with filled_at_once(tmp_path) as aside:
        (aside / "a.tif").write_bytes(b"a")
        with pytest.raises(BusyError), filled_at_once(tmp_path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
