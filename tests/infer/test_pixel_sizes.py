"""What files say of the size of their pixels: taken, or noted where it is not understood, and never lost in silence."""

import csv
import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from isbi_infer import Segmenter, UsageError
from isbi_infer.plan.scaling import check_pixel_size, choose_scaling
from isbi_infer.run.volume import VolumeOptions
from isbi_infer.volumes import PixelSize, open_images, open_source
from isbi_infer.volumes.pixel_size import in_nm, is_pixel, same_size

PLAIN = {"photometric": "minisblack", "metadata": None}
IMAGE_YX = np.random.default_rng(2).integers(1, 200, (64, 80)).astype(np.uint8)
REMEDY = "give --pixel-size"


@pytest.fixture
def said(tmp_path):
    """Write a section with tags; return the pixel size and the notes with which it is read."""

    def write(**options):
        path = tmp_path / "section.tif"
        tifffile.imwrite(path, IMAGE_YX, **{**PLAIN, **options})
        return read(path)

    return write


def read(path):
    with open_source(path) as source:
        return source.info.pixel_size, source.notes


def size(x_nm, y_nm=None, z_nm=None):
    return PixelSize(y_nm=y_nm or x_nm, x_nm=x_nm, z_nm=z_nm)


@pytest.mark.parametrize(
    ("unit", "nm"),
    [
        *(
            (unit, 1000)
            for unit in ("um", "µm", "μm", "\\u00B5m", "\\u00b5m", "\\u03bcm", "Âµm", "㎛", "Micron", "µ")
        ),
        *(
            (unit, 0.1)
            for unit in ("Å", "\u212b", "A\u030a", "\\u00C5", "\\u212B", "Ã…", "angstrom", "Angstroms", "ang")
        ),
        *(("\\u00e5ngstr\\u00f6m", 0.1), ("nm\0", 1), (" NM ", 1), ("pm", 1e-3), ("mm", 1e6), ("cm", 1e7)),
        *(("inch", 25.4e6), ("inches", 25.4e6), ('"', 25.4e6), ("thou", 25.4e3), ("m", 1e9)),
        *((unit, None) for unit in ("pixel", "furlong", "", "\\u65e5", "\\u00", "1/nm")),
    ],
)
def test_units_are_understood_in_any_spelling_and_encoding(unit, nm):
    assert in_nm(1, unit) == nm


def test_images_without_a_scale_say_pixel():
    assert all(map(is_pixel, ("", "pixel", "Pixels", "px", " pixel\0")))
    assert not any(map(is_pixel, ("nm", "furlong")))


def imagej(unit, *, lines="", **tags):
    return {"description": f"ImageJ=1.54f\nunit={unit}\n{lines}", "resolutionunit": 1, **tags}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (imagej("\\u00C5", resolution=(1 / 80, 1 / 80)), size(8)),
        (imagej("nm", resolution=(0.125, 0.25)), size(8, 4)),
        (imagej("nm", lines="yunit=angstrom\n", resolution=(1 / 8, 1 / 40)), size(8, 4)),
        (imagej("pixel", resolution=(1, 1)), None),
        (imagej("pixel", resolution=(1_250_000, 1_250_000), resolutionunit=3), size(8)),
        (imagej("inch", resolution=(72, 72), resolutionunit=2), None),
        (imagej("inch", resolution=(300, 300), resolutionunit=1), None),
        (
            {"description": "ImageJ=1.54f\n", "resolution": (1_250_000, 1_250_000), "resolutionunit": 3},
            size(8),
        ),
        *(({"resolution": (dpi, dpi), "resolutionunit": 2}, None) for dpi in (72, 96, 150, 300, 600)),
        ({"resolution": (1, 1), "resolutionunit": 1}, None),
        ({}, None),
    ],
)
def test_sizes_and_what_is_none_need_no_note(said, options, expected):
    assert said(**options) == (expected, ())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (imagej("furlong", resolution=(3, 3)), "3/1 x 3/1 pixels per 'furlong'"),
        (imagej("nm", resolution=((0, 1), (0, 1))), "0/1 x 0/1 as pixels per 'nm'"),
        (
            imagej("nm", lines="yunit=ell\n", resolution=(3, 3)),
            "per 'nm' along x and 'ell' along y, no pixel size",
        ),
        ({"resolution": ((0, 1), (0, 1)), "resolutionunit": 3}, "0/1 x 0/1 pixels per cm"),
        ({"resolution": ((1_250_000, 1), (0, 1)), "resolutionunit": 3}, "1250000/1 x 0/1 pixels per cm"),
        ({"description": "pixel size: 4.2 nm"}, "'pixel size 4.2 nm'"),
        ({"extratags": [(40000, "s", 0, "a=1\r\nPixelSize=9.9\r\n", True)]}, "tag 40000 .*'PixelSize 9.9'"),
    ],
)
def test_what_is_not_understood_is_named(said, options, says):
    found, (note,) = said(**options)
    assert found is None
    assert re.search(says, note)
    assert REMEDY in note


