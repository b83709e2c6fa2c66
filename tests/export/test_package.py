"""The bioimage.io package, opened by bioimageio.core as a stranger would."""

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from drawn import synthetic_stack
from PIL import Image

from isbi_export.bioimage.package import package_terms, write_package
from isbi_infer import Segmenter
from isbi_infer.errors import ModelError, UsageError
from isbi_infer.model.contract import read_contract
from isbi_infer.model.devices import open_backend
from isbi_infer.pixels.normalise import intensity_statistics, normalise
from isbi_models import default_model
from isbi_train.networks.origins import Origin, origins_of_contract

SCALES = {"uint8": 1, "uint16": 200, "float32": 1, "float64": 1 / 255}


@pytest.fixture(scope="module")
def contract(published):
    return _contract(published / "model.onnx")


@pytest.fixture(scope="module")
def package(published, contract, tmp_path_factory):
    """Both weights of the tiny checkpoint; not to be changed."""
    target = tmp_path_factory.mktemp("package") / "model.bioimage.zip"
    weights = {"onnx": published / "model.onnx", "torchscript": published / "model.pt"}
    write_package(target, **weights, contract=contract, licence="CC-BY-4.0")
    return target


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    target = tmp_path_factory.mktemp("released") / f"{default_model().name}.bioimage.zip"
    path = default_model().path
    write_package(target, onnx=path, torchscript=None, contract=_contract(path))
    return target


@pytest.fixture(scope="module")
def named(published, contract, tmp_path_factory):
    target = tmp_path_factory.mktemp("named") / "x y_ü.bioimage.zip"
    write_package(
        target,
        onnx=published / "model.onnx",
        torchscript=None,
        contract=contract,
        licence="mit",
        authors=["Ada Lovelace", "Émilie du Châtelet"],
    )
    return target


@pytest.fixture(scope="module")
def small_halo(package, contract, tmp_path_factory):
    content = _content(package)
    described = yaml.safe_load(content["rdf.yaml"])
    for axis in described["outputs"][0]["axes"][2:]:
        axis["halo"] = contract.stride
    changed = tmp_path_factory.mktemp("changed") / "changed.zip"
    with zipfile.ZipFile(changed, "w") as archive:
        for name, data in {**content, "rdf.yaml": yaml.safe_dump(described).encode()}.items():
            archive.writestr(name, data)
    return changed


@pytest.fixture(scope="module")
def section_YX():
    return synthetic_stack(1, 208, 272, seed=7)[0][0]


@pytest.fixture(scope="module")
def stacks():
    """Two sections of different contrast in every dtype, floats also from 0 to 1."""
    stack_ZYX = synthetic_stack(2, 112, 136)[0]
    stack_ZYX[1] //= 2
    return {dtype: (stack_ZYX * scale).astype(dtype) for dtype, scale in SCALES.items()}


@pytest.fixture(scope="module")
def stranger(package, named, small_halo, contract, section_YX, stacks, tmp_path_factory):
    """What bioimageio.core makes of the packages, in one process."""
    folder = tmp_path_factory.mktemp("stranger")
    np.save(folder / "section.npy", section_YX)
    for dtype, stack_ZYX in stacks.items():
        np.save(folder / dtype, stack_ZYX)
    blocks = {"tile": "section.npy", "block": 2 * contract.halo + 8 * contract.stride}
    jobs = {
        "package": {"package": str(package), **blocks, "preprocess": [f"{dtype}.npy" for dtype in stacks]},
        "small halo": {"package": str(small_halo), **blocks},
        "named": {"package": str(named)},
    }
    (folder / "jobs.json").write_text(json.dumps(jobs))
    _run(sys.executable, Path(__file__).with_name("stranger.py"), "jobs.json", "results.npz", folder=folder)
    with np.load(folder / "results.npz") as results:
        return dict(results)


