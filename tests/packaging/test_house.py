"""The house rules that no tool holds: what an import brings in, what is public, what is pinned."""

import ast
import inspect
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import isbi_infer
import isbi_infer.errors

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "scipy", "skimage", "numba", "matplotlib", "zarr", "dask", "onnx", "napari"}
RUNTIMES = {"onnxruntime", "openvino"}


def brought_in_by(code):
    """Return the top-level modules that are loaded after some code has run in a process of its own."""
    script = f"import sys\ntry:\n    {code}\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stderr.split()}


def test_importing_the_core_brings_in_no_runtime_and_nothing_heavy():
    loaded = brought_in_by(
        "from isbi_infer import Segmenter; import isbi_infer.volumes, isbi_infer.sample, isbi_infer.scoring"
    )
    assert {"isbi_infer", "numpy", "tifffile"} <= loaded
    assert loaded & (HEAVY | RUNTIMES | {"typer"}) == set()


def test_help_brings_in_neither_numpy_nor_a_runtime():
    loaded = brought_in_by("sys.argv = ['isbi-infer', '--help']; from isbi_infer.cli import main; main()")
    assert "isbi_infer" in loaded
    assert loaded & (HEAVY | RUNTIMES | {"numpy", "tifffile"}) == set()


def test_what_is_public_is_listed_and_what_is_listed_can_be_imported():
    listed = set(isbi_infer.__all__)
    found = {}
    exec("from isbi_infer import *", found)
    assert listed <= set(found)
    own = {
        name
        for name, value in vars(isbi_infer).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("isbi_infer.")
    }
    assert own <= listed


def test_every_error_that_a_user_may_catch_is_public_and_an_isbi_error():
    errors = {
        name: value
        for name, value in vars(isbi_infer.errors).items()
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == "isbi_infer.errors"
    }
    assert len(errors) > 1
    assert set(errors) <= set(isbi_infer.__all__)
    assert all(issubclass(error, isbi_infer.IsbiError) for error in errors.values())


@pytest.mark.parametrize("package", ["isbi_infer", "isbi_train", "export", "models", "benchmarks"])
def test_nothing_is_unpickled_with_code_in_it(package):
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "weights_only":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is True, path


def test_whatever_an_extra_needs_is_pinned_to_a_version_that_it_takes():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    project["optional-dependencies"].pop("gpu")  # what is tested is tested on a CPU
    for line in chain(project["dependencies"], *project["optional-dependencies"].values()):
        need = Requirement(line)
        if need.name != project["name"]:
            assert need.specifier.contains(pinned[canonicalize_name(need.name)]), line
