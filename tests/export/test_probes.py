"""The user's own sections in a proof: seen as `isbi_infer` sees them."""

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack

from isbi_export.proof.parity import reference_scores
from isbi_export.proof.probes import make_probes, read_labelled
from isbi_infer import Segmenter
from isbi_infer.errors import ImageError
from isbi_infer.model.contract import read_contract
from isbi_models import released_models
from isbi_train.networks.checkpoint import load_checkpoint
from isbi_train.scores.metrics import thinned_scores

PAD = ((0, 0), (0, 0), (12, 20))


@pytest.fixture(scope="module")
def contract(published):
    return read_contract((published / "model.onnx").read_bytes())


@pytest.fixture
def odd(tmp_path):
    """Write four sections of 8 nm with canvas at their sides, hot pixels, and one blank section; and their labels."""
    image_ZYX, label_ZYX = synthetic_stack(4, 96, 80)
    image_ZYX = np.pad(image_ZYX, PAD).astype(np.uint16)
    label_ZYX = np.pad(label_ZYX, PAD, constant_values=255)
    image_ZYX[1] = 0
    image_ZYX[2, 40:42, 60] = 65535
    size = {"resolution": (1 / 8, 1 / 8), "metadata": {"unit": "nm", "axes": "ZYX"}}
    tifffile.imwrite(tmp_path / "image.tif", image_ZYX, imagej=True, **size)
    tifffile.imwrite(tmp_path / "labels.tif", label_ZYX, photometric="minisblack")
    return tmp_path / "image.tif", tmp_path / "labels.tif"


def probes_of(trained, contract, labelled, **options):
    network = load_checkpoint(trained).load_network()
    padding = {"stride": contract.stride, "border": contract.border}
    found = make_probes(network, **padding, labelled=labelled, **options)
    return [probe for probe in found if probe.data == "image"]


def test_sections_are_seen_as_isbi_infer_sees_them(trained, published, contract, odd, tmp_path):
    image, labels = odd
    labelled = read_labelled(image, labels, ":", contract.pixel_size_nm)
    with Segmenter(published / "model.onnx", provider="cpu") as segmenter:
        segmenter.segment_file(image, tmp_path / "out.tif")
    expected_ZYX = tifffile.imread(tmp_path / "out.tif")
    assert not expected_ZYX[1].any()  # blank: never computed, so no probe of it
    probes = probes_of(trained, contract, labelled)
    found_ZYX = np.stack([probe.section(probe.expected_NCYX) for probe in probes])
    np.testing.assert_allclose(found_ZYX, expected_ZYX[[0, 2, 3]], rtol=0, atol=1e-5)
    assert any("resampled from 8 nm to the model's 4 nm" in note for note in labelled.notes)


def test_scores_are_those_of_the_sections_own_pixels(trained, contract, odd):
    image, labels = odd
    probes = probes_of(trained, contract, read_labelled(image, labels, ":", contract.pixel_size_nm))
    scored = thinned_scores(
        np.stack([probe.section(probe.expected_NCYX) for probe in probes]),
        tifffile.imread(labels)[[0, 2, 3]] > 0,
    )
    assert reference_scores(probes)["image"].v_rand == scored.v_rand


def test_files_that_take_bytes_are_tried_on_bytes(trained, contract, odd, tmp_path):
    image, labels = odd
    size = {"resolution": (1 / 8, 1 / 8), "metadata": {"unit": "nm", "axes": "ZYX"}}
    tifffile.imwrite(image, np.minimum(tifffile.imread(image), 255).astype(np.uint8), imagej=True, **size)
    labelled = read_labelled(image, labels, ":", contract.pixel_size_nm)
    probes = probes_of(trained, contract, labelled, as_bytes=True)
    assert {probe.image_NCYX.dtype.name for probe in probes} == {"uint8"}


def test_blank_sections_alone_are_refused(trained, contract, odd):
    image, labels = odd
    labelled = read_labelled(image, labels, "1:2", contract.pixel_size_nm)
    with pytest.raises(ImageError, match="are blank; give others with --sections"):
        probes_of(trained, contract, labelled)


def test_models_trained_from_now_on_say_that_their_statistics_are_robust(contract):
    assert contract.normalisation == "section-robust"


@pytest.mark.parametrize(
    ("name", "kind"), [("isbi2012-unet-b32", "section-zscore"), ("em", "section-robust")]
)
def test_a_released_model_keeps_the_kind_that_it_was_trained_with(name, kind):
    model = released_models()[name]
    assert read_contract(model.path.read_bytes()).normalisation == kind
    assert load_checkpoint(model.checkpoint.path).normalisation == kind
