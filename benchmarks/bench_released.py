"""What each released model takes for one stack, against the specialist: a larger or coarser network is a choice."""

from __future__ import annotations

from functools import partial

import pytest

from isbi_infer import Segmenter
from isbi_infer.errors import DependencyError
from isbi_models import released_models

BASELINE = "isbi2012-unet-b32"
PIXEL_NM = 4.0  # of the stack, where it says it: a model of coarser pixels computes fewer


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
@pytest.mark.parametrize("pixel_size", [None, PIXEL_NM], ids=["as-it-is", "4nm"])
def test_released_models_ratio(compare, keep, options, small_ZYX, provider, pixel_size):
    if options.provider != "cpu":
        pytest.skip("the released models are compared on the processor")
    try:
        segmenters = {
            name: Segmenter(name, provider=provider, precision="int8", pixel_size=pixel_size)
            for name in released_models()
        }
    except DependencyError as error:
        pytest.skip(str(error))
    size = "as-it-is" if pixel_size is None else f"{pixel_size:g}nm"
    name = f"released-{provider}-{size}"
    contenders = {model: partial(segmenter, small_ZYX) for model, segmenter in segmenters.items()}
    found, _ = compare(name, contenders, BASELINE)
    keep(
        name,
        found,
        runtime=provider,
        pixel_size_nm=pixel_size,
        shape=small_ZYX.shape,
        model_sha256={model: segmenter.model_sha256 for model, segmenter in segmenters.items()},
        computed_with="int8",
    )
