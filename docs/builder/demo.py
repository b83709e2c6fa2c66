"""The demo's folder: its own files, the released int8 models, what is taken from npm, licences and a sample."""

from __future__ import annotations

import hashlib
import html
import json
import shutil
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from isbi_infer.model.contract import read_contract
from isbi_infer.sample import PIXEL_NM, SECTION_NM, synthetic_stack
from isbi_infer.volumes import PixelSize, StackInfo, write_stack
from isbi_models import released_models

from .npm import fetch, pinned

_SOURCE = Path(__file__).parents[1] / "demo"
_PRECISION = "int8"


def assemble(folder: Path) -> None:
    """Write the demo into a new folder."""
    shutil.copytree(_SOURCE, folder, ignore=shutil.ignore_patterns("packages.json"))
    vendor = folder / "vendor"
    vendor.mkdir()
    licences = []
    for package in pinned(_SOURCE / "packages.json"):
        content = package.read(fetch(package))
        for member, name in package.files.items():
            (vendor / name).write_bytes(content[member])
        text = content[package.licence_file].decode() if package.licence_file else _runtime_licence()
        licences.append((f"{package.name} {package.version}: {package.about}", package.licence, text))
    (folder / "licences.html").write_text(_licences_page(licences), encoding="utf-8")
    (folder / "models.json").write_text(json.dumps(_models(folder), indent=1) + "\n", encoding="utf-8")
    image_ZYX, _ = synthetic_stack(2, 512, 512)
    info = StackInfo(
        shape=image_ZYX.shape, pixel_size=PixelSize(y_nm=PIXEL_NM, x_nm=PIXEL_NM, z_nm=SECTION_NM)
    )
    write_stack(folder / "sample.tif", image_ZYX, like=info, dtype=np.dtype(np.uint8))
    _list_what_is_kept(folder)


def _models(folder: Path) -> list[dict[str, object]]:
    """Copy the models and say what the page needs to know of them; the default comes first."""
    entries: list[dict[str, object]] = []
    for model in released_models().values():
        file = model.files[_PRECISION]
        content = file.path.read_bytes()
        (folder / file.path.name).write_bytes(content)
        entries.append(
            {
                "name": model.name,
                **{key: getattr(model, key) for key in ("about", "terms", "licence", "citation")},
                "card": f"../models/{model.card.stem}.html",
                "file": file.path.name,
                "bytes": len(content),
                "sha256": file.sha256,
                "pixel_size_nm": read_contract(content).pixel_size_nm,
            }
        )
    return entries


def _runtime_licence() -> str:
    """Return ONNX Runtime's licence and notices, which its npm package lacks and its wheel holds."""
    wheel = distribution("onnxruntime")
    return "\n\n".join(
        Path(str(wheel.locate_file(f"onnxruntime/{name}"))).read_text(encoding="utf-8")
        for name in ("LICENSE", "ThirdPartyNotices.txt")
    )


def _licences_page(licences: list[tuple[str, str, str]]) -> str:
    parts = [
        f"<h2>{html.escape(title)}</h2><p>{html.escape(licence)}</p><pre>{html.escape(text)}</pre>"
        for title, licence, text in licences
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<title>Licences</title><link rel="stylesheet" href="style.css">'
        f'<h1>What the page is made with</h1><p><a href="index.html">Back</a></p>{"".join(parts)}</html>\n'
    )


def _list_what_is_kept(folder: Path) -> None:
    """Write the list of files that the service worker keeps; another version where any of them is another."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    names.remove("service-worker.js")
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + b"\0" + hashlib.sha256((folder / name).read_bytes()).digest())
    kept = json.dumps({"version": digest.hexdigest()[:16], "files": ["./", *names]})
    (folder / "kept-files.js").write_text(f"self.KEPT = {kept};\n", encoding="utf-8")
