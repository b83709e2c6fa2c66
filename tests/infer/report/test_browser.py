"""The report in a browser: moved through by hand and by keyboard, on a phone, in the dark, without a network."""

import io
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image


@contextmanager
def opened(browser, path, **options):
    """Open a page that must neither complain nor load anything."""
    said, asked = [], []
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("canvas[data-drawn]")
    try:
        yield page
    finally:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]


def section_of(page):
    return page.evaluate("document.getElementById('canvas').dataset.section")


def wait_for_section(page, z):
    page.wait_for_selector(f"canvas[data-section='{z}']")


def seen(page):
    """Return what the canvas shows, once it is drawn."""
    page.wait_for_timeout(150)
    return np.asarray(Image.open(io.BytesIO(page.locator("#canvas").screenshot())).convert("RGB")).astype(int)


def orange(picture_YXC):
    red, green, blue = np.moveaxis(picture_YXC, -1, 0)
    return int(np.count_nonzero((red > 200) & (green > 130) & (green < 190) & (blue < 60)))


def test_slider_buttons_and_keys_move_through_the_sections(browser, faulty):
    with opened(browser, faulty / "report.html") as page:
        assert section_of(page) == "0"
        page.locator("#slider").fill("3")
        wait_for_section(page, 3)
        assert "section 3 of 5" in page.locator("#where").inner_text()
        assert "50% canvas" in page.locator("#about").inner_text()
        page.locator("#next").click()
        wait_for_section(page, 4)
        page.locator("#canvas").focus()
        page.keyboard.press("Home")
        wait_for_section(page, 0)
        page.keyboard.press("ArrowRight")
        wait_for_section(page, 1)
        page.get_by_role("button", name="section 2", exact=True).click()
        wait_for_section(page, 2)


def test_layers_are_switched_and_faded(browser, faulty):
    with opened(browser, faulty / "report.html") as page:
        with_outlines = seen(page)
        page.locator("#layer-outlines").uncheck()
        without = seen(page)
        assert orange(with_outlines) > 10 * orange(without) + 100
        page.keyboard.press("3")
        assert page.locator("#layer-outlines").is_checked()
        assert np.array_equal(seen(page), with_outlines)
        page.locator("#layer-probability").check()
        page.locator("#opacity-probability").fill("100")
        page.locator("#layer-outlines").uncheck()
        page.locator("#layer-errors").uncheck()
        probability = seen(page)
        assert np.abs(probability - without).mean() > 20
        page.locator("#opacity-probability").fill("0")
        page.locator("#layer-errors").check()
        assert np.array_equal(seen(page), without)


def test_the_outlines_follow_the_threshold(browser, faulty):
    with opened(browser, faulty / "report.html") as page:
        before = seen(page)
        page.locator("#threshold").fill("0.9")
        assert page.locator("#crossing").inner_text() == "0.90"
        assert not np.array_equal(seen(page), before)


def test_zoom_and_pan_come_back_to_the_whole_section(browser, faulty):
    with opened(browser, faulty / "report.html") as page:
        whole = seen(page)
        page.locator("#canvas").hover()
        page.mouse.wheel(0, -400)
        closer = seen(page)
        assert not np.array_equal(closer, whole)
        page.mouse.down()
        page.mouse.move(500, 500, steps=3)
        page.mouse.up()
        assert not np.array_equal(seen(page), closer)
        page.locator("#fit").click()
        assert np.array_equal(seen(page), whole)
        page.keyboard.press("+")
        page.keyboard.press("d")
        assert not np.array_equal(seen(page), whole)
        page.keyboard.press("0")
        assert np.array_equal(seen(page), whole)


def test_a_phone_shows_it_without_scrolling_sideways(browser, faulty):
    phone = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "has_touch": True}
    with opened(browser, faulty / "report.html", **phone) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.locator("#next").tap()
        wait_for_section(page, 1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_readers_light_or_dark(browser, faulty, scheme):
    with opened(browser, faulty / "report.html", color_scheme=scheme) as page:
        paper, ink = page.evaluate(
            "(({backgroundColor, color}) => [backgroundColor, color].map(c => Number(c.match(/\\d+/)[0])))"
            "(getComputedStyle(document.body))"
        )
        assert (paper > ink) == (scheme == "light")
        assert abs(paper - ink) > 150


def test_a_script_in_a_file_name_is_text(browser, tmp_path, faulty, infer):
    name = "<img src=x onerror=alert(2)>\"'&<script>alert(3)<"
    stack = tmp_path / f"{name}.tif"
    stack.write_bytes((faulty / "faulty.tif").read_bytes())
    assert infer(stack, "--report", tmp_path / "report.html", "--quiet", "-o", tmp_path / "out.tif") == 0
    with opened(browser, tmp_path / "report.html") as page:
        assert page.locator("h1").inner_text() == stack.name
        assert page.locator("img").count() == 0
