"""``isbi-export``: files, exit codes, and one line where something is wrong."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import forked
import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from isbi_export.cli import app
from isbi_export.proof.gates import GATES, Gate
from isbi_infer import Segmenter
from isbi_infer.model.contract import parse_contract
from isbi_infer.model.file import read_model_file
from isbi_models import default_model, released_models
from isbi_train.config import NetworkConfig

RELEASED = default_model().checkpoint.path.parent
REPORT = ["model.parity.html", "model.parity.json"]


@pytest.fixture
def command():
    """Run the command in this process, which has loaded torch already."""
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


def test_json_is_one_object_about_the_files_asked_for(trained, published, tmp_path):
    done = forked.run("isbi-export", trained, "--output", tmp_path, "--formats", "onnx", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (file,) = json.loads(done.stdout)["files"]
    assert file["path"] == str(tmp_path / "model.onnx")
    assert file["file_format"] == "onnx"
    assert 0 < file["largest"] <= 1e-5
    assert file["changed"] < 1e-5
    assert [1, 1, 8, 8] in [found["shape"] for found in file["comparisons"]]
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", *REPORT]
    assert json.loads((tmp_path / "model.parity.json").read_text())["files"][0]["largest"] == file["largest"]
    # The same as another process wrote:
    # graph and weights; the contract names the runtimes of this machine, which `published` leaves out in part.
    digests = {
        read_model_file((folder / "model.onnx").read_bytes()).digest for folder in (tmp_path, published)
    }
    assert len(digests) == 1


@pytest.mark.usefixtures("exported_once")
def test_a_line_tells_how_far_each_file_is_from_the_checkpoint(command, save, tmp_path):
    done = command(save(), "--formats", " torchscript,")
    assert done.exit_code == 0
    line, report, following = done.stdout.splitlines()
    assert line.startswith(f"{tmp_path / 'model.pt'}: differs from the checkpoint by at most ")
    assert report == f"{tmp_path / 'model.parity.html'}: the proofs, to look at"
    assert following == f"next, isbi-infer STACK --model {tmp_path / 'model.pt'}"
    stages = done.stderr.splitlines()  # each proof is named as it begins
    proofs = [stage.removeprefix("model.pt: ") for stage in stages if stage.startswith("model.pt: ")]
    assert proofs[0] == "writing it aside"
    assert re.fullmatch(r"against the checkpoint on \d+ inputs", proofs[1])
    assert {"tiles against whole sections", "on cpu in fp32", "again, with its contract in it"} < set(proofs)
    assert stages[-1] == "measuring times"
    assert sorted(os.listdir(tmp_path)) == [*REPORT, "model.pt", "model.pth"]


@pytest.mark.usefixtures("exported_once")
def test_what_fails_its_gate_is_one_line_and_exit_code_5_and_the_others_are_published(
    monkeypatch, command, save, tmp_path
):
    monkeypatch.setitem(GATES, "fp16", Gate(largest=0.0))
    monkeypatch.setitem(GATES, "int8", Gate(largest=0.0))
    failed = command(save(), "--formats", "onnx", "--precision", "fp32,fp16,int8")
    assert failed.exit_code == 5
    assert failed.stdout.startswith(f"{tmp_path / 'model.onnx'}: differs from the checkpoint by at most ")
    half, eight = (line for line in failed.stderr.splitlines() if line.startswith("isbi-export: "))
    assert half.startswith(f"isbi-export: {tmp_path / 'model.fp16.onnx'}: the onnx fp16 file differs")
    assert eight.startswith(f"isbi-export: {tmp_path / 'model.int8.onnx'}: the onnx int8 file differs")
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", *REPORT, "model.pth"]


@pytest.mark.usefixtures("exported_once")
def test_a_package_is_written_from_the_float32_files(command, save, tmp_path):
    done = command(save(), "--package", "--licence", "CC-BY-4.0", "--name", "Membranes of my fly")
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (0, "packing")
    assert f"{tmp_path / 'model.bioimage.zip'}: a bioimage.io package" in done.stdout.splitlines()
    with zipfile.ZipFile(tmp_path / "model.bioimage.zip") as archive:
        assert archive.read("model.onnx") == (tmp_path / "model.onnx").read_bytes()
        assert archive.read("model.pt") == (tmp_path / "model.pt").read_bytes()
        assert b"name: Membranes of my fly" in archive.read("rdf.yaml")


@pytest.mark.usefixtures("exported_once")
def test_terms_of_what_weights_grew_from_go_into_contract_note_and_report(command, save, tmp_path):
    origin = {"name": "someone's", "licence": "CC-BY-NC-4.0", "terms": "non-commercial", "citation": "A 2020"}
    data = {
        "sha256": {"images": "i", "labels": "l"},
        "sections": 30,
        "pixel_size_nm": 4.0,
        "origins": [origin],
    }
    checkpoint = save(data=data)
    refused = command(checkpoint, "--formats", "onnx", "--package", "--licence", "MIT")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "licence MIT allows commercial use, but the weights grew from someone's" in refused.stderr
    assert os.listdir(tmp_path) == ["model.pth"]
    done = command(checkpoint, "--formats", "onnx", "--package")
    assert done.exit_code == 0
    assert (
        "note: the terms of someone's (non-commercial; CC-BY-NC-4.0; publications cite A 2020)" in done.stderr
    )
    (entry,) = onnx.load(tmp_path / "model.onnx").metadata_props
    assert parse_contract(entry.value).provenance["training"]["origins"] == [origin]
    assert "someone's" in (tmp_path / "model.parity.json").read_text()


def test_bare_weights_are_exported_and_nothing_is_claimed_about_them(command, seasoned, tmp_path):
    network = seasoned(NetworkConfig(base=2, depth=1, unshuffle=1))
    torch.save(
        {f"module.{name}": weight for name, weight in network.state_dict().items()}, tmp_path / "bare.pth"
    )
    failed = command(tmp_path / "bare.pth", "--formats", "onnx")
    assert (failed.exit_code, failed.stdout) == (2, "")
    assert "--arch" in failed.stderr
    done = command(tmp_path / "bare.pth", "--formats", "onnx", "--arch", "unet")
    assert done.exit_code == 0
    (entry,) = onnx.load(tmp_path / "bare.onnx").metadata_props
    contract = parse_contract(entry.value)
    training = contract.provenance["training"]
    assert (contract.provenance["scores"], contract.pixel_size_nm) == ({}, None)
    assert {training[name] for name in ("data_sha256", "sections", "epochs")} == {None}
    assert training["network"]["base"] == 2


def test_a_foreign_checkpoint_is_one_line_and_exit_code_5(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"no checkpoint")
    failed = forked.run("isbi-export", tmp_path / "model.pth")
    assert failed.returncode == 5
    assert failed.stdout == ""
    assert failed.stderr.startswith(f"isbi-export: {tmp_path / 'model.pth'}: not a readable checkpoint")
    assert failed.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["model.pth"]


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (["--output", "/dev/null/nowhere"], 6, "/dev/null/nowhere"),
        (["--formats", "onxx"], 2, "choose from onnx, torchscript, program"),
        (["--formats", ","], 2, "choose from onnx, torchscript, program"),
        (["--precision", "fp8"], 2, "choose from fp32, fp16, int8"),
        (["--io", "uint16"], 2, "choose from float32, uint8"),
        (["--opset", "7"], 2, "opset 7 is not within 18..23"),
        (["--calibrate", "stack.tif"], 2, "are for int8"),
        (["--image", "stack.tif"], 2, "go together"),
        (["--sections", "25:30"], 2, "of an image with labels"),
        (["--package", "--precision", "fp16"], 2, "add onnx to --formats, fp32 to --precision"),
        (["--precision", "int8", "--calibrate", "nowhere.tif"], 4, "nowhere.tif"),
        (["--arch", "resnet"], 2, "not one of unet, valid-unet"),
        (["--licence", "MIT"], 2, "are of a package; add --package"),
        (["--author", "Ada"], 2, "are of a package; add --package"),
        (["--name", "Membranes"], 2, "are of a package; add --package"),
        (["--package", "--licence", "MIT", "--name", "a/b"], 2, "package name 'a/b'"),
    ],
)
def test_what_goes_wrong_is_one_line_and_its_exit_code(command, save, tmp_path, options, code, named):
    failed = command(save(), *options)
    assert failed.exit_code == code
    assert failed.stdout == ""
    assert failed.stderr.startswith("isbi-export: ")
    assert failed.stderr.count("\n") == 1
    assert named in failed.stderr
    assert os.listdir(tmp_path) == ["model.pth"]


def test_bare_it_shows_examples_and_versions_name_what_exports(command):
    bare = command()
    assert bare.exit_code == 2
    assert "--package" in bare.stdout
    assert "--opset" not in bare.stdout
    assert re.search(r"torch \d.*, onnx \d", command("-V").stdout)


def test_an_onnx_file_is_no_checkpoint_and_may_want_a_contract(command, tmp_path):
    refused = command(tmp_path / "other.onnx")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr.endswith(f"did you mean isbi-export {tmp_path / 'other.onnx'} --contract?\n")


@pytest.fixture
def tiny_release(monkeypatch, trained, published, tmp_path):
    """The folder of an installed package that holds one released model, named tiny."""
    folder = tmp_path / "package"
    folder.mkdir()
    entry = {"name": "tiny", "about": "a test", "terms": "free", "licence": "CC0-1.0", "citation": "none"}
    files = {"card": "tiny.md", "checkpoint": "tiny.pth", "float32": "tiny.onnx"}
    (folder / "tiny.md").write_text("# tiny\n")
    shutil.copy(trained, folder / "tiny.pth")
    shutil.copy(published / "model.onnx", folder / "tiny.onnx")
    hashed = {
        key: {"file": file, "sha256": hashlib.sha256((folder / file).read_bytes()).hexdigest()}
        for key, file in files.items()
    }
    entry |= {
        "card": files["card"],
        "checkpoint": hashed["checkpoint"],
        "files": {"float32": hashed["float32"]},
    }
    (folder / "registry.json").write_text(json.dumps([entry]))
    monkeypatch.setattr("isbi_models._FOLDER", folder)
    return folder


@pytest.mark.parametrize("name", ["tiny", "released"])
def test_a_released_model_is_exported_by_its_name_into_the_current_folder(
    command, monkeypatch, tiny_release, tmp_path, name
):
    before = {path: path.read_bytes() for path in tiny_release.iterdir()}
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    done = command(name, "--formats", "onnx")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [
        "tiny.parity.html: the proofs, to look at",
        "next, isbi-infer STACK --model tiny.onnx",
    ]
    assert sorted(os.listdir()) == ["tiny.onnx", "tiny.parity.html", "tiny.parity.json"]
    assert {path: path.read_bytes() for path in tiny_release.iterdir()} == before
    exported, released = (
        read_model_file(Path(folder, "tiny.onnx").read_bytes()) for folder in (".", tiny_release)
    )
    assert exported.digest == released.digest


def test_a_released_model_goes_into_the_folder_that_is_named(command, tiny_release, tmp_path):
    (tmp_path / "named").mkdir()
    done = command("tiny", "--formats", "torchscript", "-o", tmp_path / "named")
    assert done.exit_code == 0, done.stderr
    assert sorted(os.listdir(tmp_path / "named")) == ["tiny.parity.html", "tiny.parity.json", "tiny.pt"]


@pytest.mark.more
@pytest.mark.parametrize("name", released_models())
def test_every_released_model_is_exported_by_its_name_and_computes_the_same(
    command, monkeypatch, tmp_path, tissue_YX, name
):
    monkeypatch.chdir(tmp_path)
    done = command(name, "--formats", "onnx")
    assert done.exit_code == 0, done.stderr
    exported, released = (
        Segmenter(model, provider="cpu", precision="fp32") for model in (f"{name}.onnx", name)
    )
    section_YX = tissue_YX[:96, :128]
    np.testing.assert_allclose(exported(section_YX), released(section_YX), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["em", "--output", RELEASED], f"{RELEASED}: holds the released models, which stay as they are"),
        (["em", "-o", RELEASED / "further" / ".."], "name another folder with -o"),
        (["em", "--contract"], "em: is a released model, whose files have a contract"),
        (["released", "--contract"], f"{default_model().name}: is a released model"),
        (["em-opem"], "neither a file nor the name of a released model; did you mean em-open?"),
    ],
)
def test_a_released_model_is_never_written_over_and_a_name_that_is_none_is_refused(
    command, monkeypatch, tmp_path, arguments, said
):
    monkeypatch.chdir(tmp_path)
    refused = command(*arguments)
    assert (refused.exit_code, refused.stdout) == (2, ""), refused.stderr
    assert refused.stderr.count("\n") == 1
    assert said in refused.stderr
    assert os.listdir() == []


def test_the_released_models_folder_is_refused_as_the_current_one_too(command, monkeypatch):
    monkeypatch.chdir(RELEASED)
    refused = command("em", "--formats", "onnx")
    assert refused.exit_code == 2
    assert "holds the released models" in refused.stderr


def test_a_file_comes_before_a_released_model_of_its_name(command, monkeypatch, tmp_path):
    (tmp_path / "em").write_bytes(b"no checkpoint")
    monkeypatch.chdir(tmp_path)
    refused = command("em")
    assert refused.exit_code == 5
    assert "em: not a readable checkpoint" in refused.stderr


def test_a_released_checkpoint_that_was_changed_is_refused(tmp_path):
    """An installed package with a damaged file."""
    package = tmp_path / "packages" / "isbi_models"
    package.mkdir(parents=True)
    for name in ("__init__.py", "registry.json", "em.pth"):
        shutil.copy(RELEASED / name, package)
    with (package / "em.pth").open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(b"?")
    working = tmp_path / "working"
    working.mkdir()
    refused = subprocess.run(
        [Path(sys.executable).with_name("isbi-export"), "em"],
        capture_output=True,
        text=True,
        cwd=working,
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        timeout=120,
    )
    assert (refused.returncode, refused.stdout) == (5, "")
    assert f"{package / 'em.pth'}: is not the registered checkpoint of em" in refused.stderr
    assert os.listdir(working) == []
