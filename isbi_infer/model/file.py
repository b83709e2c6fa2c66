"""What a model file holds, read without its runtime: the format, the metadata, and a digest of everything else.

An ONNX file is a protobuf message (``onnx.proto``: ModelProto), of which only the outer levels are walked; a
TorchScript file is a zip archive. The digest covers the graph and all its weights, so that a contract can be tied
to them.
"""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from isbi_infer.errors import ModelError

_ZIP = b"PK\x03\x04"
_GRAPH, _METADATA = 7, 14  # of ModelProto
_NAME, _DATA_LOCATION = 8, 14  # of TensorProto
# Every way from a model to a tensor (onnx.proto): a runtime reads what any of them says lies in another file, OpenVINO
# from any path, so initialisers alone are not enough.
_LEADS_TO: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_LARGEST_KEY = 2**32 - 1  # parsers drop what is above, and would see a field that is not seen here
_MARKERS = ("constants.pkl", "data.pkl")  # records of archives that torch writes
_METADATA_FOLDER = "extra/"  # of an archive
_MOST_CODE = 2**26  # bytes
_MOST_PACKED = 4  # times; weights hardly shrink
_FOLDER = 0x10  # of a member's attributes, as MS-DOS had them
_DERIVED = ".data/serialization_id"  # which torch computes from the rest
# What zipfile and zlib raise for damaged archives.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,  # UnicodeDecodeError among them
)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file's outside.

    Attributes
    ----------
    format : {"onnx", "torchscript"}
        What kind of file it is.
    metadata : mapping of str to str
        ONNX ``metadata_props``, or TorchScript extra files.
    digest : str
        SHA-256 of everything but the metadata, in hexadecimal.
    """

    format: Literal["onnx", "torchscript"]
    metadata: Mapping[str, str]
    digest: str


def check_regular(path: Path) -> None:
    """Raise ModelError for a pipe or a device, which may have no end; OSError if there is no such file."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ModelError("is a device or a pipe; expected a file; name the file itself")


def read_model_file(content: bytes) -> ModelFile:
    """Read the outside of an ONNX or TorchScript file.

    Parameters
    ----------
    content : bytes
        The whole file.

    Raises
    ------
    ModelError
        If it is neither, is cut, names a metadata key twice, or keeps weights in other files.
    """
    if content.startswith(_ZIP):
        return read_archive(content, "constants.pkl")
    try:
        return _read_onnx(content)
    except UnicodeDecodeError as error:
        raise ModelError(f"not a readable ONNX file ({error}); export it again") from error


