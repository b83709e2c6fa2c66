"""The CUDA path against the CPU: `pytest -m cuda`."""

import numpy as np
import pytest
from drawn import synthetic_stack

from isbi_infer import DependencyError, Segmenter

pytestmark = pytest.mark.cuda


@pytest.fixture(scope="module")
def on_cuda():
    try:
        return Segmenter(provider="cuda", precision="fp32")
    except DependencyError as error:
        pytest.skip(f"no CUDA session runs here: {error}")


@pytest.fixture(scope="module")
def image_ZYX():
    image_ZYX, _ = synthetic_stack(3, 530, 611)
    return image_ZYX


def test_cuda_says_that_it_ran_and_auto_takes_it(on_cuda):
    assert on_cuda.provider == "cuda"
    assert Segmenter().provider == "cuda"


def test_auto_takes_float32_of_the_released_model(on_cuda):
    assert Segmenter(provider="cuda").contract.precision == "float32"


def test_float16_agrees_with_float32_within_its_gate(on_cuda, image_ZYX, tmp_path):
    pytest.importorskip("torch")
    from isbi_export.publish import publish
    from isbi_models import default_model

    publish(default_model().checkpoint.path, tmp_path, ["onnx"], precisions=["fp16"])
    (path,) = tmp_path.glob("*.onnx")
    half = Segmenter(path, provider="cuda")
    assert half.contract.precision == "float16"
    found_ZYX, expected_ZYX = half(image_ZYX), on_cuda(image_ZYX)
    assert np.abs(found_ZYX - expected_ZYX).max() < 2e-2
    assert ((found_ZYX > 0.5) != (expected_ZYX > 0.5)).mean() < 1e-3


def test_float32_without_tf32_agrees_with_the_cpu_within_a_thousandth(on_cuda, image_ZYX):
    on_cpu = Segmenter(provider="cpu", precision="fp32")
    assert np.abs(on_cuda(image_ZYX) - on_cpu(image_ZYX)).max() < 1e-3


@pytest.mark.parametrize("tile", [416, 448])
@pytest.mark.parametrize("batch", [1, 5])
def test_tiles_and_batches_agree_with_the_whole_section(on_cuda, image_ZYX, tile, batch):
    tiled = Segmenter(provider="cuda", precision="fp32", tile=tile, batch=batch)
    assert np.abs(tiled(image_ZYX) - on_cuda(image_ZYX)).max() < 1e-3


def test_a_second_run_gives_the_same_bits(on_cuda, image_ZYX):
    assert (on_cuda(image_ZYX) == on_cuda(image_ZYX)).all()
