"""The site, built from the checkout: links lead somewhere, what is generated is there, the demo runs in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isbi_models import default_model

pytest.importorskip("myst_parser")
pytest.importorskip("furo")

ROOT = Path(__file__).parents[2]
NOT_NEEDED = (
    "torch",
    "scipy",
    "skimage",
    "numba",
    "matplotlib",
    "onnx",
    "onnxscript",
    "safetensors",
    "pooch",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory, demo):
    """The folder of the site, built with what the extra `docs` brings; `demo` says so where it cannot be built."""
    folder = tmp_path_factory.mktemp("built")
    for name in NOT_NEEDED:
        (folder / f"{name}.py").write_text("raise ImportError('the site is built without this')\n")
    folder /= "site"
    done = subprocess.run(
        [sys.executable, "-m", "docs.builder", folder],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(folder.parent)},
        capture_output=True,
        text=True,
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


def test_every_example_in_a_docstring_is_run_and_gives_what_it_shows():
    from docs.builder.examples import modules_with_examples, run_examples

    results = {module: run_examples(module) for module in modules_with_examples()}
    assert {module: fault for module, (_, fault) in results.items() if fault} == {}
    assert results["isbi_infer.segmenter"][0] > 0


def test_an_example_that_gives_something_else_or_is_skipped_is_named(tmp_path, monkeypatch):
    from docs.builder.examples import run_examples

    skipped = ">>> 1 + 1  # doctest: +SKIP"
    (tmp_path / "shown.py").write_text(f'"""Adds.\n\n>>> 1 + 1\n3\n{skipped}\n2\n"""\n')
    monkeypatch.syspath_prepend(tmp_path)
    lines, fault = run_examples("shown")
    assert lines == 1
    assert "Expected:\n    3\nGot:\n    2" in fault
    assert "shown: 1 + 1  # doctest: +SKIP: skipped" in fault


def test_a_link_that_leads_nowhere_is_named_with_its_page(tmp_path):
    from docs.builder.links import follow

    (tmp_path / "there.html").write_text('<h1 id="place">There</h1>')
    targets = (
        "there.html#place",
        "there.html#gone",
        "gone.html",
        "https://example.org/a.",
        "http://example.org",
    )
    page = "".join(f'<a href="{target}">x</a>' for target in targets)
    (tmp_path / "index.html").write_text(page)
    found = follow(tmp_path)
    assert found.faults == [
        "index.html: there.html#gone leads to no such place",
        "index.html: gone.html leads nowhere",
        "index.html: https://example.org/a. is not an address as browsers take it",
        "index.html: http://example.org is not an address as browsers take it",
    ]
    assert found.outside == {address: {"index.html"} for address in targets[3:]}


@pytest.mark.more
def test_every_link_image_and_anchor_of_the_site_leads_somewhere(site):
    from docs.builder.links import follow

    found = follow(site)
    assert len(found.places) > 30
    assert found.faults == []
    assert "https://google.github.io/tensorstore/" in found.outside


@pytest.mark.more
def test_pages_of_the_checkout_commands_and_classes_are_on_the_site(site):
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / f"{page.stem}.html").exists()
    from docs.builder.links import follow

    places = follow(site).places
    commands = places["commands.html"]
    assert {"isbi-infer", "isbi-infer-doctor", "isbi-train-fit", "isbi-export"} <= commands
    assert "isbi_infer.segmenter.Segmenter.segment_file" in places["api.html"]


@pytest.mark.more
def test_the_search_works_without_a_server(site, browser):
    tab = browser.new_page()
    tab.goto((site / "search.html").as_uri() + "?q=truncated")
    tab.wait_for_selector("#search-results li a")
    assert any("Messages" in text for text in tab.locator("#search-results li a").all_inner_texts())
    tab.close()


@pytest.mark.more
def test_no_page_scrolls_sideways_on_a_phone(site, phone):
    wide = []
    for page in sorted(site.glob("*.html")):
        phone.tab.goto(page.as_uri(), wait_until="domcontentloaded")
        if phone.tab.evaluate("document.documentElement.scrollWidth") > 390:
            wide.append(page.name)
    assert wide == []


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
