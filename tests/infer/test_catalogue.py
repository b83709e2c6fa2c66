"""Released models have names, which `Segmenter`, the command line and the doctor take; they can be listed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn import synthetic_stack

from isbi_infer import Segmenter
from isbi_infer.errors import ModelError, UsageError
from isbi_infer.model.opening import find_released
from isbi_models import default_model, released_models

PROGRAM = Path(sys.executable).with_name("isbi-infer")


def run(*arguments):
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("model", released_models().values(), ids=lambda model: model.name)
def test_every_released_model_is_listed_with_terms_scores_and_card(model):
    listed = {entry["name"]: entry for entry in json.loads(run("models", "--json").stdout)}
    assert list(listed) == list(released_models())
    entry = listed[model.name]
    assert entry["terms"] == model.terms
    assert entry["default"] == (model.name == default_model().name)
    assert Path(entry["card"]).is_file()
    assert 0.5 < entry["scores"]["v_rand_thin"] <= 1
    text = run("models").stdout
    assert model.name in text
    assert model.terms in text
    assert f"V_rand {entry['scores']['v_rand_thin']:.4f}" in text
    assert text.rstrip().endswith(
        "docs/accuracy.md compares them."
    )  # which are not to be compared as they stand


@pytest.mark.parametrize("name", released_models())
def test_a_name_opens_the_files_of_that_model(name):
    image_YX = synthetic_stack(1, 64, 64)[0][0]
    by_name = Segmenter(name, provider="cpu", precision="fp32")
    by_path = Segmenter(released_models()[name].path, provider="cpu", precision="fp32")
    assert by_name.model_sha256 == by_path.model_sha256
    np.testing.assert_array_equal(by_name(image_YX), by_path(image_YX))


def test_no_name_is_the_default():
    assert find_released(None) == find_released(default_model().name) == default_model()


def test_a_mistyped_name_gets_the_nearest_one():
    mistyped = default_model().name[:-1]
    with pytest.raises(UsageError, match=f"did you mean {default_model().name}\\?"):
        Segmenter(mistyped)


def test_a_name_that_is_like_no_other_lists_what_is_installed():
    with pytest.raises(UsageError, match="neither a file nor the name of a released model \\(installed: "):
        Segmenter("quux")


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(default_model().name).write_bytes(b"not a model")
    assert find_released(default_model().name) is None
    with pytest.raises(ModelError):
        Segmenter(default_model().name)


def test_a_folder_of_a_models_name_is_in_nobodys_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = default_model().name
    (tmp_path / name).mkdir()
    assert find_released(name).name == name


def test_a_missing_file_is_named_as_a_file(tmp_path):
    with pytest.raises(ModelError, match=r"gone\.onnx: cannot read the model"):
        Segmenter(tmp_path / "gone.onnx")


def test_the_doctor_takes_a_name_and_knows_a_wrong_one():
    assert f"as released ({default_model().name})" in run("doctor", "--model", default_model().name).stdout
    wrong = run("doctor", "--model", "quux")
    assert wrong.returncode == 2
    assert "isbi-infer models" in wrong.stdout
