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


def test_the_audit_asks_about_every_pin_and_fails_where_it_cannot():
    said = subprocess.run(
        ["make", "-nB", "--no-print-directory", "audit"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    command = said.strip().splitlines()[-1]
    assert "--requirement constraints.txt" in command
    assert "--strict" in command


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
