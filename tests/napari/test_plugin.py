"""What napari finds of the plugin: manifest, sample data, the command that scores, the program that opens it."""

import json
import os
import subprocess
import sys
from pydoc import locate

import numpy as np
import pytest

if "napari" not in sys.modules:
    pytest.skip("napari and its fixtures are not there; run: make test-napari", allow_module_level=True)

import tifffile
from drawn import synthetic_stack
from napari.layers import Labels
from npe2 import PluginManifest

from isbi_infer import Segmenter
from isbi_infer.napari.score import score_against_labels
from isbi_infer.napari.viewer import add_stack
from isbi_infer.volumes import open_source

RESULT = {"isbi-infer": {"kind": "probability"}}


@pytest.fixture(scope="module")
def sample():
    image_ZYX, label_ZYX = synthetic_stack(2, 96, 96)
    return image_ZYX, (label_ZYX > 0).astype(np.uint8)


def test_the_manifest_is_found_by_napari_and_every_command_can_be_imported():
    manifest = PluginManifest.from_distribution("isbi-infer")
    for command in manifest.contributions.commands:
        assert callable(command.python_name and locate(command.python_name.replace(":", ".")))


def test_the_sample_is_the_synthetic_stack_with_its_pixel_size(make_napari_viewer):
    viewer = make_napari_viewer()
    image, cells = viewer.open_sample("isbi-infer", "synthetic")
    image_ZYX, label_ZYX = synthetic_stack()
    np.testing.assert_array_equal(image.data, image_ZYX)
    np.testing.assert_array_equal(cells.data > 0, label_ZYX > 0)
    assert image.scale.tolist() == [50, 4, 4]
    assert [str(unit) for unit in image.units] == ["nanometer"] * 3


def test_scores_against_a_labels_layer_are_those_of_the_command_line(make_napari_viewer, sample, tmp_path):
    viewer = make_napari_viewer()
    image_ZYX, cell_ZYX = sample
    viewer.add_image(Segmenter(provider="cpu")(image_ZYX), name="result", metadata=RESULT)
    viewer.add_labels(cell_ZYX, name="truth")  # which is selected then
    found = score_against_labels(viewer)
    for name, pixels in (("stack.tif", image_ZYX), ("truth.tif", 255 * cell_ZYX)):
        tifffile.imwrite(tmp_path / name, pixels, photometric="minisblack")
    program = [sys.executable, "-m", "isbi_train", "evaluate", "--json"]
    Segmenter(provider="cpu").segment_file(tmp_path / "stack.tif", tmp_path / "result.tif")
    done = subprocess.run(
        [*program, tmp_path / "result.tif", tmp_path / "truth.tif"],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = json.loads(done.stdout)
    for score in ("v_rand_thin", "v_info_thin"):
        assert found[score] == pytest.approx(theirs[score], abs=1e-12)
    assert viewer.layers["truth"].metadata["isbi-infer"]["scores"] == found


def test_what_cannot_be_scored_is_said_and_the_layers_stay(make_napari_viewer, sample, monkeypatch):
    from isbi_infer.napari import score

    viewer, said = make_napari_viewer(), []
    monkeypatch.setattr(score, "show_warning", said.append)
    image = viewer.add_image(sample[0], name="tissue")
    assert score_against_labels(viewer) is None
    assert "select the labels layer to score against; selected is 'tissue', a layer of image" in said[-1]
    viewer.add_labels(sample[1], name="truth")
    assert score_against_labels(viewer) is None
    assert "nothing to score yet" in said[-1]
    image.metadata = RESULT
    viewer.add_layer(Labels(sample[1][:1], name="other"))
    assert score_against_labels(viewer) is None
    assert "layer 'other' is (1, 96, 96), the result 'tissue' is (2, 96, 96)" in said[-1]
    assert len(viewer.layers) == 3


def test_a_stack_that_is_opened_keeps_its_pixel_size(make_napari_viewer, sample, tmp_path):
    path = tmp_path / "stack.tif"
    size = {"unit": "um", "spacing": 0.05, "axes": "ZYX"}
    tifffile.imwrite(path, sample[0], imagej=True, resolution=(250.0, 250.0), metadata=size)
    viewer = make_napari_viewer()
    with open_source(path) as source:
        layer = add_stack(viewer, source)
        assert layer.scale.tolist() == [50, 4, 4]
        np.testing.assert_array_equal(layer.data, sample[0])


def test_without_a_display_the_program_says_so_in_one_line(tmp_path):
    environment = {
        name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")
    }
    environment.pop("QT_QPA_PLATFORM", None)
    done = subprocess.run(
        [sys.executable, "-m", "isbi_infer.napari"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("isbi-infer napari: there is no display")
    assert done.stderr.count("\n") == 1


def test_a_stack_that_cannot_be_read_is_said_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "isbi_infer.napari", "missing.tif"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 4, done.stderr
    assert "missing.tif: cannot be opened" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_picture_of_the_plugin_is_of_the_panels_as_they_are():
    from benchmarks.napari_screenshot import PICTURE, digest, mark_of

    assert mark_of(PICTURE) == digest(), "run: python -m benchmarks.napari_screenshot"
