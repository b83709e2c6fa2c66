"""A script in a file's name or metadata, which the demo page would run in its reader's browser.

The page says the name of the file that it reads, also where it refuses it, and takes units and sizes from what the
file says of itself. A script that ran there would read the image, which the page promises to keep on its reader's
machine, and send it anywhere. All that comes from a file is put into the page as text, never as HTML; units are
compared with a list, sizes read as numbers, neither is shown as it is. A policy in the page's head lets it run the
site's own scripts alone, and reach no other address, should the first of these ever fail.

No command line opens that page, so `python -m attacks` does not: tests/site/test_demo_attacks.py carries these out
in Chromium.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

from isbi_infer.sample import synthetic_stack

MARK = "harmed"  # what the scripts leave on the page's window
SCRIPT = f"<script>window.{MARK}=1</script>"
IMAGE = f"\"'><img src=x onerror=window.{MARK}=1>"
BOTH = f"{IMAGE}{SCRIPT}"
OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image Name="{0}">'
    '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="64" SizeY="64" SizeC="1" SizeZ="1" SizeT="1" '
    "PhysicalSizeX='0.004' PhysicalSizeY='0.004' PhysicalSizeXUnit='{0}'><TiffData/></Pixels></Image>{0}</OME>"
)


def _section() -> np.ndarray:
    return synthetic_stack(1, 64, 64)[0][0]


def _name(folder: Path) -> Path:
    path = folder / f"{IMAGE}.tif"
    tifffile.imwrite(path, _section(), photometric="minisblack")
    return path


def _refused_name(folder: Path) -> Path:
    path = folder / f"{IMAGE}.txt"
    path.write_text(BOTH)
    return path


def _imagej(folder: Path) -> Path:
    metadata = {"unit": BOTH, "Info": BOTH, "images": 9}
    tifffile.imwrite(folder / "imagej.tif", _section(), imagej=True, metadata=metadata, resolution=(0.2, 0.2))
    return folder / "imagej.tif"


def _number_of_sections(folder: Path) -> Path:
    description = f"ImageJ=1.11a\nimages=7{BOTH}\nunit=nm\n"
    options = {"photometric": "minisblack", "description": description, "metadata": None}
    tifffile.imwrite(folder / "sections.tif", _section(), **options)
    return folder / "sections.tif"


def _ome(folder: Path) -> Path:
    options = {"photometric": "minisblack", "description": OME.format(IMAGE), "metadata": None}
    tifffile.imwrite(folder / "ome.tif", _section(), **options)
    return folder / "ome.tif"


def _tags(folder: Path) -> Path:
    tags = [(tag, "s", 0, BOTH, True) for tag in (269, 271, 315, 33432)]  # name, maker, artist, copyright
    options = {"photometric": "minisblack", "software": BOTH, "extratags": tags, "metadata": None}
    tifffile.imwrite(folder / "tags.tif", _section(), description=BOTH, **options)
    return folder / "tags.tif"


def _png(folder: Path) -> Path:
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", BOTH)
    text.add_itxt("XML:com.adobe.xmp", BOTH)
    Image.fromarray(_section()).save(folder / "texts.png", pnginfo=text)
    return folder / "texts.png"


def _jpeg(folder: Path) -> Path:
    Image.fromarray(_section()).save(folder / "comment.jpg", comment=BOTH)
    return folder / "comment.jpg"


def _svg(folder: Path) -> Path:
    path = folder / "picture.png"
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" onload="window.{MARK}=1">{BOTH}</svg>')
    return path


FILES: dict[str, Callable[[Path], Path]] = {
    "the name of a TIFF": _name,
    "the name of what is refused": _refused_name,
    "ImageJ's lines": _imagej,
    "ImageJ's number of sections": _number_of_sections,
    "OME-XML": _ome,
    "tags of TIFF": _tags,
    "texts of PNG": _png,
    "a comment of JPEG": _jpeg,
    "an SVG named PNG": _svg,
}
