"""The examples in docstrings: each is run, and gives what stands below it."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PACKAGES = {
    "isbi_infer": "isbi_infer",
    "isbi_train": "isbi_train",
    "isbi_export": "export",
    "isbi_models": "models",
}


def modules_with_examples() -> list[str]:
    """Return the names of the modules whose source shows an example."""
    return sorted(_names())


def _names() -> Iterator[str]:
    for package, folder in _PACKAGES.items():
        for path in (_ROOT / folder).rglob("*.py"):
            if ">>> " in path.read_text(encoding="utf-8"):
                parts = path.relative_to(_ROOT / folder).with_suffix("").parts
                yield ".".join((package, *(part for part in parts if part != "__init__")))


def run_examples(module: str) -> tuple[int, str]:
    """Run the examples of a module in an empty folder; return how many lines were run, and what went wrong.

    An example that is skipped is wrong too: a reader cannot tell it from one that runs.
    """
    source = importlib.import_module(module)
    said = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for test in doctest.DocTestFinder(exclude_empty=True).find(source, module):
            for example in test.examples:
                if doctest.SKIP in example.options:
                    said.write(f"{test.name}: {example.source.strip()}: skipped\n")
            runner.run(test, out=said.write)
    return runner.tries, said.getvalue()


def main() -> None:
    """Run all of them; leave with 1 where one fails."""
    results = {module: run_examples(module) for module in modules_with_examples()}
    faults = "".join(fault for _, fault in results.values())
    print(f"{sum(lines for lines, _ in results.values())} lines of examples in {len(results)} modules")
    sys.exit(faults or None)


if __name__ == "__main__":
    main()
