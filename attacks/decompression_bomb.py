"""A small file that unpacks to more than any machine has.

Deflate packs zeros a thousand to one, so a megabyte may stand for a gigabyte, and layers of it for anything. A TIFF
says how large its strips are and a PNG how large its image is, so the size is known and bounded before anything is
unpacked; a decoder is never given more than the section's own bytes to write. torch packs code alone, and weights of
an archive take as many bytes in memory as in the file.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image

from attacks.attempt import Attempt
from attacks.files import on_a_stack, tiny_checkpoint

_SIZE = 15 * 2**28  # bytes, just under what a plain zip archive can say


def _deflated(size: int, wbits: int) -> bytes:
    """Return zeros, packed piece by piece, so that a bomb takes no time to make."""
    packer = zlib.compressobj(9, wbits=wbits)
    first = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + piece * (size // 2**24 - 1) + packer.flush()


def _zip(path: Path, records: list[tuple[str, bytes, int]]) -> Path:
    """Write an archive of records that are deflated already, each with the size that it unpacks to."""
    body, directory = b"", b""
    for name, packed, size in records:
        common = struct.pack("<HHHHIIIHH", 0, 8, 0, 0, 0, len(packed), size, len(name), 0)
        directory += b"PK\1\2" + struct.pack("<HH", 20, 20) + common
        directory += struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name.encode()
        body += b"PK\3\4" + struct.pack("<H", 20) + common + name.encode() + packed
    count = len(records)
    end = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(body), 0)
    path.write_bytes(body + directory + b"PK\5\6" + end)
    return path


def _tiff(folder: Path, says: str, **tags: int) -> Attempt:
    path = folder / "bomb.tif"
    options = {"photometric": "minisblack", "metadata": None, "compression": "zlib", "rowsperstrip": 100}
    tifffile.imwrite(path, np.zeros((100, 100), np.uint8), **options)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name, value in tags.items():
            tiff.pages[0].tags[name].overwrite(value)
    return Attempt(program="isbi-infer", arguments=[str(path), "--provider", "cpu"], code=4, says=says)


def _declared(folder: Path) -> Attempt:
    side = 200_000
    return _tiff(folder, "compressed bytes", ImageWidth=side, ImageLength=side, RowsPerStrip=side)


def _longer_than_declared(folder: Path) -> Attempt:
    path = folder / "bomb.tif"
    strip = _deflated(2 * _SIZE, 15)
    tags = [(256, 4, 100), (257, 4, 100), (258, 3, 8), (259, 3, 8), (262, 3, 1), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 4, 100), (279, 4, len(strip))]
    strip += bytes(len(strip) % 2)
    directory = struct.pack("<H", len(tags))
    for code, kind, value in tags:
        directory += struct.pack("<HHII", code, kind, 1, value)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + directory + bytes(4))
    return Attempt(program="isbi-infer", arguments=[str(path), "--provider", "cpu"], code=4, says="bomb.tif")


def _png(folder: Path) -> Attempt:
    images = folder / "images"
    images.mkdir()
    side = 2**20
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), (b"IDAT", _deflated(2**28, 15)), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    (images / "s1.png").write_bytes(data)
    Image.new("L", (8, 8)).save(images / "s0.png")
    return Attempt(program="isbi-infer", arguments=[str(images), "--provider", "cpu"], code=4, says="images")


def _torchscript(folder: Path) -> Attempt:
    records = [("archive/constants.pkl", b"\3\0", 0), ("archive/constants/0", _deflated(_SIZE, -15), _SIZE)]
    path = _zip(folder / "model.pt", records)
    return Attempt(program="isbi-infer", arguments=on_a_stack(folder, path), code=5, says="unpacks to")


def _records_that_overlap(folder: Path) -> Attempt:
    """Every entry of the directory names the same bytes, so a reader unpacks them as often as there are entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/constants.pkl", b"")
        archive.writestr("archive/constants/0", bytes(2**20))
        member = archive.infolist()[1]
        for number in range(10_000):
            same = zipfile.ZipInfo(f"archive/constants/{number + 1}")
            same.header_offset, same.CRC = member.header_offset, member.CRC
            same.file_size = same.compress_size = member.file_size
            archive.filelist.append(same)
            archive.NameToInfo[same.filename] = same
    (folder / "model.pt").write_bytes(buffer.getvalue())
    arguments = on_a_stack(folder, folder / "model.pt")
    return Attempt(program="isbi-infer", arguments=arguments, code=5, says="unpacks to")


def _checkpoint(folder: Path) -> Attempt:
    """Write the same weights, one of them packed a thousand times smaller than it is."""
    path, bomb = folder / "model.pth", folder / "bomb.pth"
    torch.save(tiny_checkpoint().state_dict, path)
    records = []
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            content = archive.read(member)
            packer = zlib.compressobj(9, wbits=-15)
            records.append((member.filename, packer.compress(content) + packer.flush(), len(content)))
    path.unlink()
    records = [r for r in records if not r[0].endswith("data/0")]
    _zip(bomb, [*records, ("model/data/0", _deflated(_SIZE, -15), _SIZE)])
    return Attempt(program="isbi-export", arguments=[str(bomb)], code=5, says="unpacks to")


ATTEMPTS = {
    "a TIFF that declares more than its bytes can hold": _declared,
    "a TIFF strip that goes on for 7.5 GiB": _longer_than_declared,
    "a PNG of a tera-pixel": _png,
    "a record of a TorchScript archive": _torchscript,
    "an archive whose records are one": _records_that_overlap,
    "a record of a checkpoint": _checkpoint,
}
