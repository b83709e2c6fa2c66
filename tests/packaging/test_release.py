"""What a release consists of beside the wheel: images, the recipe for conda-forge and the citation."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from isbi_infer import __version__
from isbi_models import released_models

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMAGES = ("Dockerfile", "Dockerfile.cuda")


@pytest.mark.parametrize("name", IMAGES)
def test_the_linter_finds_nothing_in_an_image(name):
    beside = Path(sys.executable).with_name("hadolint")
    linter = beside if beside.exists() else shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([linter, ROOT / name], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_installs_extras_that_exist_at_the_pinned_versions(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "--constraint /opt/isbi-infer/constraints.txt" in text
    (asked,) = re.findall(r"/opt/isbi-infer\[([\w,]+)\]", text)
    assert set(asked.split(",")) <= set(PROJECT["optional-dependencies"])
    assert ("gpu" in asked.split(",")) == (name == "Dockerfile.cuda")
    assert ("cpu" in asked.split(",")) == (name == "Dockerfile")


def test_what_goes_into_an_image_is_what_the_wheel_is_built_from():
    kept = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    tops = {package.partition(".")[0] for package in setuptools["packages"]}
    folders = {setuptools["package-dir"].get(top, top) for top in tops}
    licences = {path.partition("/")[0] for path in PROJECT["license-files"]}
    assert kept == folders | licences | {"pyproject.toml", "constraints.txt", PROJECT["readme"]}


@pytest.fixture(scope="module")
def recipe():
    return yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8"))


def test_the_recipe_needs_and_offers_what_the_wheel_does(recipe):
    assert recipe["context"]["version"] == __version__
    needs = {re.sub(r"[\s\"]", "", need) for need in recipe["requirements"]["run"][1:]}
    runtime = [need for need in PROJECT["optional-dependencies"]["cpu"] if need.startswith("onnxruntime")]
    assert needs == {need.replace(" ", "") for need in (*PROJECT["dependencies"], *runtime)}
    offered = {f"{name} = {place}" for name, place in PROJECT["scripts"].items()}
    assert set(recipe["build"]["python"]["entry_points"]) == offered
    licences = {"MIT", *(model.licence for model in released_models().values())}
    assert set(recipe["about"]["license"].split(" AND ")) == licences
    assert all((ROOT / path).exists() for path in recipe["about"]["license_file"])


def test_rattler_build_reads_the_recipe():
    rattler_build = pytest.importorskip("rattler_build")
    read = rattler_build.Stage0Recipe.from_file(str(ROOT / "conda" / "recipe.yaml"))
    (rendered,) = read.render(rattler_build.VariantConfig.from_yaml("python_min: ['3.11']"))
    assert "python >=3.11" in list(rendered.recipe.requirements.run)


def test_the_citation_names_this_version_and_what_models_were_trained_on():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == __version__
    assert citation["license"] == "MIT"
    cited = " ".join(model.citation for model in released_models().values())
    assert {reference["doi"] for reference in citation["references"]} == set(
        re.findall(r"doi:(10\.\S+?)(?:;|$|\s)", cited + ";")
    )
