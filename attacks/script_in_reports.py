"""A script in a file's name or metadata, which the report's page would run in the browser of whoever looks at a result.

A page that was opened from the disk may read other files beside it in some browsers, and send them anywhere. All that
stands in a page is escaped by its templates, and a policy in its head lets the browser run the page's own script
alone, known by its hash, and load nothing.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

import tifffile

from attacks.attempt import Attempt
from attacks.files import tiny_onnx
from isbi_infer.sample import synthetic_stack

_OWN = 2  # scripts of the page: its code, and its data, which is no code
_SCRIPT = "<script>alert(document.domain)"
_IMAGE = '"><img src=x onerror=alert(1)>'
_ENDING = "</script><script>alert(2)"


def _harm(page: Path) -> str:
    text = page.read_text()
    found = [part for part in (_SCRIPT, _IMAGE, _ENDING) if part in text]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    if not policy or not html.unescape(policy[1]).startswith("default-src 'none'"):
        found.append("a page without a policy")
    if len(re.findall("<script", text)) != _OWN:
        found.append("another script")
    return f"the page holds {found}" if found else ""


def _run(folder: Path, stack: Path, model: bytes) -> Attempt:
    (folder / "model.onnx").write_bytes(model)
    page = folder / "report.html"
    arguments = [
        str(stack),
        "--model",
        str(folder / "model.onnx"),
        "--provider",
        "cpu",
        "--report",
        str(page),
    ]
    return Attempt(program="isbi-infer", arguments=arguments, code=0, harm=lambda: _harm(page))


def _name(folder: Path) -> Attempt:
    stack = folder / f"{_SCRIPT}{_IMAGE}.tif"
    tifffile.imwrite(stack, synthetic_stack(2, 96, 96)[0], photometric="minisblack")
    return _run(folder, stack, tiny_onnx())


def _unit(folder: Path) -> Attempt:
    metadata = {"axes": "ZYX", "unit": _ENDING, "Info": _SCRIPT}
    options = {"imagej": True, "metadata": metadata, "resolution": (0.2, 0.2)}
    tifffile.imwrite(folder / "stack.tif", synthetic_stack(2, 96, 96)[0], **options)
    return _run(folder, folder / "stack.tif", tiny_onnx())


def _provenance(folder: Path) -> Attempt:
    origins = [{"name": _SCRIPT, "licence": _IMAGE, "terms": _ENDING, "citation": _SCRIPT}]
    training = {"sections": _SCRIPT, "network": {_IMAGE: _ENDING}, "origins": origins, "epochs": _SCRIPT}
    provenance = {
        "training": training,
        "scores": {_SCRIPT: _IMAGE, "sections": _ENDING},
        "code_version": _SCRIPT,
    }
    tifffile.imwrite(folder / "stack.tif", synthetic_stack(2, 96, 96)[0], photometric="minisblack")
    return _run(folder, folder / "stack.tif", tiny_onnx(provenance=provenance))


ATTEMPTS = {
    "the name of a stack": _name,
    "the unit of ImageJ": _unit,
    "where a model comes from": _provenance,
}
