"""Shared by the tests of chunked volumes: one small stack, its TIFF, and the probabilities of the TIFF run.

`volume_files` beside this file and `tiny_files` of the tests of faults are found by their names.
"""

import sys
from pathlib import Path

import pytest
import tifffile
from drawn import synthetic_stack

from isbi_infer import Segmenter

for folder in (Path(__file__).parent, Path(__file__).parents[2] / "faults"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


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
def tiny(tmp_path_factory):
    """A model of one convolution, for runs whose subject is not what a network computes."""
    from tiny_files import tiny_onnx

    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    path.write_bytes(tiny_onnx())
    return path


def of_tiff_run(tiff, segmenter, folder):
    segmenter.segment_file(tiff, folder / "probability.tif")
    return tifffile.imread(folder / "probability.tif")


@pytest.fixture(scope="session")
def expected_ZYX(tiff, tiles, tmp_path_factory):
    """The TIFF run's probabilities."""
    return of_tiff_run(tiff, tiles, tmp_path_factory.mktemp("expected"))


@pytest.fixture(scope="session")
def tiny_ZYX(tiff, tiny, tmp_path_factory):
    """The TIFF run's probabilities by that model."""
    return of_tiff_run(tiff, Segmenter(tiny, provider="cpu"), tmp_path_factory.mktemp("expected"))
