"""``python -m benchmarks.browser [--rounds N] [--store]``: how long the demo takes in Chromium for a section.

Measured is what a reader waits for: from asking for a section of 512 x 512 to its outlines on the page. The first
visit has one thread, the second one is isolated and has as many as there are cores.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import shutil
import statistics
import tempfile
import threading
from pathlib import Path
from typing import Any

from docs.builder.demo import assemble
from docs.builder.npm import pinned

from .machine import load_average
from .store import RESULTS, store

_PACKAGES = Path(__file__).parents[1] / "docs" / "demo" / "packages.json"
_SHOW = """async (section) => {
    const [state, field] = ["state", "section"].map((id) => document.getElementById(id));
    state.textContent = "";
    field.value = section;
    const started = performance.now();
    field.dispatchEvent(new Event("change"));
    while (!state.textContent.startsWith("Done")) await new Promise((done) => setTimeout(done, 2));
    return (performance.now() - started) / 1000;
}"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def measure(address: str, rounds: int) -> dict[str, Any]:
    """Visit the demo twice, and show a section so many times on each visit."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page()
        visits, loads = {}, []
        for visit in ("first", "second"):
            tab.goto(address)
            tab.wait_for_selector("html[data-ready]", timeout=60_000)
            ready = tab.evaluate("performance.now() / 1000")
            tab.wait_for_selector("#offline:not(:empty)", timeout=60_000)
            tab.click("#sample")
            tab.wait_for_selector("#result:not([hidden])", timeout=60_000)
            threads = tab.evaluate("crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 8) : 1")
            tab.evaluate(_SHOW, 2)
            times = [tab.evaluate(_SHOW, 1 + i % 2) for i in range(rounds)]
            loads.append(load_average())
            visits[visit] = {
                "threads": threads,
                "ready_s": ready,
                "shown_s": times,
                "shown_median_s": statistics.median(times),
            }
        gpu = tab.evaluate(
            "navigator.gpu ? navigator.gpu.requestAdapter().then((found) => found !== null) : false"
        )
        version = browser.version
        browser.close()
    return {"visits": visits, "webgpu_adapter": gpu, "chromium": version, "load_average": loads}


def main() -> None:
    """Measure, print, and store if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--store", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "demo"
        assemble(root)
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(_Quiet, directory=str(root))
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        measured = measure(f"http://127.0.0.1:{server.server_port}/", asked.rounds)
        server.shutdown()
    print(json.dumps(measured, indent=1))
    if asked.store:
        packages = {package.name: package.version for package in pinned(_PACKAGES) if package.files}
        settings = {"shape": [512, 512], "precision": "int8", "rounds": asked.rounds, "packages": packages}
        print(store("browser", measured, settings, RESULTS))


if __name__ == "__main__":
    main()
