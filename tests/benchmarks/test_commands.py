"""Commands that the pages of the benchmarks show can be typed: every option and file in them is there."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "docs" / f"{name}.md"
    for name in ("performance", "throughput", "networks", "recipes", "robustness")
]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
_BLOCK = re.compile(r"(?:^    .+\n)+", re.MULTILINE)
_SHOWN = re.compile(r"`((?:python -m benchmarks|isbi-infer|isbi-train|isbi-export|make) ?[^`]*)`")
_OPTIONAL = re.compile(r"\[(--[^]]*)\]")
_PROGRAMS = ("make", "pip", "pytest", "pytest-benchmark", "python", "isbi-infer", "isbi-train", "isbi-export")


def commands(page):
    """The commands of a page: lines of its indented blocks, and what stands in backquotes."""
    text = page.read_text(encoding="utf-8")
    lines = []
    for block in _BLOCK.findall(text):
        lines += re.sub(r"\\\n", " ", block).splitlines()
    shown = [_OPTIONAL.sub(r"\1", found.replace("\n", " ")) for found in _SHOWN.findall(text)]
    for line in [*lines, *shown]:
        words = shlex.split(line.strip().removeprefix(".venv/bin/"), comments=True)
        if words and words[0].removeprefix(".venv/bin/") in _PROGRAMS:
            yield words


ALL = [(page.name, words) for page in PAGES for words in commands(page)]
ALL += [
    (CONTRIBUTING.name, words) for words in commands(CONTRIBUTING) if any("bench" in word for word in words)
]


def named(program):
    """The commands of a program, each once, that say more than its name."""
    found = dict.fromkeys(tuple(words) for _, words in ALL if words[0] == program and len(words) > 1)
    assert found, program
    return [pytest.param(words, id=" ".join(words)) for words in found]


def test_every_page_shows_commands():
    assert {page.name for page in (*PAGES, CONTRIBUTING)} == {page for page, _ in ALL}


@pytest.mark.parametrize("words", named("make"))
def test_a_target_of_make_is_there(words):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in (word for word in words[1:] if "=" not in word):
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("words", named("python"))
def test_a_module_takes_the_options_that_are_shown(words):
    assert words[1] == "-m"
    module = words[2]
    spec = importlib.util.find_spec(module)
    assert Path(spec.origin).is_relative_to(ROOT)
    if spec.submodule_search_locations is not None:
        module += ".__main__"
    importlib.import_module(module).parser().parse_args(words[3:])


@pytest.fixture(scope="module")
def pytest_help():
    command = [sys.executable, "-m", "pytest", "benchmarks", "--help", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("words", named("pytest"))
def test_pytest_has_the_files_and_options_that_are_shown(words, pytest_help):
    for word in words[1:]:
        if word.startswith("benchmarks"):
            assert (ROOT / word).exists()
        elif word.startswith("--"):
            assert re.search(rf"^ +{re.escape(word.partition('=')[0])}\b", pytest_help, re.MULTILINE), word


@pytest.mark.parametrize("words", named("pip"))
def test_extras_that_pip_is_told_to_install_are_there(words):
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    wanted = [extra for word in words for extra in re.findall(r"\[([\w,]+)\]", word)]
    assert wanted
    for extra in ",".join(wanted).split(","):
        assert extra in extras


@pytest.mark.parametrize("words", [*named("isbi-train"), *named("isbi-infer"), *named("isbi-export")])
def test_our_own_programs_have_the_options_that_are_shown(words):
    names = [word.partition("=")[0] for word in words[1:] if word.startswith("--")]
    command = [word for word in words[1:2] if re.fullmatch(r"[a-z]+", word)]
    program = str(Path(sys.executable).with_name(words[0]))
    done = subprocess.run(
        [program, *command, "--help"], env=os.environ | {"COLUMNS": "200"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name in names:
        assert re.search(rf"{re.escape(name)}\b", done.stdout), name
