"""Files that are no TIFF are called by their names, and the command that is shown converts them."""

import gzip
import json
import os
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from isbi_infer.volumes import open_stack
from isbi_infer.volumes.formats import HEAD_BYTES, recognise

STACK = np.random.default_rng(3).integers(0, 256, (3, 20, 31)).astype("uint8")


def _recognised(path):
    return recognise(b"" if path.is_dir() else path.read_bytes()[:HEAD_BYTES], path)


def _mrc(path, stack_ZYX):
    """Write what the MRC2014 specification asks for, of mode 6 (uint16)."""
    depth, height, width = stack_ZYX.shape
    head = bytearray(1024)
    struct.pack_into("<10i", head, 0, width, height, depth, 6, 0, 0, 0, width, height, depth)
    struct.pack_into("<3f3f3i", head, 40, width, height, depth, 90, 90, 90, 1, 2, 3)
    head[208:216] = b"MAP \x44\x44\0\0"
    path.write_bytes(bytes(head) + stack_ZYX.astype("<u2").tobytes())


def _dm(path, version):
    """Write the header of a DigitalMicrograph file and its first group of tags, which is empty."""
    size = struct.pack(">i" if version == 3 else ">q", 20)
    tags = struct.pack(">BBi" if version == 3 else ">BBq", 1, 0, 0)
    path.write_bytes(struct.pack(">i", version) + size + struct.pack(">i", 1) + tags + bytes(8))


def _nifti(path, version):
    if version == 1:
        head = bytearray(352)
        struct.pack_into("<i", head, 0, 348)
        struct.pack_into("<8h", head, 40, 3, 31, 20, 3, 1, 1, 1, 1)
        struct.pack_into("<2h", head, 70, 2, 8)
        head[344:348] = b"n+1\0"
        struct.pack_into("<f", head, 108, 352)
    else:
        head = bytearray(544)
        struct.pack_into("<i", head, 0, 540)
        head[4:12] = b"n+2\0\r\n\x1a\n"
        struct.pack_into("<2h", head, 12, 2, 8)
        struct.pack_into("<8q", head, 16, 3, 31, 20, 3, 1, 1, 1, 1)
        struct.pack_into("<q", head, 168, 544)
    path.write_bytes(bytes(head) + STACK.tobytes())


def _nrrd(path):
    text = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 31 20 3\nencoding: raw\n\n"
    path.write_bytes(text.encode() + STACK.tobytes())


def _zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("stack.tif", b"pixels")


HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(100)
WRITERS = {
    "stack.mrc": lambda path: _mrc(path, STACK),
    "a.dm3": lambda path: _dm(path, 3),
    "a.dm4": lambda path: _dm(path, 4),
    "stack.h5": lambda path: path.write_bytes(HDF5),
    "block.mat": lambda path: path.write_bytes(bytes(512) + HDF5),
    "a.czi": lambda path: path.write_bytes(b"ZISRAWFILE" + bytes(600)),
    "a.nd2": lambda path: path.write_bytes(
        struct.pack("<IIQ", 0x0ABECEDA, 32, 64) + b"ND2 FILE SIGNATURE CHUNK"
    ),
    "a.lif": lambda path: path.write_bytes(
        struct.pack("<IIBI", 0x70, 30, 0x2A, 10) + "<LMSDataCo".encode("utf-16le")
    ),
    "a.png": lambda path: Image.fromarray(STACK[0]).save(path),
    "a.jpg": lambda path: Image.fromarray(STACK[0]).save(path),
    "a.gif": lambda path: Image.fromarray(STACK[0]).save(path),
    "a.bmp": lambda path: Image.fromarray(STACK[0]).save(path),
    "a.jp2": lambda path: path.write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 "),
    "a.nii": lambda path: _nifti(path, 1),
    "b.nii": lambda path: _nifti(path, 2),
    "a.nrrd": _nrrd,
    "a.npy": lambda path: np.save(path, STACK),
    "stack.tif.gz": lambda path: path.write_bytes(gzip.compress(b"pixels")),
    "a.zip": _zip,
    "a.pdf": lambda path: path.write_bytes(b"%PDF-1.7\n"),
    "pointer.tif": lambda path: path.write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    ),
    "page.tif": lambda path: path.write_bytes(b"\n<!DOCTYPE html><html></html>"),
}
SAID = {
    "stack.mrc": "an MRC file; expected a TIFF; convert it (IMOD) with: mrc2tif -s {}/stack.mrc {}/stack.tif",
    "a.dm3": "a Gatan DigitalMicrograph file",
    "a.dm4": "a Gatan DigitalMicrograph file",
    "stack.h5": "an HDF5 file; expected a TIFF; convert it (pip install h5py",
    "block.mat": "an HDF5 file",
    "a.czi": "a Zeiss CZI file; expected a TIFF; convert it (Bio-Formats command line tools) with: "
    "bfconvert -series 0 {}/a.czi {}/a.ome.tif",
    "a.nd2": "a Nikon ND2 file",
    "a.lif": "a Leica LIF file",
    "a.png": "a PNG image",
    "a.jpg": "a JPEG image",
    "a.gif": "a GIF image",
    "a.bmp": "a BMP image",
    "a.jp2": "a JPEG 2000 image",
    "a.nii": "a NIfTI volume",
    "b.nii": "a NIfTI volume",
    "a.nrrd": "an NRRD volume",
    "a.npy": "a NumPy array",
    "stack.tif.gz": "a gzip archive; expected a TIFF; unpack it with: gunzip -k {}/stack.tif.gz",
    "a.zip": "a zip archive",
    "a.pdf": "a PDF document; expected a TIFF",
    "pointer.tif": "a Git-LFS pointer in the place of the file; expected a TIFF; fetch it with: git lfs pull",
    "page.tif": "an HTML page, perhaps of a failed download",
}