def test_bioimageio_test_passes_for_the_onnx_and_the_torchscript_weights(package, tmp_path):
    bioimageio = Path(sys.executable).with_name("bioimageio")
    _run(bioimageio, "test", package, "--summary", "summary.json", folder=tmp_path)
    result = json.loads((tmp_path / "summary.json").read_text())
    passed = {detail["name"] for detail in result["details"] if detail["status"] == "passed"}
    assert result["status"] == "passed"
    assert len(passed) == len(result["details"])
    for weights in ("onnx", "torchscript"):
        assert f"Reproduce test outputs from test inputs ({weights})" in passed
        for batch, n in ((1, 0), (1, 1), (1, 2), (2, 2)):
            case = f"inputs with batch_size: {batch} and size parameter n: {n}"
            assert f"Run {weights} inference for {case}" in passed


def test_the_only_warning_is_that_nobody_gave_a_github_name(stranger):
    (warning,) = stranger["package warnings"]
    assert "github_user" in warning


def test_tiled_prediction_is_that_of_segmenter_away_from_the_border(
    stranger, published, contract, section_YX
):
    tiled_YX = stranger["package tiled"]
    whole_YX = Segmenter(published / "model.onnx", provider="cpu")(section_YX)
    inside = _inside(contract)
    assert whole_YX[inside].size > section_YX.size / 4
    np.testing.assert_allclose(tiled_YX[inside], whole_YX[inside], rtol=0, atol=1e-4)
    assert np.abs(tiled_YX - whole_YX).max() > 1e-3


def test_at_the_border_tiled_prediction_differs_by_its_mirrored_halo_and_by_nothing_else(
    stranger, published, contract, section_YX
):
    normal_YX = normalise(section_YX, intensity_statistics(section_YX))
    padded_YX = np.pad(normal_YX, contract.halo, mode="symmetric")
    session = open_backend((published / "model.onnx").read_bytes(), "cpu")
    expected_YX = session.run(padded_YX[None, None])[0, 0][_inside(contract)]
    np.testing.assert_allclose(stranger["package tiled"], expected_YX, rtol=0, atol=1e-4)


def test_a_smaller_halo_would_leave_seams(stranger, published, contract, section_YX):
    whole_YX = Segmenter(published / "model.onnx", provider="cpu")(section_YX)
    difference_YX = np.abs(stranger["small halo tiled"] - whole_YX)
    assert difference_YX[_inside(contract)].max() > 1e-3


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("uint8", 1e-5), ("uint16", 1e-5), ("float32", 1e-5), ("float64", 1e-4)]
)
def test_the_described_preprocessing_is_our_normalisation(stranger, stacks, dtype, tolerance):
    """Of each section for itself; bioimageio.core 0.11 adds its own 1e-6 to the deviation, whatever is described."""
    found_ZYX = stranger[f"package {dtype}.npy"]
    assert found_ZYX.dtype == np.float32
    for found_YX, section_YX in zip(found_ZYX, stacks[dtype], strict=True):
        expected_YX = normalise(section_YX, intensity_statistics(section_YX))
        np.testing.assert_allclose(found_YX, expected_YX, rtol=0, atol=tolerance)


def test_the_test_output_is_the_whole_image_result(released):
    content = _content(released)
    section_YX, expected_YX = (_array(content[name])[0, 0] for name in ("test_input.npy", "test_output.npy"))
    np.testing.assert_array_equal(section_YX, synthetic_stack(1, *section_YX.shape)[0][0])
    np.testing.assert_array_equal(Segmenter(provider="cpu", precision="fp32")(section_YX), expected_YX)


