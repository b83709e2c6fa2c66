"""A stack with faults, segmented with a report; and the browser, where there is one."""

import sys

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack

from isbi_infer import cli

SIZE = {"photometric": "minisblack", "resolution": (2.5e6, 2.5e6), "resolutionunit": "CENTIMETER"}  # 4 nm


@pytest.fixture(scope="session")
def sample():
    return synthetic_stack(5, 192, 224)


@pytest.fixture(scope="session")
def infer():
    """Run the command in this process; give its exit code."""

    def run(*arguments):
        before, sys.argv = sys.argv, ["isbi-infer", "--provider", "cpu", *map(str, arguments)]
        try:
            cli.main()
        except SystemExit as left:
            return left.code or 0
        finally:
            sys.argv = before
        return 0

    return run


@pytest.fixture(scope="session")
def faulty(tmp_path_factory, sample, infer):
    """The folder of a run over a stack with a blurred, a blank and a half empty section."""
    folder = tmp_path_factory.mktemp("faulty")
    image_ZYX = sample[0].copy()
    blurred_YX = image_ZYX[1].astype(float)
    for axis in (0, 1) * 6:
        blurred_YX = sum(np.roll(blurred_YX, step, axis) / 3 for step in (-1, 0, 1))
    image_ZYX[1] = blurred_YX
    image_ZYX[2] = 128
    image_ZYX[3, :, :112] = 0
    tifffile.imwrite(folder / "faulty.tif", image_ZYX, description="<script>alert(1)</script>", **SIZE)
    tifffile.imwrite(folder / "labels.tif", sample[1], photometric="minisblack")
    asked = "--label", folder / "labels.tif", "--report", folder / "report.html", "--quiet"
    assert infer(folder / "faulty.tif", *asked) == 0
    return folder


@pytest.fixture(scope="session")
def browser(chromium):
    opened = chromium(args=["--no-sandbox"])
    yield opened
    opened.close()