@pytest.mark.parametrize("name", WRITERS)
def test_formats_are_told_by_their_first_bytes(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    said = _recognised(path)
    assert said.startswith("this is " + SAID[name].format(tmp_path, tmp_path))
    assert "\n" not in said
    renamed = path.rename(tmp_path / "other.tif")
    assert _recognised(renamed).startswith(said.split(";")[0])


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "big.tif"])
def test_tiff_files_are_none_of_them(tmp_path, name):
    tifffile.imwrite(tmp_path / name, STACK, photometric="minisblack", bigtiff=name == "big.tif")
    assert _recognised(tmp_path / name) is None


@given(st.binary(max_size=HEAD_BYTES))
def test_any_bytes_have_an_answer(head):
    assert recognise(head, "x") is None or recognise(head, "x").startswith("this is ")


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_head_that_breaks_off_has_an_answer(tmp_path, name):
    WRITERS[name](tmp_path / name)
    head = (tmp_path / name).read_bytes()
    for length in (0, 1, 3, 7, 11, 100, 210):
        said = recognise(head[:length], name)
        assert said is None or said.startswith("this is ")


def _run_the_command(said, folder, **replaced):
    """Run what the message shows, as somebody who copies it."""
    command = said.split(" with: ")[1]
    for word, value in replaced.items():
        command = command.replace(word, value)
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


posix = pytest.mark.skipif(os.name == "nt", reason="commands are quoted for POSIX shells")


@posix
@pytest.mark.parametrize("folder", ["plain", "two words", "it's $HOME; `x`"])
@pytest.mark.parametrize(
    ("name", "package", "expected"),
    [
        ("a.npy", "numpy", STACK),
        ("a.png", "PIL", STACK[0]),
        ("a.bmp", "PIL", STACK[0]),
        ("a.nii", "nibabel", STACK),
        ("b.nii", "nibabel", STACK),
        ("a.nrrd", "nrrd", STACK),
    ],
)
def test_the_command_shown_converts_the_file(tmp_path, folder, name, package, expected):
    pytest.importorskip(package, reason=f"{package} is not installed, which only this command needs")
    path = tmp_path / folder / name
    path.parent.mkdir()
    WRITERS[name](path)
    _run_the_command(_recognised(path), tmp_path)
    with open_stack(path.with_suffix(".tif")) as stack:
        sections = np.stack([stack.read(z) for z in range(stack.info.sections)])
    np.testing.assert_array_equal(sections, expected.reshape(sections.shape))