@pytest.mark.parametrize(
    ("unit", "resolution", "tags_unit", "nm"),
    [("um", 1_250_000, 3, 8), ("um", 125, 3, 8), ("nm", 0.125, 2, 8), ("micron", 3_175_000, 2, 8)],
)
def test_of_two_units_the_one_that_makes_sense_is_taken_and_said(said, unit, resolution, tags_unit, nm):
    found, (note,) = said(**imagej(unit, resolution=(resolution, resolution), resolutionunit=tags_unit))
    assert (found.x_nm, found.y_nm) == pytest.approx((nm, nm))
    assert f"per {unit!r} in the description" in note
    assert f"taken for {nm} nm" in note


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("LONG", 1_250_000, 8),
        ("FLOAT", 1_250_000.0, 8),
        ("DOUBLE", 1_250_000.0, 8),
        ("SLONG", 1_250_000, 8),
        ("SRATIONAL", (1_250_000, 1), 8),
        ("SRATIONAL", (-1_250_000, -1), 8),
        ("SLONG", -5, None),
        ("FLOAT", float("nan"), None),
        ("LONG", 0, None),
    ],
)
def test_resolutions_of_any_type_are_read(tmp_path, kind, value, expected):
    path = tmp_path / "section.tif"
    tifffile.imwrite(path, IMAGE_YX, **PLAIN, resolution=(1, 1), resolutionunit=3)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for tag in ("XResolution", "YResolution"):
            tiff.pages[0].tags[tag].overwrite(value, dtype=tifffile.DATATYPE[kind])
    found, notes = read(path)
    assert found == (expected and size(expected))
    assert len(notes) == (expected is None)


def ome(x, y, unit):
    return {"PhysicalSizeX": x, "PhysicalSizeXUnit": unit, "PhysicalSizeY": y, "PhysicalSizeYUnit": unit}


@pytest.mark.parametrize(
    ("metadata", "expected", "says"),
    [
        (ome(80, 40, "Å"), size(8, 4), ""),
        (ome(8, 8, "pixel"), None, ""),
        (ome(8, 8, "ly"), None, "8 ly x 8 ly"),
        (ome(0, 0, "µm"), None, "0 µm x 0 µm"),
        ({"PhysicalSizeX": 8, "PhysicalSizeXUnit": "nm"}, None, "8 nm x nothing"),
        ({}, None, ""),
    ],
)
def test_sizes_of_ome_are_taken_or_named(tmp_path, metadata, expected, says):
    path = tmp_path / "section.ome.tif"
    tifffile.imwrite(path, IMAGE_YX, ome=True, photometric="minisblack", metadata={"axes": "YX", **metadata})
    found, notes = read(path)
    assert found == expected
    assert len(notes) == bool(says)
    assert all(says in note for note in notes)


def text(code, value):
    return {"extratags": [(code, "s", 0, value, True)]}


def gatan(unit, nm, kind="d"):
    values = [(65003, "s", 0, unit), (65004, "s", 0, unit), (65009, kind, 1, nm), (65010, kind, 1, nm)]
    return {"extratags": [(*value, True) for value in values]}


