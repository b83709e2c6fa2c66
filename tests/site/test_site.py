"""The site, built from the checkout: links lead somewhere, what is generated is there, the demo runs in it."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from isbi_models import default_model

pytest.importorskip("myst_parser")
pytest.importorskip("furo")

ROOT = Path(__file__).parents[2]


class Links(HTMLParser):
    """What a page links to and shows, and the places in it that can be linked to."""

    def __init__(self, page):
        super().__init__()
        self.targets, self.places = [], set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.targets.append(value)
            if name in ("id", "name") and value:
                self.places.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory, demo):
    """The folder of the site; `demo` says so where it cannot be built."""
    folder = tmp_path_factory.mktemp("built") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "docs.builder", folder], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_drawing_is_what_the_code_draws():
    from docs.builder import drawings
    from docs.builder.__main__ import DRAWING

    assert DRAWING.read_text(encoding="utf-8") == drawings.tiling(), "run: python -m docs.builder --draw"


def test_words_of_any_message_lead_to_it():
    from docs.builder import messages

    page = messages.page()
    for words in (
        "is not a multiple of the model's stride",
        "cannot be opened (…); expected a folder of images",
    ):
        assert words in page
    assert "## ImageError, exit code 4" in page


@pytest.mark.more
def test_every_link_image_and_anchor_of_the_site_leads_somewhere(site):
    pages = {page: Links(page) for page in site.rglob("*.html")}
    assert len(pages) > 30
    broken = []
    for page, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if path.is_dir():
                path /= "index.html"
            if not path.exists():
                broken.append(f"{page.relative_to(site)}: {target}")
            elif parts.fragment and path in pages and unquote(parts.fragment) not in pages[path].places:
                broken.append(f"{page.relative_to(site)}: {target} (no such place)")
    assert broken == []


@pytest.mark.more
def test_pages_of_the_checkout_commands_and_classes_are_on_the_site(site):
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / f"{page.stem}.html").exists()
    commands = Links(site / "commands.html").places
    assert {"isbi-infer", "isbi-infer-doctor", "isbi-train-fit", "isbi-export"} <= commands
    assert "isbi_infer.segmenter.Segmenter.segment_file" in Links(site / "api.html").places


@pytest.mark.more
def test_the_search_works_without_a_server(site, browser):
    tab = browser.new_page()
    tab.goto((site / "search.html").as_uri() + "?q=truncated")
    tab.wait_for_selector("#search-results li a")
    assert any("Messages" in text for text in tab.locator("#search-results li a").all_inner_texts())
    tab.close()


@pytest.mark.more
def test_a_stranger_comes_from_the_first_page_to_outlines(site, serve, tab):
    page = tab.tab
    page.goto(serve(site))
    page.click("text=Try it on your own section, in this browser")
    page.wait_for_selector("html[data-ready]")
    page.click("#sample")
    assert tab.settle().startswith("Done: 512 x 512 pixels")
    page.click("text=its card")
    page.wait_for_selector(f"h1:has-text('{default_model().name}')")
    assert tab.errors == []