@posix
def test_16_bit_png_images_stay_so(tmp_path):
    path, image_YX = tmp_path / "a.png", STACK[0].astype("uint16") * 257
    Image.fromarray(image_YX).save(path)
    _run_the_command(_recognised(path), tmp_path)
    with open_stack(tmp_path / "a.tif") as stack:
        np.testing.assert_array_equal(stack.read(0), image_YX)


@posix
@pytest.mark.parametrize("name", ["-o.npy", "a.tif", "a.TIF"])
def test_the_command_neither_takes_a_name_for_an_option_nor_overwrites_the_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with open(name, "wb") as file:
        np.save(file, STACK)
    before = (tmp_path / name).read_bytes()
    _run_the_command(recognise(before, name), tmp_path)
    assert (tmp_path / name).read_bytes() == before
    written = next(path for path in tmp_path.iterdir() if path.name != name)
    np.testing.assert_array_equal(tifffile.imread(written), STACK)


@posix
@pytest.mark.parametrize(
    ("name", "unpacked"), [("stack.tif.gz", "stack.tif"), ("gzipped.tif", "gzipped.converted.tif")]
)
def test_gzip_files_are_unpacked_under_any_name(tmp_path, name, unpacked):
    (tmp_path / name).write_bytes(gzip.compress(b"pixels"))
    _run_the_command(_recognised(tmp_path / name), tmp_path)
    assert (tmp_path / unpacked).read_bytes() == b"pixels"
    assert (tmp_path / name).exists()


@posix
def test_zip_files_are_unpacked(tmp_path):
    _zip(tmp_path / "a.zip")
    _run_the_command(_recognised(tmp_path / "a.zip"), tmp_path)
    assert (tmp_path / "stack.tif").read_bytes() == b"pixels"


@posix
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("kind", ["array", "OME-Zarr image", "group"])
def test_zarr_folders_are_told_and_converted(tmp_path, version, kind):
    zarr = pytest.importorskip("zarr")
    path = tmp_path / "stack.zarr"
    if kind == "array":
        zarr.save_array(path, STACK, zarr_format=version)
    else:
        group = zarr.open_group(path, mode="w", zarr_format=version)
        group.create_array("0", data=STACK[None, None] if "OME" in kind else STACK)
        if "OME" in kind:
            attributes = {"multiscales": [{"datasets": [{"path": "0"}]}]}
            group.attrs.update(attributes if version == 2 else {"ome": attributes})
    said = _recognised(path)
    assert kind in said
    _run_the_command(said, tmp_path, ARRAY="0")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "stack.tif"), STACK)


@posix
def test_n5_folders_are_told_and_converted(tmp_path):
    path = tmp_path / "stack.n5"
    (path / "raw" / "0" / "0").mkdir(parents=True)
    (path / "attributes.json").write_text('{"n5": "2.0.0"}')
    depth, height, width = STACK.shape
    attributes = {"dimensions": [width, height, depth], "blockSize": [width, height, depth]}
    (path / "raw" / "attributes.json").write_text(
        json.dumps({**attributes, "dataType": "uint8", "compression": {"type": "raw"}})
    )
    header = struct.pack(">HHIII", 0, 3, width, height, depth)
    (path / "raw" / "0" / "0" / "0").write_bytes(header + STACK.tobytes())
    assert "this is an N5 volume" in _recognised(path)
    assert "this is an N5 volume" in _recognised(path / "raw")
    pytest.importorskip("tensorstore", reason="tensorstore is not installed, which only this command needs")
    _run_the_command(_recognised(path), tmp_path, DATASET="raw")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "stack.tif"), STACK)


@posix
def test_hdf5_files_are_converted(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed, which only this command needs")
    with h5py.File(tmp_path / "stack.h5", "w") as file:
        file["volumes/raw"] = STACK
    _run_the_command(_recognised(tmp_path / "stack.h5"), tmp_path, DATASET="volumes/raw")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "stack.tif"), STACK)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '"n5"', "[" * 100_000, b"\xff\xfe"])
def test_other_folders_are_none_of_them_whatever_lies_in_them(tmp_path, text):
    (tmp_path / "attributes.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "a.tif").touch()
    assert _recognised(tmp_path) is None
