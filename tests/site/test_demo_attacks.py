"""Scripts in names and metadata of files, shown to the demo: text, and nothing else; attacks/ says why it matters."""

import re

import pytest

from attacks.script_in_browser_page import BOTH, FILES, MARK

ELEMENTS = "() => Array.from(document.querySelectorAll('*'), (element) => element.localName).sort()"


@pytest.fixture(scope="module")
def usual(page, tmp_path_factory):
    """What the page consists of when it has read a file that nobody has tampered with, or has refused one."""
    folder = tmp_path_factory.mktemp("usual")
    page.open(FILES["a comment of JPEG"](folder))
    return page.tab.evaluate(ELEMENTS)


@pytest.mark.parametrize("name", FILES)
def test_a_script_in_a_file_is_inert_in_the_page(page, usual, address, tmp_path, name):
    path = FILES[name](tmp_path)
    assert "img src=x" in str(path) or BOTH[:20].encode() in path.read_bytes()
    asked, complaints = len(page.requests), len(page.errors)
    said = page.open(path)
    assert said.startswith(("Done: 64 x 64 pixels", path.name))
    assert page.tab.evaluate(f"window.{MARK}") is None
    here = [element for element in page.tab.evaluate(ELEMENTS) if element != "li"]  # sentences about the file
    assert here == [element for element in usual if element != "li"]
    assert not page.tab.locator("li *").count()
    assert page.errors[complaints:] == []
    assert all(url.startswith((address, "blob:")) for _, url in page.requests[asked:])


def test_the_page_allows_its_own_scripts_alone_and_no_other_address(page):
    tried = page.tab.evaluate(
        """async () => {
            const element = document.createElement("p");
            element.innerHTML = '<img src="/x" onerror="window.harmed = 1">';
            document.body.append(element);
            const script = document.createElement("script");
            script.textContent = "window.harmed = 1";
            document.body.append(script);
            const sent = await fetch("http://127.0.0.2:9/", { mode: "no-cors" }).then(() => "sent", () => "refused");
            await new Promise((resolve) => setTimeout(resolve, 300));
            element.remove();
            script.remove();
            return [sent, window.harmed ?? "unharmed"];
        }"""
    )
    assert tried == ["refused", "unharmed"]
    refused = " ".join(page.errors)
    assert re.search("inline event handler", refused)
    assert re.search("inline script", refused)
    assert re.search(r"127\.0\.0\.2.*Content Security Policy", refused)
