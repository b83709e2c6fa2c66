"""The demo, built from the checkout and served by a plain server; and a browser, where there is one."""

import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import tifffile

from isbi_infer import Segmenter

MODEL = "isbi2012-unet-b32"  # of most tests; the default is a choice of its own

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:  # the builder of the docs is not installed
    sys.path.append(ROOT)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def serve():
    """Serve a folder until all tests are done; return its address."""
    servers = []

    def start(folder):
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The folder of the demo."""
    from docs.builder.demo import assemble
    from docs.builder.npm import BuildError

    folder = tmp_path_factory.mktemp("site") / "demo"
    try:
        assemble(folder)
    except BuildError as error:
        if "network" in str(error) or "not installed" in str(error):
            pytest.skip(f"the demo cannot be built here: {error}")
        raise
    return folder


@pytest.fixture(scope="session")
def browser(chromium):
    opened = chromium(args=["--no-sandbox", "--enable-precise-memory-info"])
    yield opened
    opened.close()


class Page:
    """The demo in a tab: what a reader does, and what it then shows."""

    def __init__(self, tab):
        self.tab, self.errors, self.requests = tab, [], []
        tab.set_default_timeout(60_000)
        tab.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.context.on("request", lambda request: self.requests.append((request.method, request.url)))

    def visit(self, address):
        self.tab.goto(address)
        self.tab.wait_for_selector("html[data-ready]")
        return self

    def settle(self):
        """Wait until there is a result or an error, and return what is said."""
        self.tab.wait_for_selector("#state:text-matches('^Done'), #error:not([hidden])")
        error = self.tab.locator("#error")
        return error.inner_text() if error.is_visible() else self.tab.inner_text("#state")

    def change(self, field, value):
        """Set a field as a reader does, and return what is said when that has had its effect."""
        self.tab.evaluate("document.getElementById('state').textContent = ''")
        self.tab.evaluate(
            "([id, value]) => { const field = document.getElementById(id); field.value = value;"
            " for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind)); }",
            [field, str(value)],
        )
        return self.settle()

    def open(self, path):
        self.tab.evaluate("document.getElementById('state').textContent = ''")
        self.tab.set_input_files("#file", path)
        return self.settle()

    def notes(self):
        return self.tab.locator("#notes li").all_inner_texts()

    def probability(self, tmp_path):
        """Download the result and read it."""
        with self.tab.expect_download() as download:
            self.tab.click("#download-tiff")
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        return tifffile.imread(path), path


@pytest.fixture
def tab(browser):
    """A page that nobody has visited."""
    context = browser.new_context()
    yield Page(context.new_page())
    context.close()


@pytest.fixture
def phone(browser):
    screen = {"width": 390, "height": 844}
    context = browser.new_context(viewport=screen, screen=screen, has_touch=True, is_mobile=True)
    yield Page(context.new_page())
    context.close()


@pytest.fixture(scope="session")
def address(demo, serve):
    return serve(demo)


@pytest.fixture(scope="module")
def page(browser, address):
    """The demo, ready; its state goes from test to test."""
    context = browser.new_context()
    opened = Page(context.new_page()).visit(address)
    opened.tab.select_option("#model", MODEL)
    yield opened
    context.close()


@pytest.fixture(scope="session")
def in_python():
    """What Python makes of the same file, by the same model and arithmetic."""
    segmenters = {}

    def segment(path, folder, pixel_size=None, model=MODEL):
        asked = pixel_size, model
        if asked not in segmenters:
            segmenters[asked] = Segmenter(model, provider="cpu", precision="int8", pixel_size=pixel_size)
        out = folder / "python.tif"
        out.unlink(missing_ok=True)
        segmenters[asked].segment_file(path, out)
        return tifffile.imread(out)

    return segment
