"""A display for napari's canvas, which a machine for tests has none of: Xvfb, where it is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:  # the program that takes the picture is not installed
    sys.path.append(ROOT)


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/napari" in str(item.path):
            item.add_marker(
                pytest.mark.filterwarnings("default")
            )  # napari's and Qt's own are not ours to mend


@pytest.fixture(scope="session", autouse=True)
def _display():
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    if os.environ.get("DISPLAY"):
        yield
        return
    if not shutil.which("Xvfb"):
        pytest.skip("napari draws with OpenGL, which needs a display, or Xvfb: apt-get install xvfb")
    readable, writable = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writable), "-screen", "0", "1600x1200x24", "-nolisten", "tcp"],
        pass_fds=[writable],
        stderr=subprocess.DEVNULL,
    )
    os.close(writable)
    with os.fdopen(readable) as said:
        os.environ["DISPLAY"] = f":{said.readline().strip()}"
    yield
    server.terminate()
    server.wait()
    del os.environ["DISPLAY"]
