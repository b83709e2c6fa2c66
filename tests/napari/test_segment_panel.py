"""The panel that segments a layer, in napari's own viewer."""

import re
import sys

import numpy as np
import pytest

if "napari" not in sys.modules:
    pytest.skip("napari and its fixtures are not there; run: make test-napari", allow_module_level=True)

import dask.array as da
from drawn import synthetic_stack
from napari.layers import Image, Points

from isbi_infer import ImageError, Segmenter
from isbi_infer.napari.layers import LayerSource, pixel_size_of
from isbi_infer.napari.segment_panel import ALL, SHOWN, SegmentPanel
from isbi_infer.volumes import PixelSize

SIDE = 96
PLACED = {
    "scale": (50, 4, 4),
    "units": ("nm",) * 3,
    "axis_labels": ("z", "y", "x"),
    "translate": (100, 8, 12),
}


@pytest.fixture(scope="module")
def stack_ZYX():
    return synthetic_stack(3, SIDE, SIDE)[0]


@pytest.fixture
def opened(make_napari_viewer):
    """A viewer with the plugin's panel, opened as the menu does."""
    viewer = make_napari_viewer()
    _, panel = viewer.window.add_plugin_dock_widget("isbi-infer", "Segment membranes")
    assert isinstance(panel, SegmentPanel)
    panel.provider.value = "cpu"
    return viewer, panel


def press(panel, qtbot, until=None):
    """Press the button and wait for the end, or for something else."""
    panel.start_button.native.click()
    qtbot.waitUntil(until or (lambda: panel.job is None), timeout=60_000)


def test_the_layers_that_come_back_lie_on_the_image_and_hold_what_segmenter_returns(opened, qtbot, stack_ZYX):
    viewer, panel = opened
    image = viewer.add_image(stack_ZYX, name="tissue", **PLACED)
    assert panel.layer.value is image
    assert panel.pixel_size.value == 4
    press(panel, qtbot)
    assert re.match(r"3 sections by \w+ on cpu", panel.said)
    probability, outlines = viewer.layers["tissue probability"], viewer.layers["tissue outlines"]
    expected_ZYX = Segmenter(provider="cpu", pixel_size=4)(stack_ZYX)
    np.testing.assert_array_equal(probability.data, expected_ZYX)
    assert probability.contrast_limits == [0, 1]
    assert set(np.unique(outlines.data)) == {0, 1}
    for layer in (probability, outlines):
        assert layer.units == image.units
        assert layer.axis_labels == ("z", "y", "x")
        np.testing.assert_array_equal(layer.scale, image.scale)
        np.testing.assert_array_equal(layer.translate, image.translate)
    assert panel.layer.value is image  # and none of the results


def test_a_pixel_size_that_is_entered_is_segmented_at(opened, qtbot, stack_ZYX):
    viewer, panel = opened
    viewer.add_image(stack_ZYX[0], name="tissue")
    assert panel.pixel_size.value == 0
    panel.pixel_size.value = 6
    press(panel, qtbot)
    expected_YX = Segmenter(provider="cpu", pixel_size=6)(stack_ZYX[0])
    np.testing.assert_array_equal(viewer.layers["tissue probability"].data, expected_YX)


def test_a_scale_without_a_unit_is_no_pixel_size_and_is_said(opened, stack_ZYX):
    viewer, panel = opened
    viewer.add_image(stack_ZYX, name="tissue", scale=(1, 0.004, 0.004))
    assert panel.pixel_size.value == 0
    assert "scale of 0.004 without a unit" in panel.said


def test_micrometres_are_read_as_such():
    layer = Image(np.zeros((2, 8, 8)), scale=(0.05, 0.004, 0.004), units=("um",) * 3)
    assert pixel_size_of(layer) == PixelSize(y_nm=4, x_nm=4, z_nm=50)


def test_neurons_are_labels_joined_through_the_stack(opened, qtbot, stack_ZYX):
    viewer, panel = opened
    viewer.add_image(np.stack([stack_ZYX[0]] * 2), name="tissue", **PLACED)
    panel.neurons.value = "overlap"
    press(panel, qtbot)
    ids_ZYX = viewer.layers["tissue neurons"].data
    assert ids_ZYX.max() > 3
    np.testing.assert_array_equal(ids_ZYX[0], ids_ZYX[1])