def read_archive(content: bytes, marker: str) -> ModelFile:
    """Read the outside of an archive that torch wrote.

    Parameters
    ----------
    content : bytes
        The whole file.
    marker : str
        A record that every archive of the expected kind has, without the folder in front: ``constants.pkl`` of
        TorchScript.

    Raises
    ------
    ModelError
        If it is damaged, holds a record twice, or is of another kind.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _read_records(archive, marker)
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"not a readable PyTorch file ({reason or type(error).__name__}); export it again"
        ) from error


def _read_onnx(content: bytes) -> ModelFile:
    pairs: list[tuple[str, str]] = []
    graphs = 0
    digest = hashlib.sha256()
    for number, value, raw in _fields(memoryview(content)):
        if number == _METADATA and isinstance(value, memoryview):
            entry = {n: bytes(v).decode() for n, v, _ in _fields(value) if isinstance(v, memoryview)}
            pairs.append((entry.get(1, ""), entry.get(2, "")))
            continue
        graphs += number == _GRAPH and isinstance(value, memoryview)
        digest.update(raw)
    if graphs != 1:
        raise ModelError(
            f"not a readable ONNX file (it holds {graphs} graphs, expected one); export it again"
        )
    _require_weights_inside(content)
    return ModelFile("onnx", _unique(pairs), digest.hexdigest())


def _require_weights_inside(content: bytes) -> None:
    """Raise ModelError if any tensor, however deep it lies, is said to be in another file."""
    outside: list[str] = []
    waiting: list[tuple[str, memoryview]] = [("model", memoryview(content))]
    while waiting:
        kind, message = waiting.pop()
        if kind == "tensor":
            outside += _named_outside(message)
            continue
        leads_to = _LEADS_TO[kind]
        for number, value, _ in _fields(message):
            if number in leads_to and isinstance(value, memoryview):
                waiting.append((leads_to[number], value))
    if outside:
        raise ModelError(
            f"the weights lie outside the file ({len(outside)} tensors, {outside[0]!r} first); "
            "export it with isbi-export, or save it with external_data=False"
        )


def _named_outside(tensor: memoryview) -> list[str]:
    """Return the name of a tensor that lies in another file; nothing for one that is here."""
    name, outside = "", False
    for number, value, _ in _fields(tensor):
        if number == _NAME and isinstance(value, memoryview):
            name = bytes(value).decode()
        elif number == _DATA_LOCATION and isinstance(value, int):
            outside |= value != 0
    return [name] if outside else []


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview, memoryview]]:
    """Walk one level of a protobuf message: number, value and raw bytes of each field."""
    at = 0
    while at < len(message):
        start = at
        key, at = _varint(message, at)
        if key > _LARGEST_KEY:
            raise ModelError("not a readable ONNX file (the number of a field is too large); export it again")
        number, wire = key >> 3, key & 7
        value: int | memoryview
        if wire == 0:
            value, at = _varint(message, at)
        elif wire in (1, 2, 5):
            length, at = (8 if wire == 1 else 4, at) if wire != 2 else _varint(message, at)
            value, at = message[at : at + length], at + length
        else:
            raise ModelError("not a readable ONNX file (unknown wire type); export it again")
        if at > len(message) or number == 0:
            raise ModelError("not a readable ONNX file (it ends in the middle of a field); export it again")
        yield number, value, message[start:at]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ModelError("not a readable ONNX file (a number is cut or too long); export it again")


def check_archive(archive: zipfile.ZipFile) -> None:
    """Raise ModelError if torch would read other records than Python does, or more than an archive holds.

    Parameters
    ----------
    archive : ZipFile
        Opened for reading; as torch writes them, with code packed, and as others pack weights again.
    """
    members = archive.infolist()
    # torch takes a record that is marked as a folder for one, and returns memory that nothing was read into.
    folder = next((member.filename for member in members if member.external_attr & _FOLDER), None)
    if folder is not None:
        raise ModelError(f"the archive is damaged ({folder} is marked as a folder); copy or export it again")
    packed = sum(member.file_size for member in members if member.compress_type != zipfile.ZIP_STORED)
    stored = sum(member.file_size for member in members if member.compress_type == zipfile.ZIP_STORED)
    size = archive.fp.seek(0, io.SEEK_END) if archive.fp else 0
    if packed > max(_MOST_CODE, _MOST_PACKED * size) or stored > size:
        raise ModelError(
            f"the archive unpacks to {(packed + stored) / 2**20:.0f} MiB, more than a model of {size / 2**20:.0f} MiB "
            "can hold; it is damaged or made to exhaust memory: export it again"
        )


def _read_records(archive: zipfile.ZipFile, marker: str) -> ModelFile:
    check_archive(archive)
    names = archive.namelist()
    records = {name.partition("/")[2]: name for name in names}
    if not records.keys() & {marker, *_MARKERS}:
        raise ModelError("this is a zip archive and no model; unpack it and name the .onnx file in it")
    if marker not in records:
        raise ModelError(
            "this is a PyTorch file but no TorchScript; run isbi-export on it and use the .onnx file"
        )
    if len(records) < len(names):
        raise ModelError("the archive holds a record twice; export it again")
    digest, pairs = hashlib.sha256(), []
    for record, name in sorted(records.items()):
        data = archive.read(name)  # which compares the checksum
        if record.startswith(_METADATA_FOLDER):
            pairs.append((record.removeprefix(_METADATA_FOLDER), data.decode()))
        elif record != _DERIVED:
            digest.update(record.encode() + b"\0" + len(data).to_bytes(8, "little") + data)
    return ModelFile("torchscript", _unique(pairs), digest.hexdigest())


def _unique(pairs: list[tuple[str, str]]) -> dict[str, str]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        doubled = next(key for key in keys if keys.count(key) > 1)
        raise ModelError(f"the metadata key {doubled!r} stands there twice; export it again")
    return dict(pairs)
