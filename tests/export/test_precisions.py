"""Which of a network's files Segmenter runs, and that each is run as it wants to be."""

import shutil

import numpy as np
import pytest
from drawn import synthetic_stack

from isbi_infer import ImageError, ModelError, Segmenter, UsageError


@pytest.fixture(scope="module")
def image_ZYX():
    image_ZYX, _ = synthetic_stack(2, 150, 170)
    return image_ZYX


@pytest.mark.parametrize(
    ("start", "precision", "expected"),
    [
        ("model.onnx", "auto", "float32"),
        ("model.int8.onnx", "auto", "int8"),
        ("model.onnx", "fp32", "float32"),
        ("model.onnx", "int8", "int8"),
        ("model.onnx", "fp16", "float16"),
        ("model.fp16.onnx", "int8", "int8"),
        ("model.int8.onnx", "fp32", "float32"),
        ("model.int8.uint8.onnx", "fp32", "float32"),
        ("model.uint8.onnx", "fp16", "float16"),
    ],
)
def test_a_file_is_run_as_it_is_or_its_sibling_of_the_wanted_precision(
    everything, start, precision, expected
):
    folder, _ = everything
    segmenter = Segmenter(folder / start, provider="cpu", precision=precision)
    assert segmenter.contract.precision == expected
    assert segmenter.contract.input_dtype == ("uint8" if "uint8" in start else "float32")


def test_a_missing_sibling_is_named_with_the_command_that_makes_it(everything, tmp_path):
    folder, _ = everything
    shutil.copy(folder / "model.onnx", tmp_path / "model.onnx")
    with pytest.raises(UsageError, match=r"model\.int8\.onnx; run isbi-export --precision int8"):
        Segmenter(tmp_path / "model.onnx", provider="cpu", precision="int8")
    with pytest.raises(UsageError, match="unknown precision 'fp8'"):
        Segmenter(tmp_path / "model.onnx", provider="cpu", precision="fp8")


def test_a_sibling_of_another_precision_than_its_name_says_is_refused(everything, tmp_path):
    folder, _ = everything
    shutil.copy(folder / "model.onnx", tmp_path / "model.onnx")
    shutil.copy(folder / "model.fp16.onnx", tmp_path / "model.int8.onnx")
    with pytest.raises(ModelError, match=r"model\.int8\.onnx: is not the int8 variant"):
        Segmenter(tmp_path / "model.onnx", provider="cpu", precision="int8")


@pytest.mark.parametrize("tile", [None, 120])
@pytest.mark.parametrize("name", ["model.uint8.onnx", "model.int8.uint8.onnx"])
def test_bytes_in_and_out_give_what_rounding_gives(everything, image_ZYX, name, tile, tmp_path):
    folder, _ = everything
    segmenter = Segmenter(folder / name, provider="cpu", tile=tile)
    found_ZYX = segmenter(image_ZYX)
    assert found_ZYX.dtype == np.float32
    expected_ZYX = Segmenter(folder / name.replace(".uint8", ""), provider="cpu")(image_ZYX)
    assert np.abs(found_ZYX - expected_ZYX).max() <= 0.5 / 255 + 1e-6
    averaged_ZYX = Segmenter(folder / name, provider="cpu", tile=tile, tta=True)(image_ZYX)
    assert (averaged_ZYX == np.rint(averaged_ZYX * 255) / np.float32(255)).all()


def test_bytes_in_want_bytes(everything, image_ZYX):
    folder, _ = everything
    with pytest.raises(ImageError, match=r"8-bit.*uint16"):
        Segmenter(folder / "model.uint8.onnx", provider="cpu")(image_ZYX.astype(np.uint16))


def test_torchscript_is_run_with_the_same_contract_plan_and_exactness(everything, image_ZYX):
    folder, _ = everything
    script, onnx = (Segmenter(folder / name, provider="cpu") for name in ("model.pt", "model.onnx"))
    assert script.contract.provenance["training"] == onnx.contract.provenance["training"]
    assert script.plan((1000, 1000)).section == onnx.plan((1000, 1000)).section
    whole_ZYX = script(image_ZYX)
    assert np.abs(whole_ZYX - onnx(image_ZYX)).max() < 1e-5
    for options in ({"tile": 120}, {"tile": 104, "batch": 3}):
        assert (Segmenter(folder / "model.pt", provider="cpu", **options)(image_ZYX) == whole_ZYX).all()


def test_torchscript_runs_on_torchs_devices_only(everything):
    folder, _ = everything
    with pytest.raises(UsageError, match=r"openvino.*use the \.onnx file"):
        Segmenter(folder / "model.pt", provider="openvino")