def tvips(version, nm):
    first = np.zeros((), np.dtype(tifffile.TIFF.TVIPS_HEADER_V1).newbyteorder("<"))
    second = np.zeros((), np.dtype(tifffile.TIFF.TVIPS_HEADER_V2).newbyteorder("<"))
    first["Version"], second["Magic"] = version, 0xAAAAAAAA
    second["PixelSizeX"] = second["PixelSizeY"] = nm
    data = first.tobytes() + second.tobytes()
    return {"extratags": [(37706, "B", len(data), data, True)]}


def jeol(magnification, mode="MAG"):
    xml = (
        f"<?xml version='1.0'?><TemReporter><Eos><EosMode>eosTEM</EosMode></Eos><ImageFormingSystem><ModeString>{mode}"
        f"</ModeString><SelectorValue>{magnification}</SelectorValue></ImageFormingSystem></TemReporter>"
    )
    camera = {"resolution": ((10_000, 15), (10_000, 15)), "resolutionunit": 3}  # pixels of 15 um
    return {"description": xml, "extratags": [(271, "s", 0, "JEOL Ltd.", True)], **camera}


ZEISS = "AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = {}\r\nAP_MAG\r\nMag = 10.00 K X\r\n"
MICROSCOPES = {
    "FEI": (text(34682, "[Scan]\r\nPixelWidth=1.2e-008\r\nPixelHeight=1e-008\r\n"), size(12, 10)),
    "FEI SFEG": (text(34680, "[Scan]\r\nPixelWidth=1.2e-008\r\nPixelHeight=1.2e-008\r\n"), size(12)),
    "FEI electron beam": (
        text(34682, "[Beam]\r\nScan=EScan\r\n[EScan]\r\nPixelWidth=1.2e-008\r\nPixelHeight=1.2e-008\r\n"),
        size(12),
    ),
    "FEI field of view": (
        text(
            34682, "[EBeam]\r\nHFW=1.2e-6\r\nVFW=1.2e-6\r\n[Image]\r\nResolutionX=100\r\nResolutionY=100\r\n"
        ),
        size(12),
    ),
    "Zeiss": (text(34118, "0\r\n0\r\n0\r\n9\r\n" + ZEISS.format("12.00 nm")), size(12)),
    "Zeiss pm": (text(34118, "\r\n0\r\n" + ZEISS.format("12000 pm")), size(12)),
    "Zeiss um": (text(34118, ("\r\n0\r\n" + ZEISS.format("0.012 µm")).encode("latin-1")), size(12)),
    "Zeiss comma": (text(34118, "\r\n0\r\n" + ZEISS.format("12,5 nm")), size(12.5)),
    "Zeiss unnamed": (text(34118, f"0\r\n0\r\n0\r\n{12e-9 * 80 / 1024}\r\n5\r\n"), size(12)),
    "Tescan": (text(50431, "[MAIN]\r\nPixelSizeX=1.2e-8\r\nPixelSizeY=1.2e-8\r\n"), size(12)),
    "Gatan": (gatan("nm", 12.0), size(12)),
    "Gatan um": (gatan("µm".encode("latin-1"), 0.012), size(12)),
    "Gatan float": (gatan("nm", 12.0, "f"), size(12)),
    "TVIPS": (tvips(2, 12), size(12)),
    "JEOL": (jeol(1250), size(12)),
}


@pytest.mark.parametrize("maker", MICROSCOPES)
def test_the_size_that_a_microscope_wrote_is_taken_and_said(said, maker):
    options, expected = MICROSCOPES[maker]
    found, (note,) = said(**options)
    assert (found.y_nm, found.x_nm) == pytest.approx((expected.y_nm, expected.x_nm))
    assert maker.split()[0] in note


