import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from isbi_models import released_models

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy, so that nothing is left in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    for name in filter(None, tracked.stdout.decode().split("\0")):
        source, target = ROOT / name, folder / "tree" / name
        if source.is_file() and not name.startswith(("tests/", "docs/", "benchmarks/")):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder / "tree"],
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_is_pure_python(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")


def test_the_wheel_holds_every_module_the_models_and_nothing_else(wheel):
    folders = {
        "isbi_infer": "isbi_infer",
        "isbi_train": "isbi_train",
        "export": "isbi_export",
        "models": "isbi_models",
    }
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    modules = {
        str(Path(package) / path.relative_to(ROOT / folder))
        for folder, package in folders.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == modules
    assert {name.split("/")[0] for name in names} == set(folders.values())
    assert {Path(name).suffix for name in names} == {
        *(".py", ".typed", ".toml", ".onnx", ".pth", ".json", ".md", ".html", ".css", ".js", ".yaml")
    }
    shipped = {
        file.path.name
        for model in released_models().values()
        for file in (*model.files.values(), model.checkpoint)
    }
    assert {Path(name).name for name in names if name.endswith((".onnx", ".pth"))} == shipped


def installed_files(wheel):
    """Find the modules and folders of all that the wheel needs, and of what that needs in turn."""
    (metadata,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA"))
    asked = [
        Requirement(need)
        for need in Parser().parsestr(zipfile.ZipFile(wheel).read(metadata).decode()).get_all("Requires-Dist")
    ]
    needs = [need for need in asked if need.marker is None or need.marker.evaluate({"extra": "cpu"})]
    seen = set()
    while needs:
        found = distribution(needs.pop().name)
        if found.name not in seen:
            seen.add(found.name)
            further = map(Requirement, found.requires or ())
            needs += [need for need in further if need.marker is None or need.marker.evaluate({"extra": ""})]
            for top in {file.parts[0] for file in found.files if file.parts[0] != ".."}:
                yield Path(found.locate_file(top))


def test_the_installed_wheel_segments_without_torch(wheel, tmp_path):
    """A fresh environment that sees of this one only what the wheel asks for, with the extra for a CPU."""
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False)
    site = next(environment.glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    for path in installed_files(wheel):
        if not (allowed / path.name).exists():
            (allowed / path.name).symlink_to(path)
    (site / "allowed.pth").write_text(str(allowed))
    script = (
        "import sys, numpy as np, isbi_infer\n"
        "from isbi_infer.sample import synthetic_stack\n"
        "image, _ = synthetic_stack(1, 64, 64)\n"
        "p = isbi_infer.Segmenter(provider='cpu')(image)\n"
        "assert p.shape == image.shape and isbi_infer.__file__.startswith(sys.prefix)\n"
    )
    result = subprocess.run(
        [environment / "bin" / "python", "-I", "-c", script], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
