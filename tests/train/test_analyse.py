"""A stack segmented into a submission, sections and a contact sheet."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
from drawn import synthetic_stack
from matplotlib.image import imread

from isbi_infer import Segmenter
from isbi_infer.errors import ImageError, ModelError, OutputError, UsageError
from isbi_infer.volumes import open_stack
from isbi_models import default_model
from isbi_train.evaluation.predict import predict
from isbi_train.networks.checkpoint import save_checkpoint
from isbi_train.plots.analyse import analyse

MODEL = default_model().path


@pytest.fixture(scope="module")
def em(tmp_path_factory):
    """Three sections of 80x96 pixels of 4 nm as ImageJ TIFF."""
    path = tmp_path_factory.mktemp("em") / "em.tif"
    metadata = {"axes": "ZYX", "unit": "um", "spacing": 0.05}
    tifffile.imwrite(
        path, synthetic_stack(3, 80, 96)[0], imagej=True, resolution=(250, 250), metadata=metadata
    )
    return path


def test_the_submission_is_what_the_segmenter_gives_as_float32_with_the_pixel_size(em, tmp_path):
    seen = []
    result = analyse(
        MODEL, em, tmp_path / "out", provider="cpu", progress=lambda *counts: seen.append(counts)
    )
    expected_ZYX = Segmenter(MODEL, provider="cpu", pixel_size=4.0)(tifffile.imread(em))
    with open_stack(result.submission) as reader, open_stack(em) as source:
        assert reader.dtype == np.float32
        assert reader.pixel_size == source.pixel_size
        np.testing.assert_array_equal(np.stack(list(reader)), expected_ZYX)
    assert [path.name for path in result.sections] == ["00.tif", "01.tif", "02.tif"]
    for path, section_YX in zip(result.sections, expected_ZYX, strict=True):
        np.testing.assert_array_equal(tifffile.imread(path), section_YX)
    assert seen[-1] == (3, 3)
    assert imread(result.contact_sheet).shape[1] > 3 * 2 * 96
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "contact-sheet.png",
        "sections",
        "submission.tif",
    ]


def test_a_checkpoint_is_run_by_torch(em, tmp_path, checkpoint):
    save_checkpoint(tmp_path / "tiny.pth", checkpoint)
    result = analyse(tmp_path / "tiny.pth", em, tmp_path / "out", provider="cpu")
    with open_stack(em) as source:
        expected_ZYX, notes = predict(tmp_path / "tiny.pth", source, provider="cpu")
    np.testing.assert_array_equal(tifffile.imread(result.submission), expected_ZYX)
    assert result.notes == notes
    with pytest.raises(UsageError, match="isbi-export"):
        analyse(tmp_path / "tiny.pth", em, tmp_path / "out", provider="cpu", tta=True)


@pytest.mark.parametrize("suffix", [".onnx", ".pth"])
def test_a_files_pixel_size_is_taken_as_inference_takes_it(tmp_path, exported, suffix):
    image_ZYX, _ = synthetic_stack(2, 96, 112)
    stack = tmp_path / "at-6nm.tif"
    metadata = {"axes": "ZYX", "unit": "um"}
    tifffile.imwrite(stack, image_ZYX, imagej=True, resolution=(1e3 / 6, 1e3 / 6), metadata=metadata)
    Segmenter(exported / "model.onnx", provider="cpu").segment_file(stack, tmp_path / "shipped.tif")
    shipped_ZYX = tifffile.imread(tmp_path / "shipped.tif")
    result = analyse(exported / f"model{suffix}", stack, tmp_path / "out")
    np.testing.assert_allclose(tifffile.imread(result.submission), shipped_ZYX, atol=1e-5)
    assert any("from 6 nm to the model's 4 nm" in note for note in result.notes)
    given = analyse(exported / "model.pt", stack, tmp_path / "given", pixel_size=4.0, tta=True)
    assert not any("resampled" in note for note in given.notes)


def test_averaging_over_flips_changes_the_result(em, tmp_path):
    plain, averaged = (
        analyse(MODEL, em, tmp_path / f"{tta}", provider="cpu", tta=tta).submission for tta in (False, True)
    )
    difference = np.abs(tifffile.imread(plain) - tifffile.imread(averaged)).max()
    assert 1e-4 < difference < 1


def test_an_earlier_analysis_is_replaced_and_files_of_others_are_not(em, tmp_path):
    first = analyse(MODEL, em, tmp_path, provider="cpu")
    before = first.contact_sheet.read_bytes()
    second = analyse(MODEL, em, tmp_path, provider="cpu")
    assert [note for note in second.notes if note not in first.notes] == [
        f"{second.submission} was there already, and was replaced"
    ]
    assert replace(second, notes=first.notes) == first
    assert first.contact_sheet.read_bytes() == before
    (tmp_path / "sections" / "03.tif").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"03\.tif: is none of the 3"):
        analyse(MODEL, em, tmp_path, provider="cpu")


def test_failures_come_before_any_file(em, tmp_path):
    with pytest.raises(ImageError, match="nowhere"):
        analyse(MODEL, tmp_path / "nowhere.tif", tmp_path / "out")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    for model in ("bad.onnx", "gone.onnx", "gone.pth", "gone.pt", "gone.h5"):
        with pytest.raises(ModelError, match=model):
            analyse(tmp_path / model, em, tmp_path / "out", provider="cpu")
    with pytest.raises(OutputError):
        analyse(MODEL, em, tmp_path / "bad.onnx" / "out", provider="cpu")
    assert not (tmp_path / "out").exists()


def test_the_input_is_never_written_over(tmp_path, em):
    source = tmp_path / "submission.tif"
    source.write_bytes(em.read_bytes())
    with pytest.raises(UsageError, match=r"is the input .* itself"):
        analyse(MODEL, source, tmp_path, provider="cpu")
    assert source.read_bytes() == em.read_bytes()