def test_the_size_of_olympus_sis_is_taken(tmp_path):
    path = tmp_path / "section.tif"
    tifffile.imwrite(path, IMAGE_YX, **PLAIN, extratags=[(33560, "B", 200, bytes(200), True)])
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages[0].tags[33560].valueoffset
    head = struct.pack("<4s6xhhhhh6x32sH", b"SIS0", 0, 0, 1, 1, 100, b"name", 1)
    where = start + len(head) + 8
    block = head + struct.pack("<hhI", 1, 1, where)
    block += struct.pack("<10xhdd8xd2x34s32s", -9, 12.0, 10.0, 5e4, b"camera", b"picture")
    data = bytearray(path.read_bytes())
    data[start : start + len(block)] = block
    path.write_bytes(data)
    found, (note,) = read(path)
    assert (found.x_nm, found.y_nm) == pytest.approx((12, 10))
    assert "Olympus" in note


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (text(34682, "[User]\r\nDate=1\r\n"), "34682 (FEI/Thermo Fisher)"),
        (text(34118, "nothing\r\n"), "34118 (Zeiss)"),
        (text(34683, "<Root/>"), "34683 (FEI/Thermo Fisher)"),
        (text(51023, "<Fibics/>"), "51023 (Fibics)"),
        (tvips(1, 12), "37706 (TVIPS)"),
        ({"extratags": [(33560, "B", 20, bytes(20), True)]}, "33560 (Olympus SIS)"),
        (gatan("1/nm", 12.0), "12.0 1/nm x 12.0 1/nm"),
        ({"extratags": [(code, "d", 1, 12.0, True) for code in (65009, 65010)]}, "12.0 of no unit"),
    ],
)
def test_a_microscopes_tag_without_a_size_is_named(said, options, says):
    found, (note,) = said(**options)
    assert found is None
    assert says in note
    assert REMEDY in note


def test_the_descriptions_size_goes_before_the_microscopes(said):
    options = imagej("nm", resolution=(0.125, 0.125)) | gatan("nm", 12.0)
    assert said(**options) == (size(8), ())


def test_sizes_within_one_percent_are_one_size(tmp_path):
    assert same_size(size(4), size(4.03))
    assert same_size(None, None)
    assert not same_size(size(4), size(4, 4.1))
    assert not same_size(size(4), None)
    for name, per_cm in (("a.tif", 2_500_000), ("b.tif", 2_500_001)):
        tifffile.imwrite(tmp_path / name, IMAGE_YX, **PLAIN, resolution=(per_cm, per_cm), resolutionunit=3)
    with open_images(tmp_path) as folder:
        assert (folder.info.pixel_size, folder.notes) == (size(4), ())
    tifffile.imwrite(
        tmp_path / "c.tif", IMAGE_YX, **PLAIN, resolution=(2_000_000, 2_000_000), resolutionunit=3
    )
    with open_images(tmp_path) as folder:
        assert folder.info.pixel_size is None
        assert "different pixel sizes (4 x 4 nm in a.tif and 5 x 5 nm in c.tif)" in folder.notes[0]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (0.004, "did you mean 4 nm? this looks like micrometres"),
        (4e-6, "did you mean 4 nm? this looks like millimetres"),
        (4e-9, "did you mean 4 nm? this looks like metres"),
        (4000.0, "did you mean 4 nm? this looks like picometres"),
        (150.0, "did you mean 15 nm? this looks like ångströms"),
        (0.4, "expected 0.5 to 100 nm; pass"),
        (-4.0, "expected 0.5 to 100 nm; pass"),
        (float("nan"), "expected 0.5 to 100 nm; pass"),
        (float("inf"), "expected 0.5 to 100 nm; pass"),
    ],
)
def test_a_size_in_another_unit_is_refused_with_the_one_that_was_meant(given, says):
    with pytest.raises(UsageError) as raised:
        choose_scaling(4.0, given, None)
    assert says in str(raised.value)


@pytest.mark.parametrize("given", [0.5, 4.0, 100.0])
def test_a_size_of_a_section_is_accepted(given):
    check_pixel_size(given)


@pytest.mark.parametrize(
    ("nm", "says"),
    [(8.1, "may be missed, and 4.1 times the pixels"), (1.9, "averaged away"), (8.0, ""), (2.0, "")],
)
@pytest.mark.parametrize("given", [True, False])
def test_a_size_far_from_the_models_says_what_it_costs(nm, says, given):
    scaling, notes = choose_scaling(4.0, nm if given else None, None if given else size(nm))
    assert scaling.x == nm / 4
    assert len(notes) == 1 + bool(says)
    assert says in notes[-1]