def test_the_description_says_what_the_contract_says(package, contract):
    described = yaml.safe_load(_content(package)["rdf.yaml"])
    (image,), (probability,) = described["inputs"], described["outputs"]
    assert [axis["type"] for axis in image["axes"]] == ["batch", "channel", "space", "space"]
    for axis, name in zip(image["axes"][2:], "yx", strict=True):
        least = 2 * contract.halo + contract.stride
        assert (axis["id"], axis["size"]) == (name, {"min": least, "step": contract.stride})
        assert (axis["unit"], axis["scale"]) == ("nanometer", contract.pixel_size_nm)
    for axis, name in zip(probability["axes"][2:], "yx", strict=True):
        assert (axis["id"], axis["size"]) == (name, {"tensor_id": contract.input_name, "axis_id": name})
        assert axis["halo"] == contract.halo
    assert (image["id"], probability["id"]) == (contract.input_name, contract.output_name)
    assert described["weights"]["onnx"]["opset_version"] == 20
    assert re.fullmatch(r"\d+\.\d+\.\d+", described["weights"]["torchscript"]["pytorch_version"])


def test_the_weights_are_the_files_that_were_proved(package, published):
    content = _content(package)
    assert content["model.onnx"] == (published / "model.onnx").read_bytes()
    assert content["model.pt"] == (published / "model.pt").read_bytes()


def test_the_cover_has_the_size_that_bioimage_io_asks_for(package, tmp_path):
    cover = _content(package)["cover.png"]
    (tmp_path / "cover.png").write_bytes(cover)
    with Image.open(tmp_path / "cover.png") as picture:
        assert picture.size == (512, 256)
    assert len(cover) < 500_000


def test_the_readme_gives_scores_provenance_and_limits(package, contract):
    text = _content(package)["README.md"].decode()
    assert f"{contract.provenance['scores']['v_rand_thin']:.4f}" in text
    assert contract.provenance["training"]["checkpoint_sha256"] in text
    assert f"{contract.border} mirrored pixels" in text
    assert re.search("^## Validation$", text, re.MULTILINE)  # bioimage.io looks for it
    assert "ISBI 2012" not in text


def test_one_model_gives_the_same_bytes_each_time(package, published, contract, tmp_path):
    again = tmp_path / "model.bioimage.zip"
    weights = {"onnx": published / "model.onnx", "torchscript": published / "model.pt"}
    write_package(again, **weights, contract=contract, licence="CC-BY-4.0")
    assert again.read_bytes() == package.read_bytes()
    assert b"&id" not in _content(again)["rdf.yaml"]  # not all readers know anchors


def test_the_released_model_is_given_under_its_card_s_terms(released):
    content = _content(released)
    described = yaml.safe_load(content["rdf.yaml"])
    assert described["license"] == "CC-BY-NC-4.0"
    assert described["name"].endswith(default_model().name)
    assert "10.1371/journal.pbio.1000502" in [entry["doi"] for entry in described["cite"]]
    assert "non-commercial" in " ".join(content["README.md"].decode().replace("**", "").split())
    assert list(described["weights"]) == ["onnx"]


def test_nobody_else_s_weights_get_a_licence_that_was_not_chosen(published, contract, tmp_path):
    with pytest.raises(UsageError, match="--licence"):
        write_package(tmp_path / "a.zip", onnx=published / "model.onnx", torchscript=None, contract=contract)
    with pytest.raises(UsageError, match="--licence"):  # the same, before the export
        package_terms(tmp_path / "a.zip", ())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ({"licence": "free for all"}, "SPDX"),
        ({"licence": "MIT OR Apache-2.0"}, "one identifier"),
        ({"licence": "MIT", "name": "a/b/c/d"}, "letters"),
        ({"licence": "MIT", "name": "abc"}, "5 to 128"),
        ({"licence": "MIT", "authors": []}, "at least one"),
        ({"licence": "MIT", "authors": ["A/B"]}, "slash"),
    ],
)
def test_terms_that_bioimage_io_does_not_take_are_refused(published, contract, tmp_path, terms, says):
    with pytest.raises(UsageError, match=says):
        write_package(
            tmp_path / "a.zip", onnx=published / "model.onnx", torchscript=None, contract=contract, **terms
        )


