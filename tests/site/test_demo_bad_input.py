"""What the demo says where it cannot work: one clear sentence, and then it goes on."""

import numpy as np
import pytest
import tifffile

from isbi_models import default_model

CM = {"photometric": "minisblack", "resolution": (2.5e6, 2.5e6), "resolutionunit": "CENTIMETER"}
GREY_YX = np.random.default_rng(1).integers(0, 255, (64, 80), np.uint8)


def whole(path, **options):
    tifffile.imwrite(path, GREY_YX, **CM, **options)
    return path.read_bytes()


def rgb(path):
    tifffile.imwrite(path, np.stack([GREY_YX] * 3, axis=-1), photometric="rgb")
    return path.read_bytes()


def colourful_png(path):
    from PIL import Image

    Image.fromarray(np.stack([GREY_YX, GREY_YX, GREY_YX[::-1]], axis=-1)).save(path, "PNG")
    return path.read_bytes()


def not_finite(path):
    tifffile.imwrite(path, np.full((32, 32), np.nan, "float32"), photometric="minisblack")
    return path.read_bytes()


CASES = {
    "empty.tif": (lambda path: b"", "empty.tif is empty; expected a greyscale TIFF, PNG or JPEG."),
    "notes.tif": (
        lambda path: b"Dear diary,\n" * 9,
        "notes.tif is no image that this page reads; expected a greyscale TIFF, PNG or JPEG.",
    ),
    "rgb.tif": (rgb, "rgb.tif holds RGB; expected greyscale: convert it to 8 or 16 bits of grey."),
    "colour.png": (
        colourful_png,
        "colour.png is a colour picture; expected greyscale: convert it to grey.",
    ),
    "cut.tif": (
        lambda path: whole(path)[:3000],
        "cut.tif is cut or damaged: its pixels reach beyond its end; copy or export it again.",
    ),
    "head.tif": (
        lambda path: whole(path)[:40],
        "head.tif is a TIFF that is cut or damaged; copy or export it again.",
    ),
    "cut.png": (
        lambda path: colourful_png(path)[:60],
        "cut.png is a picture that is cut, damaged or too large for this browser; save it again.",
    ),
    "nan.tif": (
        not_finite,
        "nan.tif holds pixels that are no finite numbers; replace them, for instance by the mean.",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_is_no_section_gets_one_sentence_and_the_next_one_works(page, tmp_path, name):
    content, sentence = CASES[name]
    (tmp_path / name).write_bytes(content(tmp_path / name))
    said = page.open(tmp_path / name)
    assert said == sentence
    assert not page.tab.locator("#result").is_visible()
    (tmp_path / "good.tif").write_bytes(whole(tmp_path / "good.tif"))
    assert page.open(tmp_path / "good.tif").startswith("Done: 80 x 64 pixels")


def test_a_setting_that_cannot_be_used_says_what_can(page, tmp_path):
    whole(tmp_path / "good.tif")
    page.open(tmp_path / "good.tif")
    assert page.change("tile", 100) == (
        "A tile of 100 pixels cannot be used: expected a multiple of 16 from 208 on; try 208."
    )
    assert page.change("tile", "").startswith("Done")
    assert page.change("pixel-size", 4000) == (
        "A pixel size of 4000 nm is invalid: expected 0.5 to 100 nanometres."
    )
    assert page.change("pixel-size", 4).startswith("Done")


def test_a_section_that_is_too_large_for_a_phone_is_refused_before_it_is_read(phone, address, tmp_path):
    phone.visit(address)
    path = tmp_path / "large.tif"
    tifffile.imwrite(path, np.zeros((3000, 3000), np.uint8), compression="zlib", **CM)
    assert phone.open(path) == (
        "A section of 3000 x 3000 pixels is too much for this phone: at most 4 megapixels; "
        "cut a part out of it, or use the isbi-infer command."
    )
    assert phone.tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_browser_without_simd_is_told_so(chromium, address):
    browser = chromium(args=["--no-sandbox", "--js-flags=--no-enable-sse4-1"])
    tab = browser.new_page()
    tab.goto(address)
    if tab.evaluate("navigator.userAgent.includes('x86_64')"):
        tab.wait_for_selector("#error:not([hidden])")
        assert tab.inner_text("#error") == (
            "This browser lacks WebAssembly SIMD, which the model needs; "
            "use a current Firefox, Chrome, Edge or Safari."
        )
    browser.close()


@pytest.mark.parametrize("missing", ["models.json", "worker.js", "*.onnx", "*.wasm"])
def test_a_first_visit_that_loses_the_network_is_told_so(tab, address, missing):
    tab.tab.route(f"**/{missing}", lambda route: route.abort("internetdisconnected"))
    tab.tab.goto(address)
    tab.tab.wait_for_selector("#error:not([hidden])")
    said = tab.tab.inner_text("#error")
    assert said.endswith(
        "the first visit needs the network; connect and reload the page, later visits need none."
    ) or (said.endswith("the first visit needs the network; connect and reload the page."))


def test_a_model_file_that_was_cut_is_told_so(tab, address, demo):
    content = (demo / default_model().files["int8"].path.name).read_bytes()
    tab.tab.route("**/*.onnx", lambda route: route.fulfill(body=content[:-1000]))
    tab.tab.goto(address)
    tab.tab.wait_for_selector("#error:not([hidden])")
    assert tab.tab.inner_text("#error").startswith(
        f"The model file is damaged: {len(content) - 1000} of {len(content)} bytes arrived; reload the page"
    )


def test_a_model_file_that_was_changed_is_told_so(tab, address, demo):
    content = bytearray((demo / default_model().files["int8"].path.name).read_bytes())
    content[len(content) // 2] ^= 1
    tab.tab.route("**/*.onnx", lambda route: route.fulfill(body=bytes(content)))
    tab.tab.goto(address)
    tab.tab.wait_for_selector("#error:not([hidden])")
    assert tab.tab.inner_text("#error") == (
        "The model file is damaged: its SHA-256 is not that of the release; reload the page."
    )
