"""How programs are asked: help in groups with examples at any width, versions, and what a slip of the finger gets."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from isbi_infer import catalogue, cli, doctor, verify
from isbi_infer._version import __version__

BIN = Path(sys.executable).parent
APPS = {
    "isbi-infer": cli.app,
    "isbi-infer doctor": doctor.app,
    "isbi-infer models": catalogue.app,
    "isbi-infer verify": verify.app,
}


@pytest.fixture(params=APPS)
def program(request):
    """Return what asks one of the programs, in this process."""

    def ask(*arguments):
        return CliRunner().invoke(APPS[request.param], list(map(str, arguments)), prog_name=request.param)

    return ask


def asked(*arguments, app=cli.app, name="isbi-infer"):
    """Return the one line that a wrong command line gets."""
    found = CliRunner().invoke(app, list(map(str, arguments)), prog_name=name)
    assert found.exit_code == 2
    assert found.stdout == ""
    assert found.stderr.count("\n") == 1
    return found.stderr.strip()


def test_help_is_in_groups_and_every_option_says_what_it_is_for(program):
    said = program("--help").stdout
    assert said == program("-h").stdout
    assert "\nGeneral:\n" in said
    explained = re.findall(r"(?m)^  (-\S.*?)(?:  +(\S.*))?$\n(?:^ {6,}(\S.*)$)?", said)
    assert len(explained) >= 4
    assert all(beside or beneath for _, beside, beneath in explained)


def test_the_command_that_segments_shows_defaults_examples_and_the_others():
    said = CliRunner().invoke(cli.app, ["--help"], prog_name="isbi-infer").stdout
    headings = re.findall(r"(?m)^(\w[\w -]*):$", said)
    assert headings[:3] == ["Arguments", "Result", "Model and device"]
    assert headings[-3:] == ["General", "Examples", "Commands"]
    assert "[default: auto]" in said
    assert all(f"isbi-infer {name}" in said for name in ("stack.tif", "doctor", "models", "verify RESULT"))


@pytest.mark.parametrize("columns", [40, 80])
def test_help_fits_its_terminal(columns):
    done = subprocess.run(
        [BIN / "isbi-infer", "-h"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": str(columns)},
    )
    longest = max((line for line in done.stdout.splitlines() if "|" not in line), key=len)  # of choices
    assert len(longest) <= columns, longest


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_versions_are_those_of_what_matters(program, option):
    own, others = program(option).stdout.splitlines()
    assert own == f"isbi-infer {__version__}"
    found = dict(each.split(" ") for each in others.split(", "))
    import numpy

    assert found["numpy"] == numpy.__version__
    assert {"python", "tifffile"} < set(found)


def test_called_without_anything_it_says_what_it_is_for():
    found = CliRunner().invoke(cli.app, [], prog_name="isbi-infer")
    assert found.exit_code == 2
    assert found.stdout.startswith("Usage: isbi-infer [OPTIONS] ")
    assert "Examples:" in found.stdout
    assert "--halo" not in found.stdout
    assert found.stdout.rstrip().endswith("isbi-infer --help lists all options.")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["--providr", "cpu", "x.tif"], "isbi-infer: no such option --providr; did you mean --provider?"),
        (["x.tif", "--provider", "gpu"], "did you mean cuda?"),
        (["x.tif", "--provider", "openvin"], "did you mean openvino?"),
        (["x.tif", "--precision", "float16"], "did you mean fp16?"),
        (["x.tif", "--precision", "bfloat16"], "did you mean bf16?"),
        (["x.tif", "--emit", "Membranes"], "did you mean membrane?"),
        (["doctr"], "isbi-infer: doctr: neither a file nor a command; did you mean isbi-infer doctor?"),
    ],
)
def test_the_nearest_option_value_or_command_is_named(tmp_path, monkeypatch, arguments, meant):
    monkeypatch.chdir(tmp_path)
    assert asked(*arguments).endswith(meant)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x.tif", "--xyzzy"], "isbi-infer: no such option --xyzzy; isbi-infer --help shows what there is"),
        (["x.tif", "--tile", "many"], "invalid value for '--tile': expected a whole number; "),
        (["--json"], "isbi-infer: missing argument 'STACK'; "),
    ],
)
def test_where_nothing_is_near_the_help_is_named(arguments, said):
    assert said in asked(*arguments)


@pytest.mark.parametrize(("name", "there"), [("stak.tif", True), ("STACK.TIF", True), ("other.tif", False)])
def test_a_missing_stack_gets_the_name_of_one_that_is_there(tmp_path, name, there):
    (tmp_path / "stack.tif").touch()
    found = CliRunner().invoke(cli.app, [str(tmp_path / name)], prog_name="isbi-infer")
    assert found.exit_code == 4
    assert (f"did you mean {tmp_path / 'stack.tif'}?" in found.stderr) == there


def test_a_missing_model_gets_the_name_of_one_that_is_there(tmp_path, synthetic_ZYX):
    import tifffile

    (tmp_path / "model.onnx").touch()
    tifffile.imwrite(tmp_path / "stack.tif", synthetic_ZYX, photometric="minisblack")
    options = [str(tmp_path / "stack.tif"), "--model", str(tmp_path / "modle.onnx")]
    found = CliRunner().invoke(cli.app, options, prog_name="isbi-infer")
    assert found.exit_code == 5
    assert found.stderr.endswith(f"did you mean {tmp_path / 'model.onnx'}?\n")


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "isbi_infer", "-V"], capture_output=True, text=True)
    assert done.stdout.startswith(f"isbi-infer {__version__}\n")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("isbi-infer --prov", {"--provider"}),
        ("isbi-infer s.tif --provider open", {"openvino"}),
        ("isbi-infer doc", {"doctor"}),
        ("isbi-infer st", set()),  # the shell completes names of files where nothing is offered
        ("isbi-infer doctor --prov", set()),
        ("isbi-infer doctor --mod", {"--model"}),
        ("isbi-infer verify x --bl", {"--blocks"}),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_complete_options_values_and_commands(shell, line, offered):
    environment = {"_ISBI_INFER_COMPLETE": f"complete_{shell}"}
    if shell == "bash":
        environment |= {"COMP_WORDS": line.replace(" ", "\n"), "COMP_CWORD": str(line.count(" "))}
    else:
        environment["_TYPER_COMPLETE_ARGS"] = line
    done = subprocess.run(
        [BIN / "isbi-infer"], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.stderr == ""
    found = re.findall(r'(?:\(\(|\n)"([^"]+)"' if shell == "zsh" else r"\S+", done.stdout)
    assert set(found) - {"_files"} == offered, done.stdout
