"""Descriptions (ImageJ, OME, tifffile's own) that do not fit the pages: never fewer sections than declared."""

import builtins

import numpy as np
import pytest
import tifffile


@pytest.mark.parametrize(
    "text",
    [
        "ImageJ=1.53t\nimages=30\nslices=30\n",
        "ImageJ=1.53t\nimages=2\nslices=2\n",
        "ImageJ=1.53t\nslices=4\n",
        "ImageJ=1.53t\nimages=3\nslices=4\n",
        "ImageJ=1.53t\nimages=3\nslices=three\n",
        "ImageJ=1.53t\nimages=-3\nslices=-3\n",
        "ImageJ=1.53t\nimages=0\nslices=0\n",
        "XmageJ=1.53t\nimages=30\nslices=30\n",
        '{"shape": [30, 32, 32]}',
        '{"shape": [2, 32, 32]}',
        '{"shape": [3, 32, 31]}',
        '{"shape": [3, 32, 32], "axes": "ZY"}',
        '{"shape": [3, 32, 32}',
        '{"shape": 7}',
        '{"shape": [null]}',
        '{"shape": [32]}',
        '{"shape": []}',
    ],
)
def test_descriptions_that_do_not_fit_the_pages_are_refused(path, refused, describe, text):
    describe(path, text)
    refused(path)


def _ome(
    sizes='SizeX="32" SizeY="32" SizeZ="3" SizeC="1" SizeT="1"',
    data='<TiffData IFD="0" PlaneCount="3"/>',
    tail="",
):
    return (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        f'<Image ID="Image:0"><Pixels DimensionOrder="XYZCT" Type="uint8" {sizes}>{data}</Pixels></Image>{tail}</OME>'
    )


def test_hand_made_ome_is_read(path, read, stack, describe):
    for data in (
        '<TiffData IFD="0" PlaneCount="3"/>',
        "<TiffData/>",
        '<TiffData IFD="0"><UUID FileName="x">urn:uuid:1</UUID></TiffData>'
        '<TiffData IFD="1" FirstZ="1"/><TiffData IFD="2" FirstZ="2"/>',
    ):
        describe(path, _ome(data=data))
        np.testing.assert_array_equal(read(path), stack())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            _ome('SizeX="32" SizeY="32" SizeZ="30" SizeC="1" SizeT="1"'),
            "30 sections, but the file has 3 pages",
        ),
        (_ome('SizeX="32" SizeY="32" SizeZ="2" SizeC="1" SizeT="1"'), "2 sections, but the file has 3 pages"),
        (_ome('SizeX="32" SizeY="32" SizeZ="999999999999" SizeC="1" SizeT="1"'), "3 pages"),
        (_ome('SizeX="31" SizeY="32" SizeZ="3" SizeC="1" SizeT="1"'), "31 x 32 px"),
        (_ome('SizeX="32" SizeY="32" SizeZ="3" SizeC="1"'), "SizeT"),
        (_ome('SizeX="32" SizeY="32" SizeZ="x" SizeC="1" SizeT="1"'), "damaged"),
        (_ome(data=""), "locates 0"),
        (_ome(data='<TiffData IFD="0" PlaneCount="2"/>'), "locates 2"),
        (_ome(data='<TiffData IFD="1" PlaneCount="3"/>'), "page of its own"),
        (_ome(data='<TiffData IFD="0" PlaneCount="999999999999"/>'), "damaged|locates"),
        (_ome(data='<TiffData IFD="0"/>' * 3), "locates"),
        (
            _ome(data='<TiffData IFD="0"><UUID FileName="b.tif">urn:uuid:2</UUID></TiffData>'),
            "continues in b.tif",
        ),
        (_ome().replace("</Image>", ""), "damaged"),
        (_ome()[:-40], "breaks off"),
        (_ome(tail="<Image/>" * 2).replace("Pixels", "Voxels"), "0 OME images"),
        ('<!DOCTYPE x [<!ENTITY a "b">]>' + _ome(), "entities"),
    ],
)
def test_ome_that_does_not_fit_the_pages_is_refused(path, refused, describe, text, says):
    describe(path, text)
    refused(path, says)


def test_ome_never_opens_other_files(path, refused, describe, monkeypatch):
    """A description is not to be trusted with the choice of files to read."""
    describe(
        path, _ome(data='<TiffData IFD="0"><UUID FileName="../../etc/passwd">urn:uuid:2</UUID></TiffData>')
    )
    names = []
    original = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda name, *rest, **more: (names.append(name), original(name, *rest, **more))[1]
    )
    refused(path, "etc/passwd")
    assert not [name for name in names if "passwd" in str(name)]


def test_several_ome_images_are_refused_and_named(path, refused, stack):
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for name in ("raw", "labels"):
            tiff.write(stack(2), photometric="minisblack", metadata={"axes": "ZYX", "Name": name})
    refused(path, "2 OME images .*'raw', 'labels'")


def test_one_page_stack_that_lost_its_description_is_not_one_section(path, refused, stack):
    tifffile.imwrite(path, stack(30), imagej=True, truncate=True, metadata={"axes": "ZYX"})
    data = path.read_bytes()
    path.write_bytes(data.replace(b"ImageJ=", b"ImageX=").replace(b"images=", b"imagos="))
    refused(path, "declares 1 section, but holds pixels for 30")


def test_one_page_stack_with_too_few_pixels_is_refused(path, refused, stack):
    tifffile.imwrite(path, stack(30), imagej=True, truncate=True, metadata={"axes": "ZYX"})
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "declares 30 sections")


def test_compressed_one_page_stack_is_refused(path, refused, describe):
    describe(path, "ImageJ=1.53t\nimages=3\nslices=3\n", 1, compression="zlib")
    refused(path, "declares 3 sections")
