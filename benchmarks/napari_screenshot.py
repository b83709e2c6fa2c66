"""``python -m benchmarks.napari_screenshot``: the picture of the plugin in docs/, taken of the synthetic sample.

Needs ``pip install '.[napari,labels]' 'napari[pyside6]'`` and a display with OpenGL, such as ``xvfb-run -s '-screen 0
1600x1200x24'`` gives (Debian: xvfb, libxcb-icccm4, libxcb-keysyms1). The picture holds a digest of the panels' code, by
which a test sees that it is stale.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from isbi_infer.napari import __file__ as room

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "napari.png"
MARK = "drawn-from"
SIZE = 1400, 860

_PANELS = "panel.py", "segment_panel.py", "fine_tune_panel.py"


def digest() -> str:
    """Return a digest of what decides how the panels look."""
    sources = [Path(room).with_name(name).read_bytes() for name in _PANELS]
    return hashlib.sha256(b"\0".join(sources)).hexdigest()


def mark_of(path: Path) -> str | None:
    """Return the digest that a picture was taken at."""
    from PIL import Image

    with Image.open(path) as picture:
        return picture.info.get(MARK)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, which has no options."""
    return argparse.ArgumentParser(prog="python -m benchmarks.napari_screenshot", description=__doc__)


def main(argv: Sequence[str] | None = None) -> None:
    """Take the picture: the sample segmented, its neurons joined by overlap."""
    parser().parse_args(argv)
    import napari
    from PIL import Image, PngImagePlugin
    from qtpy.QtWidgets import QApplication

    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
    viewer.open_sample("isbi-infer", "synthetic")
    _, panel = viewer.window.add_plugin_dock_widget("isbi-infer", "Segment membranes")
    viewer.window.add_plugin_dock_widget("isbi-infer", "Save corrected labels and fine-tune")
    panel.provider.value = "cpu"
    panel.neurons.value = "overlap"
    panel.start_button.native.click()
    while panel.job is not None:
        QApplication.processEvents()
        time.sleep(0.02)
    viewer.dims.set_current_step(0, 3)
    viewer.camera.zoom *= 1.6
    viewer.scale_bar.visible = True
    until = time.monotonic() + 2
    while time.monotonic() < until:
        QApplication.processEvents()
    info = PngImagePlugin.PngInfo()
    info.add_text(MARK, digest())
    picture = Image.fromarray(viewer.screenshot(canvas_only=False, flash=False)).convert("RGB")
    picture.quantize(250).save(PICTURE, pnginfo=info, optimize=True)
    viewer.close()
    print(PICTURE, picture.size)


if __name__ == "__main__":
    main()
