"""Names and metadata on the terminal: whatever is printed by a command goes through one place that escapes them."""

import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isbi_infer.errors import ImageError
from isbi_infer.terminal import exit_codes, printable, shown

STEERING = "\x1b[2J\x1b]0;t\x07\x9b1A\r\b\x7f\u202e"


@given(st.text())
def test_a_message_holds_no_control_character_and_a_text_none_but_its_lines_and_tabs(text):
    assert printable(text).isprintable()
    assert re.sub(r"[\n\t]", "", shown(text)).isprintable()
    assert shown(shown(text)) == shown(text)
    assert shown(text).count("\n") == text.count("\n")
    assert printable(text) == text or not text.isprintable()


@given(st.text(st.sampled_from("\x1b[31m0;K2JA\n")))
def test_on_a_terminal_colours_stay_and_nothing_else_does(text):
    left = shown(text, colours=True)
    assert re.sub(r"\x1b\[[0-9;]*m|\n", "", left).isprintable()
    assert re.findall(r"\x1b\[[0-9;]*m", left) == re.findall(r"\x1b\[[0-9;]*m", text)


def test_standard_output_is_the_callers_again_after_a_command(capsys):
    before = sys.stdout
    with exit_codes("test"):
        print(STEERING)
        sys.stdout.writelines([STEERING, "\n"])
    assert sys.stdout is before
    with pytest.raises(SystemExit), exit_codes("test", debug=True):
        raise ValueError(STEERING)
    assert sys.stdout is before
    printed, said = capsys.readouterr()
    assert printed == f"{printable(STEERING)}\n" * 2
    assert said.replace("\n", "").isprintable()
    assert "Traceback" in said


def test_a_note_within_commands_within_commands_is_printed_once(capsys):
    log = logging.getLogger("isbi_infer.test")
    with exit_codes("outer"):
        with exit_codes("inner"):
            log.warning("first")
        log.warning("second")
    assert capsys.readouterr().err == "inner: note: first\nouter: note: second\n"


def test_control_characters_of_a_note_and_of_an_error_are_escaped(capsys):
    with exit_codes("test"):
        logging.getLogger("isbi_infer.test").warning("found %s", STEERING)
    with pytest.raises(SystemExit), exit_codes("test"):
        raise ImageError(f"{STEERING}: damaged")
    said = capsys.readouterr().err
    assert said == f"test: note: found {printable(STEERING)}\ntest: {printable(STEERING)}: damaged\n"


def test_a_command_on_a_real_terminal_shows_escapes_and_its_own_colours(tmp_path):
    script = (
        "import typer; from isbi_infer.terminal import exit_codes\n"
        f"with exit_codes('test'): typer.echo(typer.style('mine', fg='green') + {STEERING!r})"
    )
    main, side = pty.openpty()
    done = subprocess.run([sys.executable, "-c", script], stdout=side, stderr=subprocess.PIPE, check=True)
    os.close(side)
    printed = os.read(main, 4096).decode()
    os.close(main)
    assert done.stderr == b""
    assert printed == f"\x1b[32mmine\x1b[0m{printable(STEERING)}\r\n"


@pytest.mark.parametrize("package", ["isbi_infer", "isbi_train", "export"])
def test_what_is_said_on_standard_error_is_escaped_where_it_is_said(package):
    """Standard error is the terminal's own for progress, so texts are escaped one by one; a f-string is not taken."""
    for path in (Path(__file__).parents[2] / package).rglob("*.py"):
        for line in re.findall(r"typer\.echo\((.*), err=True\)", path.read_text(encoding="utf-8")):
            assert "printable(" in line, path