def test_names_and_authors_are_those_that_were_given(named, stranger):
    described = yaml.safe_load(_content(named)["rdf.yaml"])
    assert described["name"] == stranger["named name"] == "x y_-"
    assert described["license"] == "MIT"
    assert [author["name"] for author in described["authors"]] == ["Ada Lovelace", "Émilie du Châtelet"]


def test_weights_that_differ_are_not_packaged(published, contract, tmp_path):
    target = tmp_path / "model.bioimage.zip"
    target.write_bytes(b"older")
    with pytest.raises(ModelError, match="differ by"):
        write_package(
            target,
            onnx=default_model().path,
            torchscript=published / "model.pt",
            contract=contract,
            licence="MIT",
        )
    assert target.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [target]


def test_a_model_that_normalises_by_itself_is_refused(published, contract, tmp_path):
    raw = dataclasses.replace(contract, input_dtype="uint8", statistics_inputs=("mean", "inverse"))
    with pytest.raises(ModelError, match="--io float32"):
        write_package(
            tmp_path / "a.zip",
            onnx=published / "model.onnx",
            torchscript=None,
            contract=raw,
            licence="MIT",
        )


def _contract(path):
    return read_contract(path.read_bytes())


def _content(package):
    with zipfile.ZipFile(package) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _array(data):
    return np.load(io.BytesIO(data))


def _inside(contract):
    return np.s_[contract.halo : -contract.halo, contract.halo : -contract.halo]


def _run(*command, folder):
    """Run a program in a folder, off the network and out of the user's cache."""
    nobody = "http://127.0.0.1:9"
    environment = {**os.environ, "BIOIMAGEIO_CACHE_PATH": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    environment |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), nobody)
    environment.pop("NO_PROXY", None)
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


ORIGIN = Origin(
    name="someone's model", licence="CC-BY-NC-SA-4.0", terms="free for teaching", citation="doi:10.1000/182"
)


@pytest.fixture
def grown(contract):
    """The contract of a model that grew from one that is not for commercial use."""
    training = {**contract.provenance["training"], "origins": [ORIGIN.to_plain()]}
    return replace(contract, provenance={**contract.provenance, "training": training})


def test_what_grew_from_a_model_is_packed_under_its_terms(published, grown, tmp_path):
    target = tmp_path / "grown.bioimage.zip"
    write_package(target, onnx=published / "model.onnx", torchscript=None, contract=grown)
    content = _content(target)
    described = yaml.safe_load(content["rdf.yaml"])
    assert described["license"] == ORIGIN.licence
    assert ORIGIN.cites[0][1] in [entry["doi"] for entry in described["cite"]]
    assert str(ORIGIN) in content["README.md"].decode()


@pytest.mark.parametrize("licence", ["MIT", "CC-BY-4.0", "CC0-1.0"])
def test_a_licence_cannot_contradict_what_a_model_grew_from(published, grown, tmp_path, licence):
    target = tmp_path / "grown.bioimage.zip"
    with pytest.raises(
        UsageError, match=rf"{licence} allows commercial use.*someone's model.*{ORIGIN.licence}"
    ):
        write_package(
            target, onnx=published / "model.onnx", torchscript=None, contract=grown, licence=licence
        )
    assert not target.exists()


def test_a_stricter_licence_of_the_same_kind_may_be_chosen(tmp_path):
    terms = package_terms(tmp_path / "grown.zip", (ORIGIN,), licence="CC-BY-NC-ND-4.0")
    assert terms.licence == "CC-BY-NC-ND-4.0"


def test_the_released_model_cannot_be_given_away_under_another_licence(tmp_path):
    contract = read_contract(default_model().path.read_bytes())
    with pytest.raises(UsageError, match=rf"grew from {default_model().name}.*give --licence CC-BY-NC-4\.0"):
        package_terms(tmp_path / "a.zip", origins_of_contract(contract), licence="MIT")
