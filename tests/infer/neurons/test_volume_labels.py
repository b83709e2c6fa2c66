"""Labels of a volume, in blocks and by workers: the ids, to the last one, of the stack in one piece."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack
from hypothesis import given, settings
from hypothesis import strategies as st
from label_files import SIZE, store, stored, unsure

from isbi_infer.errors import OutputError, UsageError
from isbi_infer.neurons import volume
from isbi_infer.neurons.labelling import Labelling, label_array
from isbi_infer.neurons.volume import VolumeLabels, label_layout
from isbi_infer.volumes import StackInfo, open_source, write_stack

pytest.importorskip("tensorstore")

PROGRAM = Path(sys.executable).with_name("isbi-infer")


@settings(max_examples=12, deadline=None)
@given(
    depth=st.integers(1, 5),
    side=st.integers(32, 70),
    block=st.integers(1, 5),
    chunk=st.tuples(st.integers(1, 3), st.integers(8, 40), st.integers(8, 40)),
    link=st.sampled_from(["none", "overlap", "multicut"]),
    seed=st.integers(0, 99),
)
def test_labels_in_blocks_are_those_of_the_stack_in_one_piece(
    tmp_path_factory, depth, side, block, chunk, link, seed
):
    folder = tmp_path_factory.mktemp("labels")
    probability_ZYX = unsure((depth, side, side + 7), seed)
    labelling = Labelling(link=link, min_pixels=4)
    like = store(folder / "p.ome.zarr", probability_ZYX, block)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(volume, "_CHUNK", chunk)
        patched.setattr(volume, "_SHARD", 40)
        assert label_layout(probability_ZYX.shape).count >= 1
        found = VolumeLabels(folder / "l.ome.zarr", folder / "p.ome.zarr", like, labelling).summarise()
    expected_ZYX = label_array(probability_ZYX, labelling)
    np.testing.assert_array_equal(stored(folder / "l.ome.zarr"), expected_ZYX)
    assert found.ids == expected_ZYX.max()
    assert sorted(path.name for path in folder.iterdir()) == ["l.csv", "l.ome.zarr", "p.ome.zarr"]


def test_the_command_writes_the_same_labels_as_tiff_and_as_omezarr_whatever_the_blocks_and_on_a_cluster(
    tmp_path,
):
    pytest.importorskip("distributed")
    tifffile.imwrite(
        tmp_path / "s.tif", synthetic_stack(3, 64, 300)[0], imagej=True, metadata={"axes": "ZYX"}
    )

    def label(name, *options):
        labels = ["--labels", name, "--link", "overlap", "--provider", "cpu", "--quiet"]
        command = [PROGRAM, "s.tif", "-o", *options, *labels]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return tmp_path / name

    expected_ZYX = tifffile.imread(label("one.tif", "one.probability.tif"))
    assert expected_ZYX.max() > 3
    for number, options in enumerate(
        (["--block", "1,256,256"], ["--block", "2,256,512"], ["--block", "1,256,512", "--cluster", "local:2"])
    ):
        made = label(f"{number}.ome.zarr", f"p{number}.ome.zarr", *options)
        np.testing.assert_array_equal(stored(made), expected_ZYX)
        assert (tmp_path / f"{number}.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()


def test_labels_are_valid_ome_zarr_with_the_size_of_the_pixels(tmp_path):
    yaozarrs = pytest.importorskip("yaozarrs")
    like = store(tmp_path / "p.ome.zarr", unsure((2, 40, 50)), 1)
    VolumeLabels(tmp_path / "l.ome.zarr", tmp_path / "p.ome.zarr", like, Labelling()).summarise()
    yaozarrs.validate_zarr_store(str(tmp_path / "l.ome.zarr"))
    with open_source(tmp_path / "l.ome.zarr", grey=False) as source:
        assert (source.info.pixel_size, source.dtype) == (SIZE, np.uint32)


def test_labels_that_are_there_are_not_replaced_unasked_and_of_cut_off_ones_nothing_is_kept(tmp_path):
    like = store(tmp_path / "p.ome.zarr", unsure((2, 40, 50)), 1)
    cut_off = tmp_path / "l.ome.zarr.partial" / "segments"
    cut_off.mkdir(parents=True)
    np.save(cut_off / "0.npy", np.ones((40, 50), np.uint32))
    VolumeLabels(tmp_path / "l.ome.zarr", tmp_path / "p.ome.zarr", like, Labelling()).summarise()
    np.testing.assert_array_equal(
        stored(tmp_path / "l.ome.zarr"), label_array(unsure((2, 40, 50)), Labelling())
    )
    with pytest.raises(UsageError, match="is there already; --overwrite replaces it"):
        VolumeLabels(tmp_path / "l.ome.zarr", tmp_path / "p.ome.zarr", like, Labelling())
    assert not os.path.lexists(tmp_path / "l.ome.zarr.partial")


SHAPE = (2, 40, 50)


def write_result(path, seed):
    """Write a result anew, at another time than that of before."""
    if path.suffix == ".zarr":
        shutil.rmtree(path, ignore_errors=True)
        store(path, unsure(SHAPE, seed), 1)
    else:
        write_stack(path, unsure(SHAPE, seed), like=StackInfo(shape=SHAPE), dtype=np.float32)
    for file in (path, *path.rglob("*")):
        os.utime(file, ns=(seed * 10**9, seed * 10**9))


def label_again(folder, result, **options):
    labels = VolumeLabels(folder / "l.ome.zarr", result, StackInfo(shape=SHAPE), Labelling(), **options)
    return labels.summarise().notes


@pytest.mark.parametrize("name", ["p.ome.zarr", "p.tif"])
def test_finished_labels_of_a_result_that_was_replaced_are_made_again_and_those_of_the_same_pixels_stay(
    tmp_path, name
):
    result = tmp_path / name
    write_result(result, 1)
    label_again(tmp_path, result)
    said = (result / "zarr.json").read_bytes() if result.is_dir() else b""
    write_result(result, 2)
    assert said == ((result / "zarr.json").read_bytes() if result.is_dir() else b"")
    assert label_again(tmp_path, result, resume=True) == ()
    np.testing.assert_array_equal(stored(tmp_path / "l.ome.zarr"), label_array(unsure(SHAPE, 2), Labelling()))
    write_result(result, 2)
    os.utime(result, ns=(10**9, 10**9))
    if result.is_dir():
        (result / "0" / "c" / ".DS_Store").write_bytes(b"left by a file manager")
    (note,) = label_again(tmp_path, result, resume=True)
    assert note.endswith("l.ome.zarr is finished already")


@pytest.mark.parametrize("name", ["p.ome.zarr", "p.tif"])
@pytest.mark.parametrize("seed", [1, 2])
def test_labels_that_were_cut_off_are_gone_on_with_unless_the_result_was_replaced(
    tmp_path, monkeypatch, name, seed
):
    result = tmp_path / name
    write_result(result, 1)

    def fail(*_):
        raise OutputError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(VolumeLabels, "_store", fail)
        with pytest.raises(OutputError, match="no room"):
            label_again(tmp_path, result)
    write_result(result, seed)
    os.utime(result, ns=(9 * 10**9, 9 * 10**9))
    notes = label_again(tmp_path, result, resume=True)
    assert ["begun otherwise: result: 'sha256 " in note for note in notes] == [True] * (seed - 1)
    np.testing.assert_array_equal(
        stored(tmp_path / "l.ome.zarr"), label_array(unsure(SHAPE, seed), Labelling())
    )


def test_a_result_in_tiff_has_the_same_labels(tmp_path):
    probability_ZYX = unsure((2, 40, 50))
    write_stack(tmp_path / "p.tif", probability_ZYX, like=StackInfo(shape=(2, 40, 50)), dtype=np.float32)
    like = StackInfo(shape=(2, 40, 50))
    VolumeLabels(tmp_path / "l.ome.zarr", tmp_path / "p.tif", like, Labelling(link="multicut")).summarise()
    np.testing.assert_array_equal(
        stored(tmp_path / "l.ome.zarr"), label_array(probability_ZYX, Labelling(link="multicut"))
    )
