"""OME-Zarr in and out: the same probabilities as the TIFF run, whatever the version, the axes and the levels."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import tifffile
import yaozarrs
import zarr
from drawn import synthetic_stack
from servers import serving
from volume_files import halved, pixels, write_named, write_omezarr

from isbi_infer import Segmenter
from isbi_infer.errors import ImageError, OutputError, UsageError
from isbi_infer.run.mask import opened_mask
from isbi_infer.run.volume import VolumeOptions
from isbi_infer.volumes import Block, PixelSize, open_source
from isbi_infer.volumes.zarr.metadata import n5_image

CHALLENGE = Path(__file__).parents[3] / ".." / "shared" / "data" / "isbi2012" / "test-volume.tif"


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_omezarr_gives_the_very_probabilities_of_its_tiff(
    tmp_path, volume_ZYX, tiles, expected_ZYX, version
):
    path = write_omezarr(tmp_path / "in.ome.zarr", [volume_ZYX], version=version)
    tiles.segment_file(path, tmp_path / "out.ome.zarr")
    np.testing.assert_array_equal(pixels(tmp_path / "out.ome.zarr"), expected_ZYX)


@pytest.mark.skipif(not CHALLENGE.is_file(), reason=f"the challenge's test volume is not at {CHALLENGE}")
def test_the_challenges_test_volume_in_omezarr_gives_the_very_probabilities_of_the_tiff(tmp_path):
    sections_ZYX = tifffile.imread(CHALLENGE)
    path = write_omezarr(tmp_path / "in.ome.zarr", [sections_ZYX])
    model = Segmenter(provider="cpu", precision="int8", pixel_size=4)
    model.segment_file(CHALLENGE, tmp_path / "out.tif")
    options = VolumeOptions(block=(4, 256, 512))
    model.segment_file(path, tmp_path / "out.ome.zarr", options=options)
    expected_ZYX = tifffile.imread(tmp_path / "out.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "out.ome.zarr"), expected_ZYX)


def test_tiff_goes_into_omezarr_and_back(tmp_path, tiff, tiles, expected_ZYX, volume_ZYX):
    tiles.segment_file(tiff, tmp_path / "out.ome.zarr")
    np.testing.assert_array_equal(pixels(tmp_path / "out.ome.zarr"), expected_ZYX)
    back = tmp_path / "back.tif"
    tiles.segment_file(write_omezarr(tmp_path / "in.ome.zarr", [volume_ZYX]), back)
    np.testing.assert_array_equal(tifffile.imread(back), expected_ZYX)
    with open_source(back) as source:
        assert source.info.pixel_size == PixelSize(y_nm=4, x_nm=4, z_nm=50)


def test_the_result_is_valid_ome_zarr_and_says_how_it_was_made(tmp_path, tiff, tiles):
    out = tmp_path / "out.ome.zarr"
    tiles.segment_file(tiff, out, options=VolumeOptions(pyramid=True))
    yaozarrs.validate_zarr_store(str(out))
    attributes = json.loads((out / "zarr.json").read_text())["attributes"]
    (image,) = attributes["ome"]["multiscales"]
    assert [axis["name"] for axis in image["axes"]] == ["z", "y", "x"]
    assert {axis["unit"] for axis in image["axes"]} == {"nanometer"}
    steps = [level["coordinateTransformations"] for level in image["datasets"]]
    # Sections are 50 nm apart, so that they stay until pixels are as large.
    assert [step[0]["scale"] for step in steps] == [[50, 4, 4], [50, 8, 8], [50, 16, 16]]
    assert [step[1]["translation"] for step in steps[1:]] == [[0, 2, 2], [0, 6, 6]]
    own = attributes["isbi-infer"]
    assert own["model_sha256"] == tiles.model_sha256
    assert own["contract"]["halo"] == tiles.contract.halo
    assert own["plan"]["layout"]["shape"] == [5, 560, 640]
    assert "cell interior" in own["provenance"]


def test_the_result_is_what_the_reader_of_ome_zarr_shows(tmp_path, tiff, tiles, expected_ZYX):
    pytest.importorskip("ome_zarr", reason="ome-zarr is not installed; it pins fsspec to an older release")
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    out = tmp_path / "out.ome.zarr"
    tiles.segment_file(tiff, out, options=VolumeOptions(pyramid=True, block=(2, 512, 512)))
    (image,) = Reader(parse_url(str(out)))()
    np.testing.assert_array_equal(np.asarray(image.data[0]), expected_ZYX)
    assert [level.shape for level in image.data] == [(5, 560, 640), (5, 280, 320), (5, 140, 160)]
    scales = [steps[0]["scale"] for steps in image.metadata["coordinateTransformations"]]
    assert scales == [[50, 4, 4], [50, 8, 8], [50, 16, 16]]
    assert [axis["unit"] for axis in image.metadata["axes"]] == ["nanometer"] * 3


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_neuroglancer_knows_all_that_a_result_is_made_of(tmp_path, tiff, tiles, dtype):
    """As of src/datasource/zarr in its repository: versions, transforms, units and codecs that it reads."""
    out = tmp_path / "out.ome.zarr"
    tiles.segment_file(tiff, out, dtype=dtype, options=VolumeOptions(pyramid=True))
    ome = json.loads((out / "zarr.json").read_text())["attributes"]["ome"]
    assert ome["version"] in ("0.4", "0.5-dev", "0.5")
    (image,) = ome["multiscales"]
    assert {axis["type"] for axis in image["axes"]} == {"space"}
    assert {axis["unit"] for axis in image["axes"]} <= {"nanometer", "micrometer"}
    for level in image["datasets"]:
        kinds = [step["type"] for step in level["coordinateTransformations"]]
        assert kinds in (["scale"], ["scale", "translation"])
        array = json.loads((out / level["path"] / "zarr.json").read_text())
        assert array["node_type"] == "array"
        assert array["data_type"] in ("float32", "uint8")
        assert len(array["shape"]) == len(image["axes"])
        assert array["dimension_names"] == [axis["name"] for axis in image["axes"]]
        assert array["chunk_grid"]["name"] == "regular"
        assert array["chunk_key_encoding"]["name"] in ("default", "v2")
        (sharding,) = array["codecs"]
        assert sharding["name"] == "sharding_indexed"
        how = sharding["configuration"]
        assert how.get("index_location", "end") == "end"
        assert {codec["name"] for codec in how["index_codecs"]} <= {"bytes", "crc32c"}
        assert {codec["name"] for codec in how["codecs"]} <= {"bytes", "blosc", "zstd", "gzip", "transpose"}
        outer = array["chunk_grid"]["configuration"]["chunk_shape"]
        assert not any(a % b for a, b in zip(outer, how["chunk_shape"], strict=True))


def test_smaller_levels_hold_the_means_of_the_larger_ones(tmp_path, tiff, tiles, expected_ZYX):
    tiles.segment_file(tiff, tmp_path / "out.ome.zarr", options=VolumeOptions(pyramid=True))
    group = zarr.open_group(tmp_path / "out.ome.zarr", mode="r")
    np.testing.assert_allclose(group["1"][...], halved(expected_ZYX), rtol=1e-6)
    np.testing.assert_allclose(group["2"][...], halved(halved(expected_ZYX)), rtol=1e-6)


def test_the_level_nearest_to_the_models_pixel_size_is_taken(tmp_path, volume_ZYX, tiles, expected_ZYX):
    finer_ZYX = volume_ZYX.repeat(2, axis=1).repeat(2, axis=2)
    path = write_omezarr(tmp_path / "in.ome.zarr", [finer_ZYX, volume_ZYX], scale=(50, 2, 2))
    summary = tiles.segment_file(path, tmp_path / "out.ome.zarr")
    np.testing.assert_array_equal(pixels(tmp_path / "out.ome.zarr"), expected_ZYX)
    assert any("level s1 of 4 nm is read, one of 2" in note for note in summary.notes)
    assert not any("resampled" in note for note in summary.notes)


@pytest.mark.parametrize(("level", "shape"), [("s1", (2, 8, 8)), ("0", (2, 16, 16)), (None, (2, 16, 16))])
def test_a_level_is_read_by_name_or_number(tmp_path, level, shape):
    stack_ZYX = np.arange(512, dtype=np.uint16).reshape(2, 16, 16)
    path = write_omezarr(tmp_path / "in.zarr", [stack_ZYX, halved(stack_ZYX)])
    with open_source(path, level=level) as source:
        assert source.info.shape == shape
    with pytest.raises(
        ImageError, match=r"in\.zarr: has no level 7; its levels are s0 \(4 nm\), s1 \(8 nm\)"
    ):
        open_source(path, level="7")
    with pytest.raises(ImageError, match=r"in\.zarr: has no level 9{100}; its levels are s0"):
        open_source(path, level="9" * 5000)  # more digits than Python reads


@pytest.mark.parametrize("names", [("1", "2", "0"), ("2", "1", "0"), ("s0", "s1", "s2")])
def test_a_source_of_any_level_is_opened_again_at_that_level(tmp_path, names):
    levels = [np.arange(2 * side * side, dtype=np.uint16).reshape(2, side, side) for side in (32, 16, 8)]
    path = write_omezarr(tmp_path / "in.zarr", levels, names=names)
    opened = [
        *((name, open_source(path, level=name)) for name in names),
        *((names[number], open_source(path, level=number)) for number in range(3)),
        *((names[i], open_source(path).nearest(nm)) for i, nm in enumerate((4, 8, 16))),
    ]
    for name, source in opened:
        with source, pickle.loads(pickle.dumps(source)) as again:
            np.testing.assert_array_equal(source.read(1), levels[names.index(name)][1])
            np.testing.assert_array_equal(again.read(1), levels[names.index(name)][1])
            assert (again.info, again.notes) == (source.info, source.notes)
            assert again.fingerprint() == source.fingerprint()


def test_channel_and_time_of_five_axes_are_chosen(tmp_path):
    stack = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.uint16).reshape(2, 3, 4, 5, 6)
    path = write_omezarr(tmp_path / "in.zarr", [stack], "tczyx", (1, 1, 50, 4, 4))
    with open_source(path, channel=2, time=1) as source:
        assert source.info.pixel_size == PixelSize(y_nm=4, x_nm=4, z_nm=50)
        for z in range(4):
            np.testing.assert_array_equal(source.read(z), stack[1, 2, z])
        window = slice(1, 4), slice(2, 5)
        np.testing.assert_array_equal(source.read(3, window), stack[1, 2, 3][window])
    for wanted, said in (
        ({}, "holds 2 time points, axes tczyx of sizes .*; choose one with --time"),
        ({"time": 0}, "holds 3 channels, .* choose one with --channel"),
        ({"time": 0, "channel": 3}, "has no --channel 3; it holds 3 channels"),
    ):
        with pytest.raises(ImageError, match=said):
            open_source(path, **wanted)


def test_axes_in_another_order_are_read_by_their_names(tmp_path):
    stack_ZYX = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    path = write_omezarr(tmp_path / "in.zarr", [np.moveaxis(stack_ZYX, 0, 2)], "yxz", (4, 5, 50))
    with open_source(path) as source:
        np.testing.assert_array_equal(np.stack([source.read(z) for z in range(3)]), stack_ZYX)
        assert source.info.pixel_size == PixelSize(y_nm=4, x_nm=5, z_nm=50)


NAMED = ["zarr2", "zarr3", "zarr3 of xarray", "ome"]


def all_of(source):
    return np.stack([source.read(z) for z in range(source.info.sections)])


@pytest.mark.parametrize("form", NAMED)
@pytest.mark.parametrize("order", ["zyx", "zxy", "yzx", "yxz", "xzy", "xyz"])
@pytest.mark.parametrize("words", [None, {"z": "Plane", "y": "row", "x": " Column"}])
def test_named_axes_of_any_order_are_read_by_their_names(tmp_path, form, order, words):
    stack_ZYX = np.arange(3 * 70 * 50, dtype=np.uint16).reshape(3, 70, 50)
    stored = stack_ZYX.transpose(["zyx".index(axis) for axis in order])
    names = [words[axis] if words else axis.upper() for axis in order]
    with open_source(write_named(tmp_path / "in.zarr", stored, names, form)) as source:
        assert (source.info.shape, source.info.axes, source.notes) == ((3, 70, 50), "ZYX", ())
        np.testing.assert_array_equal(all_of(source), stack_ZYX)
        window = slice(60, 70), slice(3, 20)
        np.testing.assert_array_equal(source.read(2, window), stack_ZYX[2][window])


@pytest.mark.parametrize("form", NAMED)
def test_a_volume_of_axes_x_y_z_gives_the_very_probabilities_of_its_tiff(
    tmp_path, volume_ZYX, tiny, tiny_ZYX, form
):
    path = write_named(tmp_path / "in.zarr", volume_ZYX.T, list("xyz"), form)
    Segmenter(tiny, provider="cpu", pixel_size=4).segment_file(path, tmp_path / "out.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), tiny_ZYX)


@pytest.mark.parametrize("form", NAMED)
@pytest.mark.parametrize(("order", "channel"), [("yxc", "c"), ("cxyz", "channel"), ("xycz", "Channels")])
def test_named_channels_are_never_taken_for_sections(tmp_path, form, order, channel):
    sizes = {"z": 4, "y": 6, "x": 7, "c": 3}
    stored = np.arange(np.prod([sizes[axis] for axis in order]), dtype=np.uint16)
    stored = stored.reshape([sizes[axis] for axis in order])
    names = [channel if axis == "c" else axis for axis in order]
    path = write_named(tmp_path / "in.zarr", stored, names, form)
    with pytest.raises(ImageError, match=r"in\.zarr: holds 3 channels, axes .* choose one with --channel"):
        open_source(path)
    rest = order.replace("c", "")
    second = np.take(stored, 1, order.index("c"))
    expected = second.transpose([rest.index(axis) for axis in "zyx" if axis in rest])
    with open_source(path, channel=1) as source:
        np.testing.assert_array_equal(all_of(source), expected.reshape(-1, 6, 7))


@pytest.mark.parametrize("form", ["zarr2", "zarr3"])
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["dim_0", "dim_1", "dim_2"], "dim_0, dim_1, dim_2"),
        (["bundle", "y", "x"], "bundle, y, x"),
        ([None, "y", "x"], "nothing, y, x"),
        (["z", "lat", "lon"], "z, lat, lon"),
    ],
)
def test_names_that_are_not_understood_are_taken_for_those_of_an_array_without_names_and_said(
    tmp_path, form, names, said
):
    stack_ZYX = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    with open_source(write_named(tmp_path / "in.zarr", stack_ZYX, names, form)) as source:
        np.testing.assert_array_equal(all_of(source), stack_ZYX)
        assert source.notes == (f"its axes are named {said}: taken for z, y, x",)


def test_the_names_of_xarray_count_where_zarr_3_names_none(tmp_path):
    stack_ZYX = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    path = write_named(tmp_path / "in.zarr", stack_ZYX.transpose(2, 1, 0), ["x", "y", "z"], "zarr3 of xarray")
    document = json.loads((path / "zarr.json").read_text())
    (path / "zarr.json").write_text(json.dumps(document | {"dimension_names": [None] * 3}))
    with open_source(path) as source:
        np.testing.assert_array_equal(all_of(source), stack_ZYX)


@pytest.mark.parametrize("form", ["zarr2", "zarr3"])
@pytest.mark.parametrize("names", [None, [None, None, None]])
def test_an_array_without_names_is_taken_for_sections_without_a_word(tmp_path, form, names):
    stack_ZYX = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    with open_source(write_named(tmp_path / "in.zarr", stack_ZYX, names, form)) as source:
        np.testing.assert_array_equal(all_of(source), stack_ZYX)
        assert source.notes == ()


@pytest.mark.parametrize(
    ("form", "names", "said"),
    [
        (
            "zarr2",
            ["bundle", "x", "y"],
            "has axes named bundle, x, y; expected t, c, z, y and x; name them so",
        ),
        (
            "zarr3",
            ["bundle", "x", "y"],
            "has axes named bundle, x, y; expected t, c, z, y and x; name them so",
        ),
        ("zarr3", ["x", "lat", "lon"], "has axes named x, lat, lon; expected"),
        ("zarr3", ["a", "b", "y", "x"], "has axes named a, b, y, x; expected"),
        ("zarr2", ["z", "plane", "x"], "has axes named z, plane, x; expected"),
        ("zarr2", ["y", "y", "x"], "has axes named y, y, x; expected"),
        ("zarr2", "zyx", "has axes named zyx; expected"),
        ("zarr2", ["y", "x"], "has 3 dimensions and axes for 2"),
        ("zarr2", ["t", "z", "y"], "has axes tzy; expected at least y and x"),
        ("zarr3", ["t", "z", "y"], "has axes tzy; expected at least y and x"),
        ("ome", ["bundle", "y", "x"], "has the axes bundle, y, x; expected t, c, z, y and x"),
        ("ome", ["z", "plane", "x"], "has the axes z, plane, x; expected t, c, z, y and x"),
        ("ome", ["t", "z", "y"], "has axes tzy; expected at least y and x"),
    ],
)
def test_axes_whose_place_cannot_be_known_are_refused_by_their_names(tmp_path, form, names, said):
    stored = np.zeros((1, 1, 4, 5) if len(names) == 4 else (1, 4, 5), np.uint8)
    path = write_named(tmp_path / "in.zarr", stored, names, form)
    with pytest.raises(ImageError, match=rf"in\.zarr: {said}") as raised:
        open_source(path)
    assert raised.value.exit_code == 4


def test_a_level_that_names_other_axes_than_its_image_is_said(tmp_path):
    stack_ZYX = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    for names, notes in (
        (["Z", "Y", "X"], ()),
        (["dim_0", "dim_1", "dim_2"], ()),
        (["x", "y", "z"], ("level s0 names its axes x, y, z, the image z, y, x: the image's are taken",)),
    ):
        path = write_omezarr(tmp_path / "in.zarr", [stack_ZYX], dimension_names=names)
        with open_source(path) as source:
            np.testing.assert_array_equal(all_of(source), stack_ZYX)
            assert source.notes == notes


@pytest.mark.parametrize("driver", ["n5", "neuroglancer_precomputed", "zarr", "zarr3"])
def test_what_other_programs_write_is_read(tmp_path, driver):
    stack_ZYX = np.arange(3 * 40 * 50, dtype=np.uint16).reshape(3, 40, 50)
    stack = stack_ZYX
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(tmp_path / "in")}, "create": True}
    if driver == "n5":
        stack = stack_ZYX.T
        spec["metadata"] = {"dataType": "uint16", "dimensions": stack.shape, "blockSize": [16, 16, 2]}
    elif driver == "neuroglancer_precomputed":
        stack = stack_ZYX.T[..., None]
        spec["scale_metadata"] = {"resolution": [4, 4, 50], "size": stack.shape[:3], "encoding": "raw"}
        spec["multiscale_metadata"] = {"data_type": "uint16", "num_channels": 1, "type": "image"}
    store = tensorstore.open(spec, dtype="uint16", shape=stack.shape).result()
    store.write(stack).result()
    if driver == "n5":
        attributes = json.loads((tmp_path / "in" / "attributes.json").read_text())
        size = {"pixelResolution": {"dimensions": [4, 4, 50], "unit": "nm"}}
        (tmp_path / "in" / "attributes.json").write_text(json.dumps(attributes | size))
    with open_source(tmp_path / "in") as source:
        np.testing.assert_array_equal(np.stack([source.read(z) for z in range(3)]), stack_ZYX)
        known = PixelSize(y_nm=4, x_nm=4, z_nm=50)
        assert source.info.pixel_size == (None if driver.startswith("zarr") else known)


def write_precomputed(path, stack_ZYX, kind, voxel_offset=(0, 0, 0), sides_nm=((4, 4, 50),)):
    """Write levels of the same pixels, of which only the sizes differ."""
    for sides in sides_nm:
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": str(path)},
            "multiscale_metadata": {"data_type": stack_ZYX.dtype.name, "num_channels": 1, "type": kind},
            "scale_metadata": {
                "resolution": list(sides),
                "size": list(stack_ZYX.shape[::-1]),
                "voxel_offset": list(voxel_offset),
                "encoding": "raw",
            },
        }
        store = tensorstore.open(spec, create=True).result()
        store[..., 0] = stack_ZYX.T
    return path


def test_a_precomputed_volume_keeps_its_place(tmp_path):
    stack_ZYX = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    path = write_precomputed(tmp_path / "in", stack_ZYX, "image", (10, 20, 30), [(4, 4, 50), (8, 8, 50)])
    for level, origin_nm in enumerate(
        [(1500, 80, 40), (1500, 162, 82)]
    ):  # corners are in common, not centres
        with open_source(path, level=level) as source:
            np.testing.assert_array_equal(all_of(source), stack_ZYX)
            assert source.info.origin_nm == origin_nm
    with open_source(write_precomputed(tmp_path / "at 0", stack_ZYX, "image")) as source:
        assert source.info.origin_nm is None


@pytest.mark.parametrize("form", ["precomputed", "0.4", "0.5"])
def test_segments_are_no_grey_values_but_may_be_labels_and_masks(tmp_path, form):
    ids_ZYX = np.arange(60, dtype=np.uint32).reshape(3, 4, 5)
    path = tmp_path / "ids"
    if form == "precomputed":
        write_precomputed(path, ids_ZYX, "segmentation")
    else:
        attributes = zarr.open_group(write_omezarr(path, [ids_ZYX], version=form)).attrs
        said = {"image-label": {"version": form}}
        attributes.update(said if form == "0.4" else {"ome": attributes["ome"] | said})
    with pytest.raises(ImageError, match=r"ids: holds ids of segments.*; expected grey values"):
        open_source(path)
    with open_source(path, grey=False) as source:
        np.testing.assert_array_equal(all_of(source), ids_ZYX)
    with opened_mask(path, ids_ZYX.shape) as (mask, _):
        assert mask.holds(Block(0, (0, 3), (0, 4), (0, 5)))


@pytest.mark.parametrize("form", ["zarr2", "zarr3"])
@pytest.mark.parametrize("names", [None, ["dim_0", "dim_1", "dim_2"]])
def test_colour_samples_of_an_array_without_names_are_never_taken_for_pixels(tmp_path, form, names):
    image_YXC = np.zeros((6, 7, 3), np.uint8)
    path = write_named(tmp_path / "in.zarr", image_YXC, names, form)
    says = r"has the shape \(6, 7, 3\), which looks like \(y, x, c\) with 3 colour samples.*; name them"
    with pytest.raises(ImageError, match=says):
        open_source(path)
    with open_source(write_named(tmp_path / "zyx.zarr", image_YXC, list("zyx"), form)) as source:
        assert source.info.shape == (6, 7, 3)
    with open_source(write_named(tmp_path / "yxc.zarr", image_YXC, list("yxc"), form), channel=2) as source:
        assert source.info.shape == (6, 7)


@pytest.mark.parametrize(
    "size", [{"pixelResolution": {"unit": "nm", "dimensions": [4, 4, 50]}}, {"resolution": [4, 4, 50]}]
)
@pytest.mark.parametrize(
    ("group", "levels", "sides_nm"),
    [
        ({"scales": [[1, 1, 1], [2, 2, 1]]}, ({}, {}), (4, 8)),
        ({"downsamplingFactors": [[1, 1, 1], [4, 4, 1]]}, ({}, {}), (4, 16)),
        ({"scales": [[1, 1, 1], [2, 2, 1]]}, ({}, {"downsamplingFactors": [3, 3, 1]}), (4, 12)),
        ({"scales": [[1, 1, 1]]}, ({}, {}), (4, None)),
        ({}, ({}, {}), (4, None)),
        ({"scales": 2}, ({}, {"downsamplingFactors": [2, 2, 1]}), (4, 8)),
        ({"downsamplingFactors": [2, 2, 1]}, ({}, {}), (4, None)),
    ],
)  # fmt: skip
def test_levels_of_n5_have_their_own_sizes_wherever_the_factors_stand(size, group, levels, sides_nm):
    children = {f"s{i}": {"dimensions": [8, 8, 4]} | level for i, level in enumerate(levels)}
    image = n5_image(group | size, children)
    expected = [side and PixelSize(y_nm=side, x_nm=side, z_nm=50) for side in sides_nm]
    assert [level.pixel_size for level in image.levels] == expected


@pytest.fixture
def served(tmp_path):
    """The address of a server of a folder, for the length of a test."""
    with serving(tmp_path) as server:
        yield server.address


@pytest.mark.parametrize("version", [pytest.param("0.4", marks=pytest.mark.more), "0.5"])
def test_a_volume_behind_an_address_is_read(served, tmp_path, volume_ZYX, tiles, expected_ZYX, version):
    write_omezarr(tmp_path / "in.ome.zarr", [volume_ZYX], version=version)
    tiles.segment_file(f"{served}/in.ome.zarr", tmp_path / "out.ome.zarr")
    np.testing.assert_array_equal(pixels(tmp_path / "out.ome.zarr"), expected_ZYX)
    with pytest.raises(ImageError, match=r"holds no zarr\.json"):
        open_source(f"{served}/missing.zarr")


def test_a_fingerprint_follows_the_pixels_and_not_the_chunks_that_are_read(tmp_path):
    stack_ZYX = np.random.default_rng(0).integers(0, 255, (3, 200, 300), np.uint8)
    path = write_omezarr(tmp_path / "in.zarr", [stack_ZYX])

    def fingerprint():
        with open_source(path) as source:
            return source.fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    array = zarr.open_array(path / "s0", mode="r+")
    array[...] = stack_ZYX + 1  # the metadata stay
    changed = fingerprint()
    assert changed.split(", ")[0] == first.split(", ")[0]
    assert changed != first
    array[...] = stack_ZYX
    assert fingerprint() == first
    shutil.rmtree(path / "s0" / "c" / "0")  # missing chunks are no error before they are needed
    with open_source(path) as source:
        assert source.fingerprint() != first
        assert source.found() == ()


def test_missing_chunks_are_said_and_an_error_where_that_is_asked(tmp_path):
    stack_ZYX = np.full((130, 64, 128), 9, np.uint8)
    path = write_omezarr(tmp_path / "in.zarr", [stack_ZYX])
    (path / "s0" / "c" / "1" / "0" / "1").unlink()
    with open_source(path) as source:
        assert source.read(3).min() == 9
        assert source.found() == ()
        np.testing.assert_array_equal(source.read(70), [[9] * 64 + [0] * 64] * 64)
        (said,) = source.found()
        assert said.startswith("chunks are missing in section 70: read as the fill value")
    with open_source(path, strict=True) as source:
        source.read(3)
        with pytest.raises(ImageError, match=r"in\.zarr: section 70 cannot be read \(.*NOT_FOUND"):
            source.read(70)


def bad(path, **options):
    return write_omezarr(path, [np.zeros((2, 8, 8), np.uint8)], **options)


def rewritten(path, **changes):
    document = json.loads((bad(path) / "zarr.json").read_text())
    document["attributes"]["ome"] |= changes
    (path / "zarr.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: bad(p, version="0.6.dev3"), "is of OME-Zarr version 0.6.dev3; expected 0.4 or 0.5"),
        (
            lambda p: bad(p, transforms=[{"type": "rotation", "rotation": [1]}]),
            "has a transform of type 'rotation'; expected scale and translation alone",
        ),
        (
            lambda p: bad(p, scale=(1, 1, 1), transforms=[{"type": "scale", "scale": [1]}]),
            "a scale of 1 numbers",
        ),
        (lambda p: rewritten(p, multiscales=[]), "has no multiscales metadata"),
        (lambda p: rewritten(p, multiscales=[], plate={}), "is a plate of wells"),
        (lambda p: rewritten(p, multiscales=[{}]), "its multiscales are not readable"),
        (lambda p: (bad(p) / "zarr.json").write_text("{"), "zarr.json is no JSON"),
        (
            lambda p: (bad(p) / "zarr.json").write_text('{"zarr_format": 4}'),
            "is of Zarr format 4; expected 2 or 3",
        ),
        (lambda p: (bad(p) / "s0" / "zarr.json").unlink(), "level s0 cannot be opened"),
        (lambda p: write_omezarr(p, [np.zeros((2, 8, 8), np.complex64)]), "holds complex64 values"),
        (lambda p: write_omezarr(p, [np.zeros((2, 8, 8), np.bool_)]), "holds true and false alone"),
        (
            lambda p: write_omezarr(p, [np.zeros((4, 8, 8, 3), np.uint8)], "zyxc", (50, 4, 4, 1)),
            "holds 3 channels, axes zyxc",
        ),
        (
            lambda p: zarr.create_array(p, data=np.zeros((2, 2, 8, 8))),
            "has 4 dimensions and nothing names them",
        ),
    ],
)
def test_what_is_no_greyscale_volume_is_refused_by_name(tmp_path, make, said):
    path = tmp_path / "in.zarr"
    make(path)
    with pytest.raises(ImageError, match=rf"in\.zarr: .*{said}"):
        open_source(path)


def test_an_unknown_codec_is_named(tmp_path):
    path = bad(tmp_path / "in.zarr")
    array = json.loads((path / "s0" / "zarr.json").read_text())
    array["codecs"] = [{"name": "bytes"}, {"name": "lab-made"}]
    (path / "s0" / "zarr.json").write_text(json.dumps(array))
    with pytest.raises(ImageError, match=r"level s0 cannot be opened \(.*lab-made"):
        open_source(path)


@pytest.mark.parametrize("bytes_left", [0, 1, 7])
def test_a_cut_chunk_is_an_error_that_names_its_section(tmp_path, bytes_left):
    path = bad(tmp_path / "in.zarr")
    noise = np.random.default_rng(0).integers(0, 255, (2, 8, 8), np.uint8)
    path = write_omezarr(tmp_path / "in.zarr", [noise])
    chunk = path / "s0" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:bytes_left])
    with open_source(path) as source, pytest.raises(ImageError, match=r"in\.zarr: section 1 cannot be read"):
        source.read(1)


def test_nan_is_counted(tmp_path):
    stack_ZYX = np.zeros((2, 8, 8), np.float32)
    stack_ZYX[1, :2, :2] = np.nan
    with open_source(write_omezarr(tmp_path / "in.zarr", [stack_ZYX])) as source:
        source.read(0)
        with pytest.raises(ImageError, match=r"in\.zarr: section 1: 4 NaN and 0 infinite pixels"):
            source.read(1)


def test_outputs_that_would_harm_something_are_refused(tmp_path, tiles):
    path = write_omezarr(tmp_path / "in.zarr", [np.zeros((1, 64, 64), np.uint8)])
    for output in (path, path / "s0" / "out.zarr"):
        with pytest.raises(UsageError, match="the output"):
            tiles.segment_file(path, output)
    (tmp_path / "notes.zarr").mkdir()
    (tmp_path / "notes.zarr" / "diary.txt").write_text("dear")
    with pytest.raises(OutputError, match="is there already, and is no OME-Zarr"):
        tiles.segment_file(path, tmp_path / "notes.zarr", options=VolumeOptions(overwrite=True))
    assert (tmp_path / "notes.zarr" / "diary.txt").read_text() == "dear"
    with pytest.raises(OutputError, match="does not exist"):
        tiles.segment_file(path, tmp_path / "no" / "out.zarr")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is not a folder"):
        tiles.segment_file(path, tmp_path / "file" / "out.zarr")
    with pytest.raises(UsageError, match=r"name the output NAME\.ome\.zarr"):
        tiles.segment_file(path, tmp_path / "out.tif", options=VolumeOptions(pyramid=True))
    tiles.segment_file(path, tmp_path / "out.zarr")
    with pytest.raises(UsageError, match="is there already; --overwrite replaces it"):
        tiles.segment_file(path, tmp_path / "out.zarr")
    tiles.segment_file(path, tmp_path / "out.zarr", options=VolumeOptions(overwrite=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "in.zarr", "notes.zarr", "out.zarr"]


@pytest.mark.parametrize(
    ("shape", "chunks", "code"),
    [
        ((2, 8, 8), (2**50, 8, 8), 4),
        ((2, 2**24, 2**22), (2, 2**24, 2**22), 7),
        ((2, 8, 8), (64, 1024, 1024), 0),
    ],
)
def test_chunks_that_no_memory_holds_are_refused_before_tensorstore_ends_the_process(
    tmp_path, shape, chunks, code
):
    zarr.create_array(
        tmp_path / "v.zarr", data=np.zeros((2, 8, 8), np.uint8), chunks=(1, 8, 8), zarr_format=2
    )
    metadata = tmp_path / "v.zarr" / ".zarray"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"shape": shape, "chunks": chunks}))
    program = (
        "import sys\n"
        "from isbi_infer.errors import IsbiError\n"
        "from isbi_infer.volumes import open_source\n"
        "try:\n"
        "    with open_source('v.zarr') as source:\n"
        "        source.read(0, (slice(0, 8), slice(0, 8)))\n"
        "except IsbiError as error:\n"
        "    print(error, file=sys.stderr)\n"
        "    sys.exit(error.exit_code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stderr == "" or (done.stderr.startswith("v.zarr: ") and done.stderr.count("\n") == 1)


def test_a_source_says_how_much_is_decoded_along_its_rows_or_columns(tmp_path):
    image_ZYX, _ = synthetic_stack(2, 130, 300)
    plain, packed = tmp_path / "plain.tif", tmp_path / "packed.tif"
    tifffile.imwrite(plain, image_ZYX, photometric="minisblack")
    tifffile.imwrite(packed, image_ZYX, photometric="minisblack", compression="zlib")
    volume = write_omezarr(tmp_path / "volume.ome.zarr", [image_ZYX])  # chunks of 64 x 64
    found = []
    for path in (volume, plain, packed):
        with open_source(path) as source:
            found.append(source.line)
    assert found == [300 * 64, 300, None]


def test_a_stack_whose_no_data_is_nan_is_computed_in_shares_that_know_each_other(tmp_path, tiles):
    image_ZYX, _ = synthetic_stack(4, 96, 160)
    floats_ZYX = image_ZYX.astype(np.float32)
    floats_ZYX[:, :, :48] = np.nan
    stack, out = tmp_path / "in.tif", tmp_path / "out.ome.zarr"
    tags = [(42113, "s", 0, "nan", True)]
    tifffile.imwrite(stack, floats_ZYX, photometric="minisblack", extratags=tags, metadata=None)
    tiles.segment_file(stack, tmp_path / "out.tif")
    for index in (1, 2):
        options = VolumeOptions(block=(1, 96, 160), share=(index, 2))
        tiles.segment_file(stack, out, options=options)
    np.testing.assert_array_equal(pixels(out), tifffile.imread(tmp_path / "out.tif"))
    stored = json.loads((out / "zarr.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert '"nodata": "nan"' in json.dumps(stored).replace(chr(92), "")
