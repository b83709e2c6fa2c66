"""What Fiji and programs that read OME show of a result without being told: unit, spacing, range, and what it is."""

from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack

from isbi_infer import Segmenter
from isbi_infer.neurons.labelling import Labelling, LabelSink
from isbi_infer.volumes import Block, PixelSize, StackInfo, write_stack


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(provider="cpu")


@pytest.fixture
def write(tmp_path):
    """Write the synthetic stack, with pixels of 4 nm and sections of 50 nm, in one flavour of TIFF."""

    def of(kind):
        path = tmp_path / f"{kind}.tif"
        image_ZYX = synthetic_stack(2, 64, 64)[0]
        size = PixelSize(y_nm=4, x_nm=4, z_nm=50)
        write_stack(
            path, image_ZYX, like=StackInfo(shape=image_ZYX.shape, kind=kind, pixel_size=size), dtype="uint8"
        )
        return path

    return of


@pytest.mark.parametrize(
    ("emit", "dtype", "shown", "title"),
    [
        ("cell", "float32", (0.0, 1.0), "probability of cell"),
        ("membrane", "float32", (0.0, 1.0), "probability of membrane"),
        ("cell", "uint8", (0, 255), "probability of cell"),
    ],
)
def test_imagej_shows_unit_spacing_range_and_what_each_section_is(
    segmenter, write, tmp_path, emit, dtype, shown, title
):
    segmenter.segment_file(write("imagej"), tmp_path / "out.tif", emit=emit, dtype=dtype)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        found, resolution = file.imagej_metadata, file.pages[0].tags["XResolution"].value
    assert (found["unit"], found["spacing"], resolution[0] / resolution[1]) == ("um", 0.05, 250)
    assert (found["min"], found["max"]) == shown
    assert found["Labels"] == [title] * 2
    assert f"= {'cell interior' if emit == 'cell' else 'membrane'}, 0 = " in found["Info"]


def test_ome_names_the_image_by_what_it_is(segmenter, write, tmp_path):
    segmenter.segment_file(write("ome"), tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        image = next(part for part in ElementTree.fromstring(file.ome_metadata) if part.tag.endswith("Image"))
    assert image.get("Name") == "probability of cell"
    (pixels,) = (part for part in image if part.tag.endswith("Pixels"))
    assert (pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeZ")) == ("0.004", "0.05")


def test_labels_say_that_they_are_ids_and_are_shown_up_to_the_largest(tmp_path):
    probability_ZYX = np.ones((2, 16, 16), np.float32)
    probability_ZYX[:, :, 8] = 0
    like = StackInfo(shape=probability_ZYX.shape)
    with LabelSink(tmp_path / "ids.tif", like, Labelling(link="overlap")) as sink:
        sink.write(Block(0, (0, 2), (0, 16), (0, 16)), probability_ZYX)
        sink.finish()
    with tifffile.TiffFile(tmp_path / "ids.tif") as file:
        found = file.imagej_metadata
    assert (found["min"], found["max"], found["Labels"]) == (0, 2, ["ids of cells"] * 2)


def test_a_stack_of_very_many_sections_has_no_titles(tmp_path):
    from isbi_infer.volumes import TiffSink

    many = 10_001
    with TiffSink(
        tmp_path / "many.tif", like=StackInfo(shape=(many, 1, 1)), dtype="uint8", title="it"
    ) as sink:
        sink.write(Block(0, (0, many), (0, 1), (0, 1)), np.zeros((many, 1, 1), np.uint8))
        sink.finish()
    with tifffile.TiffFile(tmp_path / "many.tif") as file:
        assert "Labels" not in file.imagej_metadata