def test_sections_of_a_lazy_layer_are_read_and_computed_when_they_are_looked_at(opened, qtbot, stack_ZYX):
    viewer, panel = opened
    read = []

    def section(block_id):
        read.append(block_id[0])
        return stack_ZYX[block_id[0]][None]

    lazy = da.map_blocks(
        section, chunks=((1,) * 3, (SIDE,), (SIDE,)), dtype=np.uint8, meta=np.empty((0,), np.uint8)
    )
    viewer.add_image(lazy, name="tissue", contrast_limits=(0, 255))
    viewer.dims.set_current_step(0, 0)
    assert panel.sections.value == SHOWN
    read.clear()
    press(panel, qtbot, lambda: "section 0 is there" in panel.said)
    sections = viewer.layers["tissue probability"].data
    assert sections.there == (0,)
    assert set(read) == {0}
    viewer.dims.set_current_step(0, 2)
    qtbot.waitUntil(lambda: "section 2 is there" in panel.said, timeout=60_000)
    assert sections.there == (0, 2)
    np.testing.assert_array_equal(sections[2], Segmenter(provider="cpu")(stack_ZYX[2]))
    assert np.isnan(sections[1]).all()
    with pytest.raises(ImageError, match="2 of 3 sections are computed"):
        np.asarray(sections)
    panel.cancel_button.native.click()
    qtbot.waitUntil(lambda: panel.job is None, timeout=10_000)


def test_cancelling_ends_at_the_next_tile_and_leaves_the_layers_as_they_were(opened, qtbot):
    viewer, panel = opened
    image_YX = np.tile(synthetic_stack(1, 256, 256)[0][0], (20, 20))  # some tiles
    viewer.add_image(image_YX, name="tissue")
    panel.start_button.native.click()
    qtbot.waitUntil(lambda: panel.progress.value > 0, timeout=60_000)
    assert panel.progress.value < panel.progress.max
    panel.cancel_button.native.click()
    qtbot.waitUntil(lambda: panel.job is None, timeout=60_000)
    assert panel.said == "cancelled; nothing was kept that is not whole"
    assert [layer.name for layer in viewer.layers] == ["tissue"]
    assert panel.start_button.enabled


def test_a_panel_that_is_closed_ends_its_work(opened, qtbot, stack_ZYX):
    viewer, panel = opened
    viewer.add_image(stack_ZYX, name="tissue")
    panel.sections.value = SHOWN
    press(panel, qtbot, lambda: "section" in panel.said)
    job = panel.job
    viewer.window.remove_dock_widget(panel.native)
    panel.native.deleteLater()
    qtbot.waitUntil(lambda: not job.running, timeout=10_000)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (
            Image(np.zeros((16, 16, 3), np.uint8), rgb=True, name="it"),
            "is in colour .RGB.; expected greyscale",
        ),
        (Image(np.zeros((2, 2, 16, 16)), name="it"), r"has 4 dimensions, .2, 2, 16, 16.; expected a section"),
        (Image(np.zeros((16, 16), bool), name="it"), "holds bool pixels; expected integers or floats"),
    ],
    ids=["colour", "four dimensions", "true and false"],
)
def test_what_is_no_greyscale_stack_is_refused_in_one_line(opened, layer, said):
    viewer, panel = opened
    viewer.add_layer(layer)
    panel.start_button.native.click()
    assert panel.job is None
    assert len(viewer.layers) == 1
    assert re.search(f"layer 'it' {said}", panel.said)
    assert "\n" not in panel.said


def test_points_are_not_offered_and_refused_where_they_are_given(opened):
    viewer, panel = opened
    points = viewer.add_layer(Points(np.zeros((1, 2)), name="dots"))
    panel.start_button.native.click()
    assert panel.said.startswith("no image layer to segment")
    with pytest.raises(ImageError, match="layer 'dots' is a layer of points"):
        LayerSource(points, None)


def test_pixels_that_are_no_numbers_end_in_one_line_and_add_nothing(opened, qtbot):
    viewer, panel = opened
    image_YX = np.ones((64, 64), np.float32)
    image_YX[0, 0] = np.nan
    viewer.add_image(image_YX, name="tissue")
    press(panel, qtbot)
    assert panel.said.startswith("layer 'tissue': section 0: 1 NaN")
    assert len(viewer.layers) == 1


def test_a_model_file_that_is_none_ends_in_one_line(opened, qtbot, stack_ZYX, tmp_path):
    viewer, panel = opened
    viewer.add_image(stack_ZYX, name="tissue")
    (tmp_path / "model.onnx").write_bytes(b"no model")
    panel.model_file.value = tmp_path / "model.onnx"
    press(panel, qtbot)
    assert "model.onnx" in panel.said
    assert len(viewer.layers) == 1


def test_the_largest_of_several_resolutions_is_segmented(opened, qtbot, stack_ZYX):
    viewer, panel = opened
    viewer.add_image([stack_ZYX[0], stack_ZYX[0][::2, ::2]], name="tissue", multiscale=True)
    panel.sections.value = ALL
    press(panel, qtbot)
    assert viewer.layers["tissue probability"].data.shape == (SIDE, SIDE)
