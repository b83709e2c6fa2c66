"""The network as it is deployed: folded and rewritten, and still the same function."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from isbi_export.formats.deployable import Deployable, SpaceToDepth
from isbi_train.config import NetworkConfig
from isbi_train.networks.network import UNet

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=settings().max_examples // 2)
@given(
    data=st.data(),
    factor=st.sampled_from([2, 3, 4]),
    batch=st.integers(1, 2),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
)
def test_space_to_depth_equals_pixel_unshuffle_to_the_bit(data, factor, batch, rows, columns):
    shape = (batch, 1, rows * factor, columns * factor)
    image_NCYX = torch.from_numpy(data.draw(hnp.arrays(np.float32, shape, elements=floats)))
    with torch.inference_mode():
        assert torch.equal(SpaceToDepth(factor)(image_NCYX), nn.PixelUnshuffle(factor)(image_NCYX))


OPTIONS = {
    "plain": NetworkConfig(base=4, depth=3, unshuffle=1),
    "folded 2x2": NetworkConfig(base=4, depth=3, unshuffle=2),
    "folded 4x4": NetworkConfig(base=4, depth=2, unshuffle=4),
    "capped": NetworkConfig(base=4, depth=3, unshuffle=1, widest=8),
    "without BatchNorm": NetworkConfig(base=4, depth=3, unshuffle=2, batch_norm=False),
    "separable": NetworkConfig(base=4, depth=3, unshuffle=2, separable=True),
    "separable without BatchNorm": NetworkConfig(base=4, depth=2, separable=True, batch_norm=False),
    "valid": NetworkConfig.of("valid-unet", base=4, depth=2),
    "valid without BatchNorm": NetworkConfig.of("valid-unet", base=4, depth=2, batch_norm=False),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS)
def test_folding_batch_norm_changes_no_probability_by_more_than_rounding(seasoned, config, seed):
    original, deployed = seasoned(config, seed), Deployable(seasoned(config, seed))
    image_NCYX = torch.randn(2, 1, 3 * config.stride, 5 * config.stride)
    with torch.inference_mode():
        expected = torch.sigmoid(original(image_NCYX))
        torch.testing.assert_close(deployed(image_NCYX), expected, rtol=0, atol=2e-6)
    assert expected.std() > 0.03  # neither all cell nor all membrane


@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS)
def test_only_plain_layers_without_gradients_are_deployed(seasoned, config):
    deployed = Deployable(seasoned(config))
    kinds = {type(module) for module in deployed.modules()}
    assert not kinds & {nn.BatchNorm2d, nn.Dropout2d, nn.PixelUnshuffle}
    assert not any(parameter.requires_grad for parameter in deployed.parameters())
    assert not any(module.training for module in deployed.modules())


def test_probabilities_stay_within_0_and_1_for_extreme_grey_values(seasoned):
    deployed = Deployable(seasoned(NetworkConfig(base=2, depth=2)))
    with torch.inference_mode():
        probability_NCYX = deployed(1e6 * torch.randn(1, 1, 32, 32))
    assert probability_NCYX.min() >= 0
    assert probability_NCYX.max() <= 1


def test_a_network_that_is_still_training_is_not_deployed():
    with pytest.raises(AssertionError):
        Deployable(UNet(NetworkConfig(base=1, depth=1)).train())


@pytest.mark.parametrize("mode", ["", "BF16", "ANY"])
def test_the_reference_is_real_float32_whatever_the_environment_asks_of_onednn(mode):
    """Processors with bfloat16 would be off by 5e-3; a process of its own, since oneDNN reads its mode once."""
    code = (
        "import torch; from isbi_export.proof.runners import module_runner, real_float32\n"
        "from isbi_infer.pixels.normalise import IntensityStatistics\n"
        "torch.manual_seed(0)\n"
        "network = torch.nn.Sequential(torch.nn.Conv2d(1, 32, 3), torch.nn.Conv2d(32, 32, 3)).eval()\n"
        "image = torch.randn(1, 1, 64, 64)\n"
        "with torch.inference_mode(): expected = network.double()(image.double()).numpy()\n"
        "with real_float32():\n"
        "    found = module_runner(network.float())(image.numpy(), [(IntensityStatistics(0.0, 1.0),)])\n"
        "assert torch.backends.mkldnn.enabled\n"
        "assert abs(found - expected).max() < 1e-5, abs(found - expected).max()\n"
    )
    modes = {"ONEDNN_DEFAULT_FPMATH_MODE": mode, "DNNL_DEFAULT_FPMATH_MODE": mode}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **modes}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
