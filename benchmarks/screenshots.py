"""``python -m benchmarks.screenshots``: the picture of the report in docs/, taken of the synthetic sample in Chromium.

The picture holds a digest of the templates that it shows, by which a test sees that it is stale.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from isbi_infer.report import page
from isbi_infer.sample import PIXEL_NM, synthetic_stack
from isbi_infer.volumes import PixelSize, StackInfo, write_stack

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "report.png"
MARK = "drawn-from"
VIEW = {"width": 1180, "height": 1000}


def digest() -> str:
    """Return a digest of what the page looks like."""
    templates = sorted((Path(page.__file__).parent / "templates").iterdir())
    return hashlib.sha256(b"\0".join(template.read_bytes() for template in templates)).hexdigest()


def mark_of(path: Path) -> str | None:
    """Return the digest that a picture was taken at."""
    from PIL import Image

    with Image.open(path) as picture:
        return picture.info.get(MARK)


def sample(folder: Path) -> Path:
    """Write the sample, one section of it out of focus, with its labels, and return its report."""
    image_ZYX, label_ZYX = synthetic_stack()
    blurred_YX = image_ZYX[2].astype(float)
    for axis in (0, 1) * 8:
        blurred_YX = (
            blurred_YX + blurred_YX.take(range(1, blurred_YX.shape[axis] + 1), axis, mode="clip")
        ) / 2
    image_ZYX[2] = blurred_YX
    size = PixelSize(y_nm=PIXEL_NM, x_nm=PIXEL_NM)
    for name, stack_ZYX in (("sample.tif", image_ZYX), ("labels.tif", label_ZYX)):
        write_stack(
            folder / name, stack_ZYX, like=StackInfo(shape=stack_ZYX.shape, pixel_size=size), dtype="uint8"
        )
    command = "sample.tif --label labels.tif --report report.html --provider cpu --quiet"
    program = Path(sys.executable).with_name("isbi-infer")
    subprocess.run([program, *command.split()], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder / "report.html"


def main() -> None:
    """Take the picture."""
    from PIL import Image, PngImagePlugin
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        shown = browser.new_page(viewport=VIEW)
        shown.goto(sample(Path(folder)).as_uri())
        shown.wait_for_selector("canvas[data-drawn]")
        shown.wait_for_timeout(500)
        picture = Image.open(io.BytesIO(shown.screenshot()))
        browser.close()
    info = PngImagePlugin.PngInfo()
    info.add_text(MARK, digest())
    picture.convert("RGB").quantize(200).save(PICTURE, pnginfo=info, optimize=True)
    print(PICTURE)


if __name__ == "__main__":
    main()
