"""The panel that saves corrected labels and trains on them, with the real programs."""

import sys

import numpy as np
import pytest
import tifffile

if "napari" not in sys.modules:
    pytest.skip("napari and its fixtures are not there; run: make test-napari", allow_module_level=True)
pytest.importorskip("torch")

from drawn import synthetic_stack

from isbi_infer.napari.fine_tune_panel import FineTunePanel
from isbi_infer.napari.segment_panel import SegmentPanel
from isbi_infer.volumes import open_stack

PLACED = {"scale": (50, 4, 4), "units": ("nm",) * 3}


@pytest.fixture
def opened(make_napari_viewer, tmp_path):
    """A viewer with the synthetic stack, its labels and both panels, opened as the menus do."""
    viewer = make_napari_viewer()
    image_ZYX, label_ZYX = synthetic_stack(3, 64, 64)
    viewer.add_image(image_ZYX, name="tissue", **PLACED)
    viewer.add_labels((label_ZYX > 0).astype(np.uint8), name="cells", **PLACED)
    _, segment = viewer.window.add_plugin_dock_widget("isbi-infer", "Segment membranes")
    _, panel = viewer.window.add_plugin_dock_widget("isbi-infer", "Save corrected labels and fine-tune")
    assert isinstance(segment, SegmentPanel)
    assert isinstance(panel, FineTunePanel)
    panel.folder.value = tmp_path
    panel.steps.value = 1
    return viewer, segment, panel


def test_corrected_labels_are_saved_trained_on_and_the_model_is_offered_for_the_next_run(
    opened, qtbot, tmp_path
):
    viewer, segment, panel = opened
    viewer.layers["cells"].data[0, :4] = 0  # corrected
    assert (panel.image.value.name, panel.labels.value.name) == ("tissue", "cells")
    panel.start_button.native.click()
    qtbot.waitUntil(lambda: panel.job is None, timeout=280_000)
    model = tmp_path / "run" / "model.onnx"
    assert panel.said == f"trained: {model}; run Segment again"
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "labels.tif"), viewer.layers["cells"].data)
    with open_stack(tmp_path / "image.tif") as saved:
        assert (saved.pixel_size.x_nm, saved.pixel_size.z_nm) == (4, 50)
    assert segment.model_file.value == model
    segment.start_button.native.click()
    qtbot.waitUntil(lambda: segment.job is None, timeout=60_000)
    assert viewer.layers["tissue probability"].data.shape == (3, 64, 64)


def test_cancelling_ends_the_training_and_keeps_the_labels(opened, qtbot, tmp_path):
    _, _, panel = opened
    panel.steps.value = 100_000
    panel.start_button.native.click()
    qtbot.waitUntil(lambda: (tmp_path / "run").exists(), timeout=120_000)
    panel.cancel_button.native.click()
    qtbot.waitUntil(lambda: panel.job is None, timeout=120_000)
    assert panel.said.startswith("cancelled")
    assert (tmp_path / "labels.tif").exists()
    assert not (tmp_path / "run" / "model.onnx").exists()


def test_what_the_training_refuses_is_said_in_its_own_line(opened, qtbot, tmp_path):
    _, _, panel = opened
    panel.sections.value = "1"  # one section cannot be trained on and held out
    panel.start_button.native.click()
    qtbot.waitUntil(lambda: panel.job is None, timeout=120_000)
    assert panel.said.startswith("isbi-train: ")
    assert "\n" not in panel.said
    assert tifffile.imread(tmp_path / "labels.tif").any(axis=(1, 2)).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda panel: setattr(panel.folder, "value", None), "choose a folder"),
        (lambda panel: setattr(panel.sections, "value", "7"), "'7' is no section from 0 to 2"),
        (lambda panel: panel.labels.value.data.fill(0), "holds no cell in the sections that are named"),
    ],
    ids=["no folder", "no such section", "no cell"],
)
def test_what_cannot_be_trained_on_is_refused_before_anything_is_written(
    opened, qtbot, tmp_path, change, said
):
    _, _, panel = opened
    change(panel)
    panel.start_button.native.click()
    qtbot.waitUntil(lambda: panel.job is None, timeout=10_000)
    assert said in panel.said
    assert list(tmp_path.iterdir()) == []
