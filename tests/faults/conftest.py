"""Shared by the tests of damaged and foreign files: how they are made, and what it means that one is refused.

`tiny_files` beside this file and `attacks` in the repository's root are found by their names.
"""

import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from isbi_infer.errors import ImageError
from isbi_infer.volumes import open_stack

for folder in (Path(__file__).parent, Path(__file__).parents[2]):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


@pytest.fixture(autouse=True)
def signals_are_heard():
    """Let what a test starts hear SIGHUP and Ctrl-C, also where tests run under ``nohup`` or behind a shell's ``&``."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if before[signal.SIGINT] is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bad.tif"


@pytest.fixture(scope="session")
def stack():
    """Draw a stack of noise, the same each time."""

    def draw(sections=3, size=32, dtype="uint8"):
        return np.random.default_rng(1).integers(0, 200, (sections, size, size)).astype(dtype)

    return draw


@pytest.fixture(scope="session")
def read():
    """Read all sections of a file."""

    def whole(path):
        with open_stack(path) as reader:
            return np.stack(list(reader))

    return whole


@pytest.fixture(scope="session")
def refused(read):
    """Check that an image is refused with one line that names it, and return the line."""

    def check(path, says=""):
        with pytest.raises(ImageError, match=says or None) as raised:
            read(path)
        line = str(raised.value)
        assert raised.value.exit_code == 4
        assert line.startswith(f"{path}: ")
        assert "\n" not in line
        return line

    return check


@pytest.fixture(scope="session")
def patch():
    """Overwrite the value of a tag."""

    def overwrite(path, tag, value, page=0):
        with tifffile.TiffFile(path, mode="r+") as tiff:
            tiff.pages[page].tags[tag].overwrite(value)

    return overwrite


@pytest.fixture(scope="session")
def describe(stack):
    """Write a plain stack with a description."""

    def write(path, text, sections=3, **options):
        grey = {"photometric": "minisblack", "metadata": None}
        tifffile.imwrite(path, stack(sections), **grey, description=text, **options)

    return write


@pytest.fixture
def leaves(capfd):
    """Run a command line in this process; return its exit code, what it printed and what it said."""

    def run(*arguments, program="infer"):
        from isbi_export.cli import app as export
        from isbi_infer.cli import app as infer
        from isbi_train.cli import app as train

        app = {"infer": infer, "train": train, "export": export}[program]
        with pytest.raises(SystemExit) as left:
            app(list(map(str, arguments)))
        printed, said = capfd.readouterr()
        return left.value.code or 0, printed, said

    return run
