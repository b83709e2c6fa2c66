"""Flags out of the settings: each one sets its own field, is typed by it, and is shown under its heading."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from isbi_infer.terminal.commands import Command
from isbi_train.cli import app
from isbi_train.commands.flags import with_setting_flags
from isbi_train.config.flags import flag_of
from isbi_train.config.settings import Settings, resolve

ROOT = Path(__file__).parents[2]
FLAGS = {
    (section.name, field.name): flag
    for section in fields(Settings)
    for field in fields(getattr(Settings(), section.name))
    if (flag := flag_of(field.metadata))
}


@pytest.fixture
def written():
    """Return what a command with the flags of all settings is called with."""
    seen = []
    probe = typer.Typer(add_completion=False, rich_markup_mode=None)

    @probe.command(cls=Command)
    @with_setting_flags
    def command(plain: int = 1, *, flags):
        seen.append((plain, flags))

    def run(*arguments):
        done = CliRunner().invoke(probe, list(map(str, arguments)))
        return (seen.pop() if seen else None), done

    return run


def other_value(section, name):
    """Return a value that the field accepts and that is not its default."""
    flag, default = FLAGS[section, name], getattr(getattr(Settings(), section), name)
    if flag.choices:
        return next(choice for choice in flag.choices if choice != default)
    if isinstance(default, bool):
        return None
    if flag.path:
        return "/somewhere/else"
    if name == "unshuffle":
        return 4
    return 0.75 if isinstance(default, float) or name.endswith("_nm") else 6


@pytest.mark.parametrize(("section", "name"), FLAGS, ids=lambda part: part)
def test_a_flag_changes_its_own_setting_and_no_other(written, section, name):
    value = other_value(section, name)
    option = FLAGS[section, name].name or f"--{name.replace('_', '-')}"
    start = {"network": {"unshuffle": 1}} if name == "arch" else {}
    (_, flags), _ = written(option, *([] if value is None else [value]))
    before = resolve([("start", start)])
    after = before.overlaid(flags, "flags")
    changed = {
        (part.name, field.name)
        for part in fields(Settings)
        for field in fields(getattr(after, part.name))
        if getattr(getattr(after, part.name), field.name) != getattr(getattr(before, part.name), field.name)
    }
    assert changed == {(section, name)}


def test_without_flags_nothing_is_laid_over_the_settings(written):
    assert written("--plain", 3)[0] == (3, {})


def test_paths_are_stored_absolute_since_settings_are_read_again_elsewhere(written):
    (_, flags), _ = written("--data", "here", "--teacher", "a.onnx", "--teacher", "b.onnx")
    assert flags["inputs"] == {
        "data": str(Path("here").absolute()),
        "teachers": [str(Path(name).absolute()) for name in ("a.onnx", "b.onnx")],
    }


@pytest.mark.parametrize("arguments", [("--epochs", "many"), ("--device", "tpu"), ("--dropout", "a half")])
def test_a_value_of_another_type_is_refused_with_the_flag(written, arguments):
    called, done = written(*arguments)
    assert called is None
    assert done.exit_code == 2
    assert arguments[0] in done.output


def test_the_help_shows_each_flag_under_the_heading_of_its_section(written):
    blocks = re.split(r"^(\w+):$", written("--help")[1].output, flags=re.MULTILINE)
    shown = {
        heading: set(re.findall(r"^ +(--[a-z-]+)", block, re.MULTILINE))
        for heading, block in zip(blocks[1::2], blocks[2::2], strict=True)
    }
    assert "--plain" in shown["Options"]
    assert "--help" in shown["General"]
    assert {"--data", "--pixel-size", "--resample", "--teacher"} <= shown["Data"]
    assert {"--arch", "--base"} <= shown["Network"]
    assert {"--epochs", "--hold-out-start", "--calibrate"} <= shown["Training"]
    assert sum(map(len, shown.values())) == len(FLAGS) + 2


def test_every_flag_of_fit_that_the_documentation_shows_exists():
    known = set(re.findall(r"--[a-z-]+", CliRunner().invoke(app, ["fit", "--help"]).output))
    shown = {
        flag
        for page in (ROOT / "docs" / "training.md", ROOT / "README.md")
        for line in page.read_text().splitlines()
        if (found := re.search(r"(?:isbi-train|isbi_train) fit (.*)", line))
        for flag in re.findall(r"--[a-z-]+", found[1].partition("#")[0])
    }
    assert len(shown) > 5
    assert shown <= known


def test_the_program_lists_its_commands_and_versions_and_names_the_nearest_command():
    bare, versions = CliRunner().invoke(app, []), CliRunner().invoke(app, ["-V"])
    assert bare.exit_code == 2
    for name in ("fit", "evaluate", "download", "split", "merge", "augment", "analyse", "curves"):
        assert re.search(rf"^  {name} +\w.*\.$", bare.output, re.MULTILINE)  # not cut off
        said = CliRunner().invoke(app, [name, "-h"]).output
        assert "General:" in said
        assert f"isbi-train {name} " in said.partition("Examples:")[2]
    assert re.search(r"^python .*torch \d.*numba \d", versions.output, re.MULTILINE)
    wrong = CliRunner().invoke(app, ["evalute"])
    assert wrong.exit_code == 2
    assert wrong.stderr.endswith("no such command evalute; did you mean evaluate?\n")


def test_defaults_of_the_settings_are_shown():
    said = " ".join(CliRunner().invoke(app, ["fit", "--help"]).output.split())
    assert "[default: 0.002]" in said
    assert "Where to train. [default: auto]" in said
    assert "auto|fp32|bf16|fp16" in said


@pytest.mark.parametrize("command", ["fit", "evaluate", "analyse", "augment", "curves"])
def test_each_command_says_its_programs_version(command):
    done = CliRunner().invoke(app, [command, "-V"])
    assert done.exit_code == 0
    assert done.stdout == CliRunner().invoke(app, ["-V"]).stdout
