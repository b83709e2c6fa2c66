"""``python -m docs.builder [OUT]``: build the site into a folder.

``--draw`` draws docs/images anew, ``--outside`` asks the network whether every address outside the site answers.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from isbi_models import released_models

from . import commands, drawings, examples, links, messages
from .demo import assemble
from .npm import BuildError

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DRAWING = DOCS / "images" / "tiling.svg"
_OTHER_PAGES, _CARDS = "% other pages", "% cards"


def build(out: Path) -> None:
    """Build the site into a new folder.

    Raises
    ------
    BuildError
        If a page has a fault, an example or a link leads nowhere, or what the demo needs cannot be fetched.
    """
    faults = "".join(examples.run_examples(module)[1] for module in examples.modules_with_examples())
    if faults:
        raise BuildError(f"examples in docstrings give something else:\n{faults}")
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / "pages"
        stage(staged)
        done = _sphinx("html", staged, out, "-W", "--keep-going", "-n", "-q", "-E")
        if done.returncode:
            raise BuildError(f"the pages have faults:\n{done.stderr.replace(str(staged), 'docs')}")
    shutil.rmtree(out / ".doctrees", ignore_errors=True)
    assemble(out / "demo")
    if broken := links.follow(out).faults:
        raise BuildError("links lead nowhere:\n" + "\n".join(broken))


def ask_outside() -> None:
    """Ask the network whether every address outside the site answers.

    Raises
    ------
    BuildError
        If one does not; each is named with its page.
    """
    with tempfile.TemporaryDirectory() as folder:
        staged, out = Path(folder) / "pages", Path(folder) / "out"
        stage(staged)
        done = _sphinx("linkcheck", staged, out, "-q", "-E")
        listed = [json.loads(line) for line in (out / "output.json").read_text(encoding="utf-8").splitlines()]
    outside = [found for found in listed if found["uri"].startswith("http")]
    for found in outside:
        print(f"{found['status']}: {found['uri']} ({found['filename']}:{found['lineno']})")
    if done.returncode or any(found["status"] in ("broken", "timeout") for found in outside):
        raise BuildError("an address does not answer; is there a network?")


def _sphinx(builder: str, pages: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", *options, "-b", builder, str(pages), str(out)]
    return subprocess.run(command, capture_output=True, text=True)


def stage(folder: Path) -> None:
    """Lay out the pages as the site has them, with the generated ones."""
    shutil.copytree(DOCS, folder, ignore=shutil.ignore_patterns("builder", "demo", "__pycache__"))
    (folder / "demo").mkdir()
    shutil.copy(DOCS / "demo" / "icon.svg", folder / "demo")
    shutil.copytree(ROOT / "models", folder / "models", ignore=_all_but(".md", ".png", ".html", ".json"))
    shutil.copytree(ROOT / "benchmarks" / "results", folder / "benchmarks" / "results")
    beside = [
        page for page in ROOT.glob("*.md") if page.name != "README.md"
    ]  # which the first page stands for
    for path in (*beside, ROOT / "LICENSE", ROOT / "CITATION.cff"):
        shutil.copy(path, folder)
    (folder / "commands.md").write_text(commands.page(), encoding="utf-8")
    (folder / "messages.md").write_text(messages.page(), encoding="utf-8")
    for page in folder.rglob("*.md"):
        # In the checkout pages link to files outside docs/, which lie inside the site.
        text = page.read_text(encoding="utf-8")
        page.write_text(re.sub(r"\]\((?:\.\./)?docs/", "](", _raised(page, folder, text)), encoding="utf-8")
    _list_pages(folder)


def _raised(page: Path, folder: Path, text: str) -> str:
    if page.parent == folder:
        return text.replace("](../", "](")
    return text.replace("](../docs/", "](../")


def _all_but(*suffixes: str):  # noqa: ANN202
    return lambda _, names: [name for name in names if not name.endswith(suffixes)]


def _list_pages(folder: Path) -> None:
    """Put the models' cards into the table of contents, and pages that it does not name under How-to."""
    index = folder / "index.md"
    text = index.read_text(encoding="utf-8")
    listed = set(re.findall(r"^([\w/-]+)$|<([\w/-]+)>$", text, re.MULTILINE))
    names = {name for pair in listed for name in pair} | {"index"}
    others = [page.stem for page in sorted(folder.glob("*.md")) if page.stem not in names]
    cards = [f"models/{model.card.stem}" for model in released_models().values()]
    text = text.replace(_OTHER_PAGES, "\n".join(others)).replace(_CARDS, "\n".join(cards))
    index.write_text(text, encoding="utf-8")


def main() -> None:
    """Build, draw, or ask."""
    if sys.argv[1:] == ["--draw"]:
        DRAWING.write_text(drawings.tiling(), encoding="utf-8")
        return
    try:
        if sys.argv[1:] == ["--outside"]:
            ask_outside()
            return
        out = Path(sys.argv[1] if len(sys.argv) > 1 else "build/site")
        shutil.rmtree(out, ignore_errors=True)
        build(out)
    except BuildError as error:
        sys.exit(f"docs: {error}")
    print(f"{out}/index.html; the demo needs a server: python -m http.server --directory {out}")


if __name__ == "__main__":
    main()
