"""Settings for all tests.

`forked` and `drawn` beside this file are found by their names.
"""

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

FOLDER = str(Path(__file__).parent)
if FOLDER not in sys.path:
    sys.path.append(FOLDER)

# One thread in a process and in the programs that it starts, set before NumPy and torch read it: `make test`
# runs several processes, and threads that wait for each other at every layer stand still when another has their core.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # of tests that import ONNX Runtime themselves

# Deadlines measure the machine, not the code. `make test` takes the same examples every time, so that a red run can be
# run again; `make test-more` takes new ones, and a failure prints the line that repeats it.
settings.register_profile("project", deadline=None, max_examples=40, derandomize=True)
settings.register_profile("nightly", deadline=None, max_examples=600, print_blob=True)
settings.load_profile("project")


TRIED = "tried "  # begins the name of a count among a test's properties


def pytest_addoption(parser):
    parser.addoption("--store-figures", metavar="FILE", help="Store what the tests of faults tried, as JSON.")


def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed:
        tried = [(name, n) for name, n in report.user_properties if name.startswith(TRIED)]
        for name, number in tried:
            _counted[name.removeprefix(TRIED)] += number
        _counted["tests"] += bool(tried) or "faults" in report.nodeid


def pytest_sessionfinish(session):
    path = session.config.getoption("--store-figures")
    if path and not hasattr(session.config, "workerinput"):
        with open(path, "w") as file:
            json.dump(dict(sorted(_counted.items())), file, indent=1)
            file.write("\n")


_counted = Counter()


@pytest.fixture(scope="session")
def chromium():
    """Start the installed Chromium, with these options: one driver for a process, which holds no second one."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        yield partial(driver.chromium.launch, executable_path=found)


@pytest.fixture(scope="session")
def proved_on_onnxruntime_alone():
    """Leave OpenVINO out of the proofs of exports, a context: it compiles each file for every shape of them."""

    @contextmanager
    def proved():
        from isbi_infer.model import devices

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(devices, "DEVICES", tuple(r for r in devices.DEVICES if r.name != "openvino"))
            yield

    return proved


@pytest.fixture
def figures(record_property):
    """Count what a test tried, such as `figures(kills=12)`, for the table in docs/reliability.md."""

    def count(**tried):
        for name, number in tried.items():
            record_property(f"{TRIED}{name}", number)

    return count


@pytest.fixture(scope="session", autouse=True)
def _compiled_models_of_the_tests(tmp_path_factory):
    """Keep compiled models out of the user's own cache, also in programs that tests start."""
    os.environ["ISBI_INFER_CACHE"] = str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(autouse=True)
def _cache_of_compiled_models_is_on():
    """Turn it on again where a test ran the exporter, which turns it off, in this process."""
    from isbi_infer.backends.compiled_cache import use_cache

    use_cache(True)


@dataclass(frozen=True)
class Screen:
    """What a program drew on a terminal.

    Attributes: `raw`, all of it; `text`, without the control sequences; `frames`, each line as it was drawn, also those
    that were wiped away; `lines`, those that stay; `code`, the exit code.
    """

    raw: str
    code: int

    @property
    def text(self):
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw)

    @property
    def frames(self):
        return [frame.strip() for frame in re.split(r"[\r\n]+", self.text) if frame.strip()]

    @property
    def lines(self):
        rows, at = [""], 0
        for up, wiped, other, text in re.findall(
            r"\x1b\[(\d*)A|(\x1b\[2K)|(\x1b\[[0-9;?]*[A-Za-z]|\r)|(\n|[^\x1b\r\n]+)", self.raw
        ):
            if text == "\n":
                at += 1
                rows += [""] * (at + 1 - len(rows))
            elif up:
                at = max(0, at - int(up))
            elif wiped:
                rows[at] = ""
            elif not other:
                rows[at] += text
        return [row.strip() for row in rows if row.strip()]


@pytest.fixture
def terminal():
    """Return what runs a program on a terminal of some columns, until it ends."""

    def run(*command, columns=80, cwd=None, at_line=None, **environment):
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        known = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
        with subprocess.Popen(
            command,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            cwd=cwd,
            env={**known, "TERM": "xterm-256color", **environment},
        ) as process:
            os.close(follower)
            drawn = b""
            try:
                while chunk := os.read(leader, 65536):
                    drawn += chunk
                    if at_line and at_line[0].encode() in drawn:
                        process.send_signal(at_line[1])
                        at_line = None
            except OSError:  # Linux ends a terminal's output so
                pass
        os.close(leader)
        return Screen(drawn.decode(), process.returncode)

    return run