def test_a_file_without_a_size_says_at_which_it_was_taken_and_an_array_does_not(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", IMAGE_YX, **PLAIN)
    segmenter = Segmenter(provider="cpu")
    size_nm = segmenter.contract.pixel_size_nm
    taken = f"taken for the model's {size_nm:g} nm"
    with open_source(tmp_path / "in.tif") as source:
        assert sum(taken in note for note in segmenter.plan_source(source).notes) == 1
        given = Segmenter(provider="cpu", pixel_size=size_nm).plan_source(source).notes
    assert not any(
        taken in note for note in (*segmenter.plan(IMAGE_YX.shape).notes, *segmenter.notes, *given)
    )


SOURCES = {
    "plain": (PLAIN, None),
    "plain with a size": (PLAIN | {"resolution": (1_250_000, 1_250_000), "resolutionunit": 3}, None),
    "ImageJ": ({"imagej": True, "metadata": {"axes": "ZYX"}}, None),
    "ImageJ with a size": (
        {
            "imagej": True,
            "resolution": (125, 100),
            "metadata": {"axes": "ZYX", "spacing": 0.05, "unit": "um"},
        },
        50,
    ),
    "OME": ({"ome": True, "photometric": "minisblack", "metadata": {"axes": "ZYX"}}, None),
    "OME with a size": (
        {
            "ome": True,
            "photometric": "minisblack",
            "metadata": {
                "axes": "ZYX",
                **ome(8, 10, "nm"),
                "PhysicalSizeZ": 30,
                "PhysicalSizeZUnit": "nm",
            },
        },
        30,
    ),
}
STACK_ZYX = np.stack([IMAGE_YX, IMAGE_YX[::-1]])


def stack(folder, kind="plain"):
    tifffile.imwrite(folder / "in.tif", STACK_ZYX, **SOURCES[kind][0])
    return folder / "in.tif"


@pytest.fixture(scope="module")
def at_5():
    """The default model, told that pixels have its own size: nothing is resampled."""
    return Segmenter(provider="cpu", pixel_size=5)


@pytest.fixture(scope="module")
def at_4_6():
    return Segmenter(provider="cpu", pixel_size=4.6)


@pytest.mark.parametrize("name", ["out.tif", "out.ome.zarr"])
@pytest.mark.parametrize("kind", SOURCES)
def test_a_result_carries_the_size_that_was_given_and_the_distance_of_sections_of_its_source(
    tmp_path, at_4_6, at_5, kind, name
):
    path, z_nm = stack(tmp_path, kind), SOURCES[kind][1]
    with open_source(path) as source:
        own = source.info
    for model, side in ((at_4_6, 4.6), (at_5, 5)):
        out = tmp_path / f"{side} {name}"
        model.segment_file(path, out)
        with open_source(out) as result:
            assert result.info.pixel_size == size(side, z_nm=z_nm)
            if name == "out.tif":
                assert (result.info.kind, result.info.axes) == (own.kind, own.axes)


@pytest.mark.parametrize("name", ["out.tif", "out.ome.zarr"])
@pytest.mark.parametrize("kind", SOURCES)
def test_a_result_carries_the_size_of_its_source_where_none_is_given(tmp_path, segmenter, kind, name):
    path = stack(tmp_path, kind)
    segmenter.segment_file(path, tmp_path / name)
    with open_source(path) as source, open_source(tmp_path / name) as result:
        assert result.info.pixel_size == source.info.pixel_size


def test_a_size_that_was_given_changes_metadata_and_no_pixel_where_nothing_is_resampled(
    tmp_path, segmenter, at_5
):
    path = stack(tmp_path)
    for model, out in ((segmenter, tmp_path / "none.tif"), (at_5, tmp_path / "given.tif")):
        model.segment_file(path, out)
    none_ZYX, given_ZYX = (tifffile.imread(tmp_path / name) for name in ("none.tif", "given.tif"))
    np.testing.assert_array_equal(none_ZYX, given_ZYX)


def test_smaller_levels_of_a_result_are_of_the_size_that_was_given(tmp_path, at_4_6):
    large_ZYX = np.tile(STACK_ZYX, (1, 5, 5))
    tifffile.imwrite(tmp_path / "in.tif", large_ZYX, **PLAIN)
    at_4_6.segment_file(tmp_path / "in.tif", tmp_path / "out.ome.zarr", options=VolumeOptions(pyramid=True))
    attributes = json.loads((tmp_path / "out.ome.zarr" / "zarr.json").read_text())["attributes"]
    (image,) = attributes["ome"]["multiscales"]
    steps = [level["coordinateTransformations"][0]["scale"] for level in image["datasets"]]
    assert steps == [[1, 4.6, 4.6], [1, 9.2, 9.2]]
    assert [axis.get("unit") for axis in image["axes"]] == [None, "nanometer", "nanometer"]


def test_all_that_a_run_writes_carries_the_size_that_was_given(tmp_path):
    program = Path(sys.executable).with_name("isbi-infer")
    asked = ["--pixel-size", "4.6", "--provider", "cpu", "--labels", "ids.tif", "--report", "report.html"]
    command = [program, stack(tmp_path, "ImageJ with a size"), "-o", "out.tif", *asked]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("out.tif", "ids.tif"):
        assert read(tmp_path / name)[0] == size(4.6, z_nm=50)
    assert "4.6 x 4.6 nm (x, y)" in (tmp_path / "report.html").read_text()
    with (tmp_path / "ids.csv").open() as table:
        for cell in csv.DictReader(table):
            volume_um3 = int(cell["pixels"]) * 0.0046**2 * 0.05
            assert float(cell["volume_um3"]) == pytest.approx(volume_um3, rel=1e-5)


def test_a_result_is_verified_and_gone_on_with_at_the_size_that_was_given(tmp_path, segmenter, at_5, at_4_6):
    path, out = stack(tmp_path), tmp_path / "out.ome.zarr"
    at_5.segment_file(path, out)
    again = VolumeOptions(resume=True)
    assert any("is finished already" in note for note in at_5.segment_file(path, out, options=again).notes)
    with open_source(path) as source:
        for model in (at_5, segmenter):  # of the same pixels
            assert model.verify(out, source) == (0,)
        with pytest.raises(UsageError, match="cannot be verified, for this is another run: scaling"):
            at_4_6.verify(out, source)
    with pytest.raises(UsageError, match=r"source\.pixel_size\.x_nm: 5\.0, now None"):
        segmenter.segment_file(path, out, options=again)
    assert read(out)[0] == size(5)


@pytest.mark.parametrize("name", ["out.tif", "out.ome.zarr"])
def test_a_run_that_was_cut_off_is_gone_on_with_only_at_the_size_that_it_was_begun_at(
    tmp_path, segmenter, at_5, name
):
    class StoppedError(Exception):
        pass

    def stop(done, total):
        if done > 1:
            raise StoppedError

    path = stack(tmp_path)
    block = None if name == "out.tif" else (1, 256, 256)
    options = VolumeOptions(resume=True, block=block)
    with pytest.raises(StoppedError):
        at_5.segment_file(path, tmp_path / name, options=options, progress=stop)
    with pytest.raises(UsageError, match=r"source\.pixel_size\.x_nm: 5\.0, now None"):
        segmenter.segment_file(path, tmp_path / name, options=options)
    at_5.segment_file(path, tmp_path / name, options=options)
    at_5.segment_file(path, tmp_path / f"whole {name}", options=VolumeOptions(block=block))
    assert read(tmp_path / name)[0] == size(5)
    if name == "out.tif":
        assert (tmp_path / name).read_bytes() == (tmp_path / f"whole {name}").read_bytes()


def test_shares_of_a_run_are_of_one_size(tmp_path, segmenter, at_5):
    path, out = stack(tmp_path), tmp_path / "out.ome.zarr"
    first, second = (VolumeOptions(share=(n, 2), block=(1, 256, 256)) for n in (1, 2))
    at_5.segment_file(path, out, options=first)
    with pytest.raises(UsageError, match=r"source\.pixel_size\.x_nm: 5\.0, now None"):
        segmenter.segment_file(path, out, options=second)
    at_5.segment_file(path, out, options=second)
    assert read(out)[0] == size(5)
