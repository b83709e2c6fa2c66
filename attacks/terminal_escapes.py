"""Names and metadata that steer the terminal which shows them.

Escape sequences clear the screen, set the window's title, make text invisible, or on some terminals put text into the
input line. Whoever unpacks an archive of stacks and runs a program on it has not chosen the names, less so the texts
inside. All that is printed, by any command, goes through one function that shows control characters as escapes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import tifffile
import torch
import zarr

from attacks.attempt import Attempt
from attacks.files import on_a_stack, tiny_checkpoint, tiny_onnx, write_stack
from isbi_infer.sample import synthetic_stack

_CLEAR = "\x1b[2J\x1b]0;title\x07\x9b31m\r\b"


def _missing(folder: Path) -> Attempt:
    return Attempt(program="isbi-infer", arguments=[str(folder / f"{_CLEAR}.tif")], code=4, says="x1b[2J")


def _name(folder: Path) -> Attempt:
    """Segment a good stack with a bad name, which stands in the summary too."""
    (folder / "model.onnx").write_bytes(tiny_onnx())
    stack = write_stack(folder, f"{_CLEAR}.tif")
    arguments = [str(stack), "--model", str(folder / "model.onnx"), "--provider", "cpu"]
    return Attempt(program="isbi-infer", arguments=arguments, code=0)


def _dry_run(folder: Path) -> Attempt:
    attempt = _name(folder)
    return replace(attempt, arguments=[*attempt.arguments, "--dry-run"])


def _unit(folder: Path) -> Attempt:
    (folder / "model.onnx").write_bytes(tiny_onnx())
    metadata = {"axes": "ZYX", "unit": f"u{_CLEAR}".replace("\x9b", "")}
    options = {"imagej": True, "metadata": metadata, "resolution": (0.2, 0.2)}
    tifffile.imwrite(folder / "stack.tif", synthetic_stack(2, 64, 80)[0], **options)
    arguments = [str(folder / "stack.tif"), "--model", str(folder / "model.onnx"), "--provider", "cpu"]
    return Attempt(program="isbi-infer", arguments=arguments, code=0)


def _ome(folder: Path) -> Attempt:
    """XML may hold the C1 controls, which some terminals obey like escapes."""
    name = "\x9b31m\x9b2J"
    pixels = "".join(
        f'<Image Name="{name}{n}"><Pixels SizeX="80" SizeY="64" SizeZ="2" SizeC="1" SizeT="1"/></Image>'
        for n in range(2)
    )
    text = f'<?xml version="1.0" encoding="UTF-8"?><OME>{pixels}</OME>'.encode()
    options = {"photometric": "minisblack", "metadata": None, "description": text}
    tifffile.imwrite(folder / "stack.ome.tif", synthetic_stack(2, 64, 80)[0], **options)
    return Attempt(
        program="isbi-infer", arguments=[str(folder / "stack.ome.tif")], code=4, says="stack.ome.tif"
    )


def _contract(folder: Path) -> Attempt:
    (folder / "model.onnx").write_bytes(tiny_onnx(input_name=_CLEAR))
    arguments = on_a_stack(folder, folder / "model.onnx")
    return Attempt(program="isbi-infer", arguments=arguments, code=5, says="x1b[2J")


def _key(folder: Path) -> Attempt:
    torch.save({**tiny_checkpoint().state_dict, _CLEAR: torch.zeros(1)}, folder / "model.pth")
    return Attempt(program="isbi-export", arguments=[str(folder / "model.pth")], code=5, says="x1b[2J")


def _volume(folder: Path) -> Attempt:
    zarr.create_array(folder / "bad.zarr", shape=(2, 64, 80), dtype="uint8")
    document = json.loads((folder / "bad.zarr" / "zarr.json").read_text())
    document["data_type"] = _CLEAR
    (folder / "bad.zarr" / "zarr.json").write_text(json.dumps(document))
    return Attempt(program="isbi-infer", arguments=[str(folder / "bad.zarr")], code=4, says="bad.zarr")


def _scored(folder: Path) -> Attempt:
    """Score a good stack with a bad name; the table shows it."""
    _, label_ZYX = synthetic_stack(1, 96, 96)
    probability = folder / f"{_CLEAR}.tif"
    tifffile.imwrite(probability, label_ZYX.astype("float32") / 255, photometric="minisblack")
    tifffile.imwrite(folder / "labels.tif", label_ZYX, photometric="minisblack")
    arguments = ["evaluate", str(probability), str(folder / "labels.tif")]
    return Attempt(program="isbi-train", arguments=arguments, code=0)


ATTEMPTS = {
    "the name of a stack that is not there": _missing,
    "the name of a stack": _name,
    "the name of a stack, in a plan": _dry_run,
    "the unit of ImageJ": _unit,
    "the names of OME images": _ome,
    "a name in a contract": _contract,
    "the name of a weight": _key,
    "the data type of a volume": _volume,
    "the name of probabilities that are scored": _scored,
}
