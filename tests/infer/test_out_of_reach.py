"""What may not be looked at, and names that no file system takes, are an error of that one path, or are not there."""

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from isbi_infer.cli.outputs import check_files
from isbi_infer.errors import ImageError
from isbi_infer.model.opening import find_released
from isbi_infer.terminal import exit_codes
from isbi_infer.volumes import open_source
from isbi_infer.volumes.formats import recognise
from isbi_infer.volumes.zarr.reader import is_volume

TOO_LONG = "a" * 300
NOBODY = 65534
HERE_ALONE = SimpleNamespace(label=None, options=None, looks=SimpleNamespace(wanted=list))


@pytest.fixture
def locked():
    """A folder that may not be entered, with a stack, a folder of images and an OME-Zarr in it."""
    with tempfile.TemporaryDirectory() as name:  # those of pytest are to be entered by their owner alone
        os.chmod(name, 0o755)
        yield from closed(Path(name) / "locked")


def closed(folder):
    (folder / "in").mkdir(parents=True)
    (folder / "in.zarr").mkdir()
    (folder / "in.zarr" / "zarr.json").write_text("{}")
    for name in ("s.tif", "in/s.tif"):
        tifffile.imwrite(folder / name, np.zeros((8, 8), np.uint8), photometric="minisblack")
    with open_source(folder / "s.tif"):  # so that all is imported, which another user may not
        find_released("model.onnx")
    folder.chmod(0)
    root = os.geteuid() == 0  # who may enter any folder
    if root:
        os.chown(folder, NOBODY, -1)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)


@pytest.mark.parametrize("name", ["s.tif", "in", "in.zarr", "not there.tif"])
def test_an_input_in_a_folder_that_may_not_be_entered_is_an_image_error(locked, name):
    assert not is_volume(locked / name)
    with pytest.raises(ImageError, match=rf"{name}: cannot be opened \(Permission denied\); expected"):
        open_source(locked / name)


def test_the_images_of_a_folder_that_may_be_listed_alone_are_not_called_damaged(locked):
    locked.chmod(0o600)
    with pytest.raises(
        ImageError, match=r"s\.tif: cannot be read \(Permission denied\); expected a readable image"
    ):
        open_source(locked)


@pytest.mark.parametrize("name", [TOO_LONG, f"{TOO_LONG}.tif", f"{TOO_LONG}.zarr", "nul\0"])
def test_an_input_of_a_name_that_no_file_can_have_is_an_image_error(tmp_path, name):
    assert not is_volume(tmp_path / name)
    with pytest.raises(ImageError, match=r"cannot be opened \(File name too long\)|null"):
        open_source(tmp_path / name)
    assert recognise(b"", tmp_path / name) is None


@pytest.mark.parametrize("name", ["m.onnx", "m"])
def test_a_model_that_cannot_be_looked_at_is_taken_for_a_file(locked, name):
    assert find_released(locked / name) is None
    assert find_released(locked / TOO_LONG / name) is None


@pytest.mark.parametrize("suffix", ["tif", "ome.zarr"])
def test_labels_that_cannot_be_looked_at_are_left_to_the_check_of_outputs(locked, suffix):
    for name in (locked / f"l.{suffix}", locked.parent / f"{TOO_LONG}.{suffix}"):
        request = SimpleNamespace(**vars(HERE_ALONE), labels=name)
        check_files([(locked / "s.tif", locked / "p.tif")], request, [])


def test_any_other_path_of_a_command_that_cannot_be_looked_at_is_one_line_that_names_it(tmp_path, capsys):
    with pytest.raises(SystemExit) as left, exit_codes("isbi-train"):
        os.stat(tmp_path / TOO_LONG)
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{TOO_LONG}: cannot be reached (File name too long)" in line
