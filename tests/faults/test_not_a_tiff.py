"""What is no TIFF file at all, or none that can be opened."""

import os

import pytest
import tifffile

from isbi_infer.errors import ImageError
from isbi_infer.volumes import open_stack

GREY = {"photometric": "minisblack", "metadata": None}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"\n  <html>", "HTML"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "JPEG"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"just some text", "begins with"),
        (b"I", "begins with"),
        (b"II", "version"),
        (b"II*\0", "truncated"),
        (b"II*\0\x08\0\0\0", "page 0"),
        (b"II*\0\0\0\0\0", "without pages"),
        (b"MM\0+\0\x08\0\0" + bytes(8), "without pages"),
        (b"MM\0+\0\x04\0\0" + bytes(8), "version 43"),
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "0 tags"),
    ],
)
def test_files_that_are_no_tiff_say_what_they_are(path, refused, content, says):
    path.write_bytes(content)
    refused(path, says)


def test_folders_pipes_devices_and_missing_files_are_refused(tmp_path, refused):
    refused(tmp_path, "folder")
    refused(tmp_path / "missing.tif", "No such file")
    (tmp_path / "file").write_bytes(b"x")
    refused(tmp_path / "file" / "below.tif", "Not a directory")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.tif")
        refused(tmp_path / "pipe.tif", "pipe")
    (tmp_path / "loop.tif").symlink_to(tmp_path / "loop.tif")
    refused(tmp_path / "loop.tif")
    with pytest.raises(ImageError):
        open_stack("a\0b")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read anything")
def test_unreadable_file_is_refused(path, refused, stack):
    tifffile.imwrite(path, stack(), **GREY)
    path.chmod(0)
    refused(path, "Permission denied")


def test_foreign_kinds_of_tiff_are_refused(path, refused, describe):
    for text, kind in (("Aperio Image", "SVS"), ("<scn></scn>", "SCN")):
        describe(path, text)
        refused(path, kind)
