"""What a file that is no TIFF is, by its first bytes, and the command that makes a TIFF of it.

Signatures are those of the formats' specifications, or of the readers that are used most where none is published
(Gatan, Nikon, Leica). Commands run in a POSIX shell and, as far as the tools exist there, in that of Windows.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

HEAD_BYTES = 1024  # of a file, as `recognise` takes them

_IMWRITE = "tifffile.imwrite(sys.argv[2], {}, photometric='minisblack')"


class _Format(NamedTuple):
    name: str
    matches: Callable[[bytes], bool]
    command: Callable[[str, str], str] | None = None  # of input and output, quoted
    needs: str = ""
    verb: str = "convert"


def recognise(head: bytes, path: str | os.PathLike[str]) -> str | None:
    """Return what a file or folder is, other than a TIFF, and how to convert it to one.

    Parameters
    ----------
    head : bytes
        The first `HEAD_BYTES` of the file, or all of a shorter one; empty for a folder.
    path : str or os.PathLike
        Stands in the command. A folder is looked into.

    Returns
    -------
    str or None
        What it is, what was expected and the command, to follow "PATH: "; None where it is not known.

    Examples
    --------
    >>> recognise(bytes(208) + b"MAP ", "stack.mrc")
    'this is an MRC file; expected a TIFF; convert it (IMOD) with: mrc2tif -s stack.mrc stack.tif'
    """
    path = Path(path)
    form = (
        _folder(path) if os.path.isdir(path) else next((form for form in _FILES if form.matches(head)), None)
    )
    if form is None:
        return None
    said = f"this is {form.name}; expected a TIFF"
    if form.command is None:
        return said
    needs = f" ({form.needs})" if form.needs else ""
    return f"{said}; {form.verb} it{needs} with: {form.command(_quoted(path), _quoted(_target(path)))}"


def _quoted(path: Path) -> str:
    text = str(path)
    if text.startswith("-"):  # or it would be taken for an option
        text = os.path.join(os.curdir, text)
    return f'"{text}"' if os.name == "nt" and " " in text else shlex.quote(text)


def _target(path: Path) -> Path:
    """Return where the TIFF goes: beside the file, and never over it."""
    return path.with_name(
        f"{path.stem}.converted.tif" if path.suffix.lower() == ".tif" else f"{path.stem}.tif"
    )


def _starts(*magic: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magic)


def _python(imports: str, pixels: str, *more: str) -> Callable[[str, str], str]:
    code = f"import sys, tifffile, {imports}; {_IMWRITE.format(pixels)}"
    return lambda source, target: " ".join([f'python -c "{code}"', source, target, *more])


def _bio_formats(source: str, target: str) -> str:
    return f"bfconvert -series 0 {source} {target.removesuffix('.tif')}.ome.tif"


def _imod(source: str, target: str) -> str:
    return f"mrc2tif -s {source} {target}"


def _gunzip(source: str, target: str) -> str:
    # gunzip leaves alone what is not named *.gz.
    return f"gunzip -k {source}" if source.rstrip("'\"").endswith(".gz") else f"gzip -dc {source} > {target}"


def _is_mrc(head: bytes) -> bool:
    # MRC2014 and CCP4, word 53; a NUL in place of the blank is written by some programs.
    return head[208:212] in (b"MAP ", b"MAP\0")


def _is_gatan(head: bytes) -> bool:
    # Version, size of what follows (32 bits in version 3, 64 bits in version 4), byte order: all big-endian.
    version = int.from_bytes(head[:4], "big")
    order = {3: head[8:12], 4: head[12:16]}.get(version, b"")
    return order in (b"\0\0\0\0", b"\0\0\0\1")


def _is_lif(head: bytes) -> bool:
    return head[:4] == b"\x70\0\0\0" and head[8:9] == b"\x2a"


def _is_hdf5(head: bytes) -> bool:
    # The superblock begins the file or follows a user block of 512, 1024, ... bytes.
    return any(head[start : start + 8] == b"\x89HDF\r\n\x1a\n" for start in (0, 512))


def _is_nifti(head: bytes) -> bool:
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:12] in (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n")


def _is_bmp(head: bytes) -> bool:
    return head.startswith(b"BM") and head[6:10] == bytes(4)


def _is_html(head: bytes) -> bool:
    return head.lstrip().lower().startswith((b"<!doctype html", b"<html"))


_pillow = _python("numpy; from PIL import Image", "numpy.asarray(Image.open(sys.argv[1]))")
_NEEDS_PILLOW = "pip install pillow"
_IMOD_TOOLS, _BIO_FORMATS_TOOLS = "IMOD", "Bio-Formats command line tools"
_FILES = (
    _Format("an MRC file", _is_mrc, _imod, _IMOD_TOOLS),
    _Format(
        "an HDF5 file",
        _is_hdf5,
        _python("h5py", "h5py.File(sys.argv[1])[sys.argv[3]][()]", "DATASET"),
        "pip install h5py; h5ls -r lists the datasets",
    ),
    _Format("a Gatan DigitalMicrograph file (DM3 or DM4)", _is_gatan, _imod, _IMOD_TOOLS),
    _Format("a Zeiss CZI file", _starts(b"ZISRAWFILE"), _bio_formats, _BIO_FORMATS_TOOLS),
    _Format("a Nikon ND2 file", _starts(b"\xda\xce\xbe\x0a"), _bio_formats, _BIO_FORMATS_TOOLS),
    _Format("a Leica LIF file", _is_lif, _bio_formats, _BIO_FORMATS_TOOLS),
    _Format("a PNG image", _starts(b"\x89PNG\r\n\x1a\n"), _pillow, _NEEDS_PILLOW),
    _Format("a JPEG image", _starts(b"\xff\xd8\xff"), _pillow, _NEEDS_PILLOW),
    _Format("a GIF image", _starts(b"GIF87a", b"GIF89a"), _pillow, _NEEDS_PILLOW),
    _Format("a BMP image", _is_bmp, _pillow, _NEEDS_PILLOW),
    _Format(
        "a JPEG 2000 image, or an ND2 file of an old version",
        _starts(b"\0\0\0\x0cjP  \r\n\x87\n"),
        _bio_formats,
        _BIO_FORMATS_TOOLS,
    ),
    _Format(
        "a NIfTI volume",
        _is_nifti,
        _python("numpy, nibabel", "numpy.asarray(nibabel.load(sys.argv[1]).dataobj).T"),
        "pip install nibabel",
    ),
    _Format(
        "an NRRD volume",
        _starts(b"NRRD000"),
        _python("nrrd", "nrrd.read(sys.argv[1], index_order='C')[0]"),
        "pip install pynrrd",
    ),
    _Format("a NumPy array", _starts(b"\x93NUMPY"), _python("numpy", "numpy.load(sys.argv[1])")),
    _Format("a gzip archive", _starts(b"\x1f\x8b"), _gunzip, verb="unpack"),
    _Format(
        "a zip archive",
        _starts(b"PK\x03\x04", b"PK\x05\x06"),
        lambda source, _: f"python -m zipfile -e {source} .",
        verb="unpack",
    ),
    _Format("a PDF document", _starts(b"%PDF-")),
    _Format(
        "a Git-LFS pointer in the place of the file",
        _starts(b"version https://git-lfs"),
        lambda source, _: f"git lfs pull --include {source}",
        verb="fetch",
    ),
    _Format("an HTML page, perhaps of a failed download", _is_html),
)


def _zarr(key: str) -> Callable[[str, str], str]:
    array = f"zarr.open(sys.argv[1], mode='r'){key}[:].squeeze()"
    return _python("zarr", array)


_NEEDS_ZARR = "pip install zarr"
_ZARR_ARRAY = _Format("a Zarr array", bool, _zarr(""), _NEEDS_ZARR)
_OME_ZARR = _Format("an OME-Zarr image", bool, _zarr("['0']"), f"{_NEEDS_ZARR}; 0 is the full resolution")
_ZARR_GROUP = _Format(
    "a Zarr group",
    bool,
    _python("zarr", "zarr.open(sys.argv[1], mode='r')[sys.argv[3]][:]", "ARRAY"),
    f"{_NEEDS_ZARR}; ARRAY is a folder in it",
)
_N5 = _Format(
    "an N5 volume",
    bool,
    _python(
        "tensorstore",
        "tensorstore.open(dict(driver='n5', kvstore=dict(driver='file', path=sys.argv[1] + '/' + sys.argv[3]))"
        ").result().read().result().T",
        "DATASET",
    ),
    "pip install tensorstore; DATASET is the folder in it whose attributes.json has dimensions, or .",
)


def _folder(path: Path) -> _Format | None:
    zarr_2, zarr_3, n5 = (_json(path / name) for name in (".zattrs", "zarr.json", "attributes.json"))
    if zarr_3 is not None:
        attributes = zarr_3.get("attributes")
        ome = isinstance(attributes, dict) and "multiscales" in _as_dict(attributes.get("ome"))
        if zarr_3.get("node_type") == "array":
            return _ZARR_ARRAY
        return _OME_ZARR if ome else _ZARR_GROUP
    if os.path.isfile(path / ".zarray"):
        return _ZARR_ARRAY
    if zarr_2 is not None or os.path.isfile(path / ".zgroup"):
        return _OME_ZARR if "multiscales" in (zarr_2 or {}) else _ZARR_GROUP
    if n5 is not None and {"n5", "dimensions"} & n5.keys():
        return _N5
    return None


def _json(path: Path) -> dict[str, Any] | None:
    try:
        return _as_dict(json.loads(path.read_bytes())) if os.path.isfile(path) else None
    except (OSError, ValueError, RecursionError):
        return {}


def _as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
