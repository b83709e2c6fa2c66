"""Shared by the tests of chunked volumes: one small stack, its TIFF, and the probabilities of the TIFF run.

`volume_files` beside this file is found by its name.
"""

import sys
from pathlib import Path

import pytest
import tifffile

from isbi_infer import Segmenter
from isbi_infer.sample import synthetic_stack

FOLDER = str(Path(__file__).parent)
if FOLDER not in sys.path:
    sys.path.append(FOLDER)


@pytest.fixture(scope="session")
def volume_ZYX():
    """Five sections with a canvas at their left and a hole in the third, larger than a tile."""
    image_ZYX, _ = synthetic_stack(5, 560, 640)
    image_ZYX[:, :, :70] = 0
    image_ZYX[2, 260:330, 300:400] = 0
    image_ZYX[4] = 7
    return image_ZYX


@pytest.fixture(scope="session")
def tiles():
    """Tiles of the released model that are smaller than a section."""
    return Segmenter("isbi2012-unet-b32", provider="cpu", tile=320)


@pytest.fixture(scope="session")
def tiff(volume_ZYX, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiff") / "stack.tif"
    metadata = {"axes": "ZYX", "spacing": 0.05, "unit": "um"}
    tifffile.imwrite(path, volume_ZYX, imagej=True, resolution=(250, 250), metadata=metadata)
    return path


@pytest.fixture(scope="session")
def expected_ZYX(tiff, tiles, tmp_path_factory):
    """The TIFF run's probabilities."""
    path = tmp_path_factory.mktemp("expected") / "probability.tif"
    tiles.segment_file(tiff, path)
    return tifffile.imread(path)
