"""What an attempt is, and how it is carried out: by the real command lines, with little memory and little time."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

MODULES = (
    "pickle_payload",
    "external_data",
    "decompression_bomb",
    "allocation_bomb",
    "metadata_bomb",
    "terminal_escapes",
    "script_in_reports",
    "path_in_omezarr",
    "cluster_plan",
    "torchscript_code",
)
MEMORY = 4 * 2**30  # bytes more than the process has when an attempt begins
SECONDS = 60
_PROGRAMS = {
    "isbi-infer": "isbi_infer.cli",
    "isbi-infer verify": "isbi_infer.verify",
    "isbi-export": "isbi_export.cli",
    "isbi-train": "isbi_train.cli",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A command line on a malicious file, and what has to come of it.

    Attributes
    ----------
    program : str
        "isbi-infer", "isbi-infer verify", "isbi-export" or "isbi-train".
    arguments : list of str
        Of its command line.
    code : int
        What it has to leave with: of a refusal, or 0 where the file is harmless to open.
    says : str
        What the one line of the refusal has to say.
    harm : callable or None
        Returns what harm was done, empty where none.
    """

    program: str
    arguments: list[str]
    code: int
    says: str = ""
    harm: Callable[[], str] | None = None


Prepare = Callable[[Path], Attempt]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt; `fault` is empty where it was refused as it has to be."""

    name: str
    code: int
    said: str
    fault: str


def attempts(modules: tuple[str, ...] = MODULES) -> Iterator[tuple[str, Prepare]]:
    """Return the attempts of modules by name, such as "external_data: a link"."""
    for module in modules:
        for name, prepare in importlib.import_module(f"attacks.{module}").ATTEMPTS.items():
            yield f"{module}: {name}", prepare


def carry_out(name: str, prepare: Prepare) -> Outcome:
    """Carry out an attempt in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        attempt = prepare(Path(folder))
        before = set(Path(folder).rglob("*"))
        code, printed, said = run_in_process(attempt.program, attempt.arguments)
        faults = list(_faults(attempt, code, printed, said))
        if attempt.code:
            left = set(Path(folder).rglob("*")) - before
            faults += [f"it left {sorted(str(path) for path in left)}"] if left else []
    return Outcome(name, code, said, "; ".join(faults))


def _faults(attempt: Attempt, code: int, printed: str, said: str) -> Iterator[str]:
    lines = [line for line in said.splitlines() if ": note: " not in line]
    if code != attempt.code:
        yield f"left with {code}, expected {attempt.code}: {said!r}"
    if attempt.code and len(lines) != 1:
        yield f"said {len(lines)} lines: {said!r}"
    if attempt.says not in said:
        yield f"did not say {attempt.says!r}: {said!r}"
    if any(not char.isprintable() for char in (printed + said).replace("\n", "")):
        yield f"control characters reached the terminal: {printed + said!r}"
    if "Traceback" in said:
        yield "showed a traceback"
    if attempt.harm and (harm := attempt.harm()):
        yield harm


def run_in_process(program: str, arguments: list[str]) -> tuple[int, str, str]:
    """Run a command line in this process; return its exit code, what it printed and what it said."""
    app = importlib.import_module(_PROGRAMS[program]).app
    printed, said = io.StringIO(), io.StringIO()
    code = -1
    with _bounded(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        try:
            app(arguments, prog_name=program)
        except SystemExit as left:
            code = int(left.code or 0)
    return code, printed.getvalue(), said.getvalue()


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Let the process take `MEMORY` more than it has, and `SECONDS`."""

    def too_slow(*_: object) -> None:
        raise TimeoutError(f"it took more than {SECONDS} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGALRM, too_slow)
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + MEMORY, hard))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
