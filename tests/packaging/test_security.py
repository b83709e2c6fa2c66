"""SECURITY.md and the bill of materials say what is true of the package."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
FLOORS = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", TEXT, re.MULTILINE)


def needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for lines in (project["dependencies"], *project["optional-dependencies"].values()):
        yield from map(Requirement, lines)


@pytest.mark.parametrize(("package", "floor"), FLOORS)
def test_a_floor_for_security_is_that_of_every_extra_that_needs_the_package(package, floor):
    found = [need for need in needs() if need.name in (package, f"{package}-gpu")]
    assert found
    assert all(f">={floor}" in str(need.specifier) for need in found)


def test_floors_are_given_for_what_reads_files_of_strangers():
    assert {package for package, _ in FLOORS} == {"onnxruntime", "torch", "onnx"}


def said_by_make(target):
    command = ["make", "-nB", "--no-print-directory", target]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def recipe_of_audit():
    return "mkdir -p build" + said_by_make("audit").rpartition("mkdir -p build")[2]


def test_the_audit_asks_about_every_pin_and_fails_where_it_cannot():
    assert "--requirement constraints.txt" in recipe_of_audit()
    assert "--strict" in recipe_of_audit()


@pytest.mark.parametrize(
    ("does", "code", "says"),
    [
        (
            "print('Traceback (most recent call last):\\nno network', file=sys.stderr); sys.exit(1)",
            2,
            "cannot be asked",
        ),
        (
            "print('ERROR: x: not found on PyPI and could not be audited', file=sys.stderr); sys.exit(1)",
            2,
            "cannot",
        ),
        ("print('Found 1 known vulnerability', file=sys.stderr); sys.exit(1)", 1, "Found 1 known"),
        ("print('No known vulnerabilities found', file=sys.stderr)", 0, "No known"),
    ],
)
def test_the_audit_tells_a_weakness_from_a_database_that_cannot_be_asked(tmp_path, does, code, says):
    """The recipe of `make audit` around a program that ends as pip-audit does."""
    program = tmp_path / "pip-audit"
    program.write_text(f"#!{sys.executable}\nimport sys\n{does}\n")
    program.chmod(0o755)
    recipe = re.sub(r"\S*bin/pip-audit", str(program), recipe_of_audit())
    done = subprocess.run(["sh", "-c", recipe], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_release_has_the_bill_of_materials_beside_the_wheel_and_its_checksum():
    said = said_by_make("dist")
    assert "-o dist/sbom.json" in said
    assert "sha256sum *.whl sbom.json > SHA256SUMS" in said


@pytest.mark.more
def test_the_bill_of_materials_holds_every_pin(tmp_path):
    pytest.importorskip("cyclonedx_py")
    command = [sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", "constraints.txt"]
    subprocess.run([*command, "-o", tmp_path / "sbom.json"], cwd=ROOT, check=True, capture_output=True)
    found = json.loads((tmp_path / "sbom.json").read_text())
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    assert {f"{part['name']}=={part['version']}" for part in found["components"]} == {
        p.split("  #")[0] for p in pins
    }
