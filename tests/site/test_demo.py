"""The demo in a browser: what it shows and returns, held against Python."""

import numpy as np
import psutil
import pytest
import tifffile
from drawn import synthetic_stack

from isbi_infer.volumes import open_stack
from isbi_models import default_model

LARGEST = 1e-6
CM = {"photometric": "minisblack", "resolutionunit": "CENTIMETER"}


@pytest.fixture(scope="module")
def stack_ZYX():
    return synthetic_stack(2, 288, 320)[0]


def write(path, image, nm=4.0, **options):
    tifffile.imwrite(path, image, resolution=(1e7 / nm, 1e7 / nm), **CM, **options)
    return path


def test_the_sample_is_outlined_as_in_python_and_nothing_leaves_the_browser(
    tab, address, demo, tmp_path, in_python
):
    tab.visit(address).tab.click("#sample")
    assert tab.settle().startswith("Done: 512 x 512 pixels")
    probability_YX, path = tab.probability(tmp_path)
    expected_ZYX = in_python(demo / "sample.tif", tmp_path, model=None)
    assert np.abs(probability_YX - expected_ZYX[0]).max() <= LARGEST
    with open_stack(path) as written:
        assert str(written.pixel_size) == "4 nm"
    assert default_model().terms in tab.tab.inner_text("#licence")
    orange = tab.tab.evaluate(
        """() => {
            const canvas = document.getElementById("outlined");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            let count = 0;
            for (let i = 0; i < data.length; i += 4) {
                count += data[i] === 230 && data[i + 1] === 159 && data[i + 2] === 0;
            }
            return count / (data.length / 4);
        }"""
    )
    assert 0.02 < orange < 0.4
    assert tab.errors == []
    assert {method for method, _ in tab.requests} == {"GET"}
    assert all(url.startswith((address, "blob:")) for _, url in tab.requests)


def test_tiles_equal_the_whole_section(page, tmp_path, stack_ZYX):
    assert page.open(write(tmp_path / "own.tif", stack_ZYX[0])).startswith("Done: 320 x 288 pixels in")
    whole_YX, _ = page.probability(tmp_path)
    assert "in 4 tiles" in page.change("tile", 256)
    tiled_YX, _ = page.probability(tmp_path)
    page.change("tile", "")
    assert np.array_equal(tiled_YX, whole_YX)


def test_the_slider_shows_any_section_of_a_stack(page, tmp_path, stack_ZYX, in_python):
    path = write(tmp_path / "stack.tif", stack_ZYX, compression="zlib", predictor=True)
    page.open(path)
    assert page.tab.inner_text("#section-number") == "1 of 2"
    page.change("section", 2)
    probability_YX, written = page.probability(tmp_path)
    assert written.name == "stack.2.probability.tif"
    assert np.abs(probability_YX - in_python(path, tmp_path)[1]).max() <= LARGEST


def with_hot_pixels(image_YX):
    hot_YX = image_YX.copy()
    hot_YX[40:43, 50:52] = 65535
    hot_YX[0, 0] = hot_YX[-1, 7] = 65535
    return hot_YX


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image_YX: image_YX.astype("uint16") * 97 + 300, id="16 bits"),
        pytest.param(lambda image_YX: with_hot_pixels(image_YX.astype("uint16") * 9), id="hot pixels"),
        pytest.param(lambda image_YX: (image_YX.astype("int16") - 128) * 50, id="signed"),
        pytest.param(lambda image_YX: image_YX.astype("float32") / 255, id="floats"),
        pytest.param(lambda image_YX: image_YX.astype("float32") + 1e7, id="floats far from 0"),
        pytest.param(lambda image_YX: image_YX.astype(">u2"), id="big-endian"),
    ],
)
def test_any_kind_of_grey_values_gives_what_python_gives(page, tmp_path, stack_ZYX, in_python, change):
    path = write(tmp_path / "grey.tif", change(stack_ZYX[0, :192, :208]))
    assert page.open(path).startswith("Done")
    assert np.abs(page.probability(tmp_path)[0] - in_python(path, tmp_path)).max() <= LARGEST


@pytest.mark.parametrize("nm", [3.0, 8.5])
def test_another_pixel_size_is_resampled_as_in_python(page, tmp_path, stack_ZYX, in_python, nm):
    path = write(tmp_path / "scaled.tif", stack_ZYX[0, :150, :171], nm=nm)
    page.open(path)
    assert float(page.tab.input_value("#pixel-size")) == nm
    assert np.abs(page.probability(tmp_path)[0] - in_python(path, tmp_path)).max() <= LARGEST
    page.change("pixel-size", 6)
    assert np.abs(page.probability(tmp_path)[0] - in_python(path, tmp_path, 6.0)).max() <= LARGEST


def test_another_model_is_tiled_by_its_own_contract(page, tmp_path, stack_ZYX, in_python):
    path = write(tmp_path / "five.tif", stack_ZYX[0, :192, :208], nm=5.0)
    page.open(path)
    page.change("model", "em-open")
    probability_YX, _ = page.probability(tmp_path)
    assert "CC-BY-4.0" in page.tab.inner_text("#licence")
    page.change("model", "isbi2012-unet-b32")
    assert np.abs(probability_YX - in_python(path, tmp_path, model="em-open")).max() <= LARGEST


OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="64" SizeY="64" SizeC="1" SizeZ="1" SizeT="1" '
    'PhysicalSizeX="0.0052" PhysicalSizeY="0.0052"><TiffData/></Pixels></Image></OME>'
)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"resolution": (250, 250), "metadata": {"unit": "um"}, "imagej": True}, id="ImageJ, um"),
        pytest.param({"resolution": (0.2, 0.2), "metadata": {"unit": "nm"}, "imagej": True}, id="ImageJ, nm"),
        pytest.param({"description": OME, "metadata": None}, id="OME"),
        pytest.param({"resolution": (2e6, 2e6), "resolutionunit": "CENTIMETER"}, id="tags, cm"),
        pytest.param({"resolution": (5e6, 5e6), "resolutionunit": "INCH"}, id="tags, inch"),
        pytest.param({"resolution": (72, 72), "resolutionunit": "INCH"}, id="for printing"),
        pytest.param({}, id="none"),
    ],
)
def test_the_pixel_size_in_the_field_is_what_the_library_reads(page, tmp_path, stack_ZYX, options):
    path = tmp_path / "sized.tif"
    kind = {} if "imagej" in options else {"photometric": "minisblack"}
    tifffile.imwrite(path, stack_ZYX[0, :64, :64], **kind, **options)
    page.open(path)
    with open_stack(path) as stack:
        expected = stack.pixel_size
    found = page.tab.input_value("#pixel-size")
    assert (found == "") if expected is None else float(found) == pytest.approx(expected.x_nm, rel=1e-5)


def test_png_and_jpeg_are_read_as_the_grey_values_that_they_hold(page, tmp_path, stack_ZYX):
    from PIL import Image

    section_YX = stack_ZYX[0, :128, :144]
    results = []
    for name in ("grey.png", "grey.tif"):
        Image.fromarray(section_YX).save(tmp_path / name)
        assert page.open(tmp_path / name).startswith("Done")
        results.append(page.probability(tmp_path)[0])
    assert np.array_equal(*results)
    Image.fromarray(section_YX).save(tmp_path / "grey.jpg", quality=95)
    assert page.open(tmp_path / "grey.jpg").startswith("Done")
    Image.fromarray(section_YX.astype("uint16") * 100).save(tmp_path / "deep.png")
    page.open(tmp_path / "deep.png")
    assert "save it as TIFF" in " ".join(page.notes())


def test_a_blank_section_is_told(page, tmp_path):
    page.open(write(tmp_path / "blank.tif", np.full((64, 64), 7, "uint8")))
    assert page.notes() == ["The section is blank: all of one grey value."]
    noise_YX = np.random.default_rng(0).normal(128, 20, (256, 256)).astype("uint8")
    page.open(write(tmp_path / "noise.tif", noise_YX))
    assert page.notes() == ["The section is blank but for noise."]


@pytest.mark.parametrize("nm", [4.0, 6.0])
def test_canvas_is_left_out_as_in_python(page, tmp_path, stack_ZYX, in_python, nm):
    aligned_YX = stack_ZYX[0, :224, :240].copy()
    aligned_YX[:, :32] = 0
    aligned_YX[np.add.outer(np.arange(224), np.arange(240)) < 90] = 0  # a wedge, as after a rotation
    aligned_YX[100:102, 100:103] = 255
    path = write(tmp_path / "aligned.tif", aligned_YX, nm=nm)
    page.open(path)
    assert "canvas, and left out" in page.notes()[0]
    assert np.abs(page.probability(tmp_path)[0] - in_python(path, tmp_path)).max() <= LARGEST


def test_after_the_first_visit_it_works_offline_and_with_threads_to_the_same_bits(
    tab, serve, demo, tmp_path, stack_ZYX
):
    path = write(tmp_path / "own.tif", stack_ZYX[0, :192, :192])
    address = serve(demo)
    tab.visit(address).open(path)
    first_YX, _ = tab.probability(tmp_path)
    tab.tab.wait_for_selector("#offline:not(:empty)")
    assert "without a network" in tab.tab.inner_text("#offline")
    tab.tab.context.set_offline(True)
    tab.visit(address)
    assert tab.tab.evaluate("crossOriginIsolated")
    assert "threads" in tab.tab.inner_text("#state") or tab.tab.evaluate("navigator.hardwareConcurrency") == 1
    tab.open(path)
    assert np.array_equal(tab.probability(tmp_path)[0], first_YX)
    assert tab.errors == []


@pytest.mark.more
def test_memory_does_not_grow_over_twenty_runs(browser, page, tmp_path, stack_ZYX):
    path = write(tmp_path / "own.tif", stack_ZYX[:, :256, :256])
    page.open(path)
    session = browser.new_browser_cdp_session()
    held = []
    for _ in range(3):  # what is kept for the next run is there by then
        page.change("section", 2)
    for _ in range(20):
        page.change("section", 2)
        ids = [
            p["id"]
            for p in session.send("SystemInfo.getProcessInfo")["processInfo"]
            if p["type"] == "renderer"
        ]
        held.append(sum(psutil.Process(process).memory_info().rss for process in ids))
    first, last = (np.median(part) for part in (held[:5], held[-5:]))
    assert last - first < 16 * 2**20
