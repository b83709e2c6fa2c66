"""The demo as hands and eyes meet it: files that are dropped, the keyboard alone, dark screens and narrow ones."""

import base64

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack
from PIL import Image

CM = {"photometric": "minisblack", "resolution": (2.5e6, 2.5e6), "resolutionunit": "CENTIMETER"}
NARROW = 390  # pixels of a phone


def drop(page, *paths, text=None):
    """Drop files, or a piece of text, where the page asks for them; return what it then says."""
    files = [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in paths]
    page.tab.evaluate("document.getElementById('state').textContent = ''")
    page.tab.evaluate(
        """([files, text]) => {
            const dataTransfer = new DataTransfer();
            for (const [name, content] of files) {
                const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
                dataTransfer.items.add(new File([bytes], name));
            }
            if (text) dataTransfer.setData("text/plain", text);
            const place = document.getElementById("drop");
            for (const kind of ["dragenter", "dragover"]) {
                place.dispatchEvent(new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
            }
            if (!place.classList.contains("over")) throw new Error("the place does not show that it takes the file");
            const dropped = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
            place.dispatchEvent(dropped);
            if (!dropped.defaultPrevented) throw new Error("the browser would leave the page for the file");
            if (place.classList.contains("over")) throw new Error("the place still waits for a file");
        }""",
        [files, text],
    )
    return page.settle()


@pytest.fixture(scope="module")
def section_YX():
    return synthetic_stack(1, 128, 144)[0][0]


def save(path, section_YX):
    if path.suffix == ".tif":
        tifffile.imwrite(path, section_YX, **CM)
    else:
        Image.fromarray(section_YX).save(path)
    return path


@pytest.mark.parametrize("name", ["dropped.tif", "dropped.png", "dropped.jpg"])
def test_a_file_that_is_dropped_gives_what_the_same_file_gives_when_chosen(page, tmp_path, section_YX, name):
    path = save(tmp_path / name, section_YX)
    assert drop(page, path).startswith("Done: 144 x 128 pixels")
    dropped_YX, written = page.probability(tmp_path)
    assert written.name == "dropped.probability.tif"
    assert page.open(path).startswith("Done: 144 x 128 pixels")
    assert np.array_equal(dropped_YX, page.probability(tmp_path)[0])
    assert page.errors == []


def test_what_is_no_single_image_is_refused_in_one_sentence_and_the_next_drop_works(
    page, tmp_path, section_YX
):
    (tmp_path / "notes.txt").write_text("Dear diary,\n" * 9)
    good = save(tmp_path / "good.tif", section_YX)
    assert drop(page, tmp_path / "notes.txt") == (
        "notes.txt is no image that this page reads; expected a greyscale TIFF, PNG or JPEG."
    )
    assert not page.tab.locator("#result").is_visible()
    assert drop(page, good, good) == "2 files were dropped; drop one TIFF, PNG or JPEG."
    assert drop(page, text="a link") == "No file was dropped; drop one TIFF, PNG or JPEG."
    assert drop(page, good).startswith("Done: 144 x 128 pixels")


def test_everything_can_be_done_by_the_keyboard_alone_and_shows_where_it_is(tab, address, tmp_path):
    page = tab.visit(address).tab
    page.on("filechooser", lambda _: None)  # or Chromium may be told too late to report it, and shows its own
    reached = []

    def tab_to(name):
        for _ in range(20):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id"))
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            if reached[-1] == name:
                return
        raise AssertionError(f"{name} is not reached, but {reached}")

    tab_to("file")
    with page.expect_file_chooser():
        page.keyboard.press("Space")
    tab_to("sample")
    page.keyboard.press("Enter")
    assert tab.settle().startswith("Done: 512 x 512 pixels")
    tab_to("section")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#section-number:text-is('2 of 2')")
    tab.settle()
    tab_to("threshold")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#threshold-number") == "0.55"
    tab_to("download-tiff")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "sample.2.probability.tif"
    assert tab.errors == []


CONTRAST = """() => {
    const channels = (text) => text.match(/[\\d.]+/g).slice(0, 3).map((part) => {
        const value = part / 255;
        return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    const luminance = (text) => channels(text).reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (!/, 0\\)$/.test(colour)) return colour;
        }
        return "rgb(255, 255, 255)";
    };
    const found = {};
    for (const name of ["h1", "#drop", "#sample", "#model", "#pixel-size", "#error", "footer a", "#state"]) {
        const element = document.querySelector(name);
        element.hidden = false;
        const [one, other] = [getComputedStyle(element).color, behind(element)].map(luminance);
        found[name] = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    }
    return { contrast: found, back: luminance(behind(document.body)) };
}"""
READABLE = 4.5  # WCAG 2.2, 1.4.3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_light_and_on_dark_screens(browser, address, scheme):
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    found = page.evaluate(CONTRAST)
    context.close()
    assert (found["back"] < 0.1) == (scheme == "dark")
    assert {name: ratio for name, ratio in found["contrast"].items() if ratio < READABLE} == {}


def test_nothing_is_wider_than_a_phone_before_and_after_a_result(phone, address):
    page = phone.visit(address).tab
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) == NARROW
    page.click("#sample")
    assert phone.settle().startswith("Done: 512 x 512 pixels")
    page.click("summary")
    assert page.evaluate(width) == NARROW
    for name in ("outlined", "probability", "drop", "download-tiff"):
        box = page.locator(f"#{name}").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= NARROW
