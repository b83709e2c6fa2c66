"""Metadata that takes a parser forever: entities that unfold, brackets without end, pages that lead back to themselves.

What the parser would do with them is never asked: OME-XML with entities is refused, depths and circles are found
before they are followed, JSON is read with its duplicates and its depth as errors.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import onnx
import tifffile
import torch

from attacks.attempt import Attempt
from attacks.files import on_a_stack, tiny_onnx, write_stack
from isbi_infer.model.contract import CONTRACT_KEY
from isbi_infer.sample import synthetic_stack

_LEVELS = 30


def _described(folder: Path, text: str, says: str = "stack.tif") -> Attempt:
    path = folder / "stack.tif"
    options = {"photometric": "minisblack", "metadata": None, "description": text}
    tifffile.imwrite(path, synthetic_stack(2, 64, 80)[0], **options)
    return Attempt(program="isbi-infer", arguments=[str(path)], code=4, says=says)


def _billion_laughs(folder: Path) -> Attempt:
    entities = '<!ENTITY l0 "ha">' + "".join(
        f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, _LEVELS)
    )
    text = f'<?xml version="1.0"?><!DOCTYPE OME [{entities}]><OME Name="&l{_LEVELS - 1};"></OME>'
    return _described(folder, text, "entities")


def _entity_of_a_file(folder: Path) -> Attempt:
    text = '<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY x SYSTEM "file:///etc/passwd">]><OME>&x;</OME>'
    return _described(folder, text, "entities")


def _deep_xml(folder: Path) -> Attempt:
    return _described(folder, "<OME>" + "<a>" * 300_000 + "</a>" * 300_000 + "</OME>")


def _pages_in_a_circle(folder: Path) -> Attempt:
    path = write_stack(folder)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        first, second = (page.offset for page in tiff.pages)
        tags = len(tiff.pages[1].tags)
        tiff.filehandle.seek(second + 2 + 12 * tags)
        tiff.filehandle.write(struct.pack("<I", first))
    return Attempt(program="isbi-infer", arguments=[str(path)], code=4, says="stack.tif")


def _contract(folder: Path, document: str) -> Attempt:
    model = onnx.load_from_string(tiny_onnx())
    (entry,) = model.metadata_props
    assert entry.key == CONTRACT_KEY
    entry.value = document
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return Attempt(
        program="isbi-infer",
        arguments=on_a_stack(folder, folder / "model.onnx"),
        code=5,
        says="damaged model contract",
    )


def _volume(folder: Path, text: str) -> Attempt:
    (folder / "deep.zarr").mkdir()
    (folder / "deep.zarr" / "zarr.json").write_text(text)
    return Attempt(program="isbi-infer", arguments=[str(folder / "deep.zarr")], code=4, says="deep.zarr")


def _checkpoint_in_a_circle(folder: Path) -> Attempt:
    held: dict[str, object] = {}
    held["state_dict"] = held
    torch.save(held, folder / "model.pth")
    arguments = [str(folder / "model.pth")]
    return Attempt(program="isbi-export", arguments=arguments, code=5, says="parts within parts without end")


def _checkpoint_that_unfolds(folder: Path) -> Attempt:
    inner: dict[str, object] = {}
    for _ in range(_LEVELS):
        inner = {str(number): inner for number in range(10)}
    torch.save({"state_dict": {"w": torch.zeros(1)}, "callbacks": inner}, folder / "model.pth")
    arguments = [str(folder / "model.pth")]
    return Attempt(program="isbi-export", arguments=arguments, code=5, says="parts within parts without end")


ATTEMPTS = {
    "entities that unfold": _billion_laughs,
    "an entity that is a file": _entity_of_a_file,
    "XML of 300,000 levels": _deep_xml,
    "pages in a circle": _pages_in_a_circle,
    "a contract of 100,000 brackets": lambda folder: _contract(folder, "[" * 100_000),
    "a contract of a number with a million digits": lambda folder: _contract(
        folder, json.dumps({"schema": 4})[:-1] + ', "halo": ' + "9" * 1_000_000 + "}"
    ),
    "volume metadata of 100,000 brackets": lambda folder: _volume(folder, "[" * 100_000),
    "volume metadata of a number with a million digits": lambda folder: _volume(folder, "9" * 1_000_000),
    "a checkpoint that lies within itself": _checkpoint_in_a_circle,
    "a checkpoint that unfolds": _checkpoint_that_unfolds,
}
