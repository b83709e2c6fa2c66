"""Stacks in napari with their pixel size, the panel beside them; needs a display."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isbi_infer.errors import DependencyError
from isbi_infer.terminal import exit_codes, one_line, require_packages
from isbi_infer.terminal.commands import RUNTIMES, Command, Debug, listed, new_app, version_option

if TYPE_CHECKING:
    from isbi_infer.volumes import Source

app = new_app()

# Qt ends the process where there is no display, so another one tries first.
_PROBE = """
from qtpy.QtGui import QOpenGLContext
from qtpy.QtWidgets import QApplication
application = QApplication([])
raise SystemExit(0 if QOpenGLContext().create() else 9)
"""
_NO_OPENGL = 9
_AT_ONCE = 2**30  # bytes of a stack that is read whole


def check_display() -> None:
    """Raise DependencyError, with what to do, unless napari can open a window here."""
    require_packages("napari", "napari")
    try:
        import qtpy

        assert qtpy.API_NAME
    except Exception as error:  # qtpy's own, or an ImportError of a library of Qt's
        raise DependencyError(
            f"napari has no Qt to draw with ({one_line(error)}); run: pip install 'napari[pyside6]'"
        ) from error
    tried = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, errors="replace")
    if tried.returncode == _NO_OPENGL:
        raise DependencyError(
            "the display has no OpenGL, which napari draws with; install Mesa (Debian: libgl1-mesa-dri), or look at "
            "isbi-infer STACK --report report.html in a browser"
        )
    if tried.returncode:
        raise DependencyError(
            "there is no display for napari to open a window on; log in with one (ssh -X), or look at "
            "isbi-infer STACK --report report.html in a browser"
        )


def add_stack(viewer: Any, source: Source) -> Any:
    """Add a source as a layer with its pixel size, large ones read as they are shown; return the layer."""
    import numpy as np

    from isbi_infer.napari.layers import SourceArray

    pixels: Any = SourceArray(source)
    if pixels.size * pixels.dtype.itemsize <= _AT_ONCE:
        pixels = np.asarray(pixels)

    size = source.info.pixel_size
    placed: dict[str, Any] = {"axis_labels": ("z", "y", "x")[-len(source.info.shape) :]}
    if size is not None:
        sides = (size.z_nm or size.x_nm, size.y_nm, size.x_nm)[-len(source.info.shape) :]
        placed |= {"scale": sides, "units": ("nm",) * len(sides)}
    return viewer.add_image(pixels, name=Path(source.name).name, rgb=False, multiscale=False, **placed)


@app.command(
    cls=Command,
    epilog=listed(
        "Examples",
        ("python -m isbi_infer.napari", "An empty viewer, with the panel."),
        ("python -m isbi_infer.napari stack.tif", "A stack in it."),
    ),
)
def show(
    stacks: Annotated[
        list[Path] | None, typer.Argument(metavar="STACK", help="What isbi-infer takes.")
    ] = None,
    debug: Debug = False,
    _: Annotated[bool, version_option("isbi-infer", "napari", *RUNTIMES)] = False,
) -> None:
    """Open stacks in napari, with the panel that segments them."""
    with exit_codes("isbi-infer napari", debug=debug):
        from contextlib import ExitStack

        from isbi_infer.volumes import open_source

        check_display()
        with ExitStack() as opened:
            sources = [opened.enter_context(open_source(stack, grey=False)) for stack in stacks or []]
            import napari

            viewer = napari.Viewer()
            for source in sources:
                add_stack(viewer, source)
            viewer.window.add_plugin_dock_widget("isbi-infer", "Segment membranes")
            napari.run()
