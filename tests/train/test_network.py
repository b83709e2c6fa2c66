"""The network: its sizes, its beginning, and what it does to shapes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isbi_infer.errors import UsageError
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.network import UNet


def parameters(config):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in UNet(config).parameters())


@settings(max_examples=25)
@given(
    depth=st.integers(1, 3),
    unshuffle=st.sampled_from([1, 2]),
    batch=st.integers(1, 3),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
)
def test_the_output_has_the_shape_of_the_input_for_any_batch_and_multiple_of_the_stride(
    depth, unshuffle, batch, rows, columns
):
    config = NetworkConfig(base=1, depth=depth, unshuffle=unshuffle)
    image_NCYX = torch.zeros(batch, 1, rows * config.stride, columns * config.stride)
    with torch.inference_mode():
        assert UNet(config).eval()(image_NCYX).shape == image_NCYX.shape


def test_the_u_net_of_2015_has_31_million_parameters():
    assert parameters(NetworkConfig(base=64, depth=4, unshuffle=1)) == pytest.approx(31.0e6, rel=2e-3)


def test_the_default_network_has_1_93_million_parameters():
    assert parameters(NetworkConfig()) == pytest.approx(1.93e6, rel=2e-3)


def test_initial_convolutions_spread_as_he_et_al_ask():
    torch.manual_seed(0)
    network = UNet(NetworkConfig(base=16, depth=3, unshuffle=1))
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) == 14
    for convolution in convolutions[1:]:  # the first has too few weights to measure
        expected = math.sqrt(2 / (9 * convolution.in_channels))
        assert convolution.weight.std().item() == pytest.approx(expected, rel=0.1)
        assert abs(convolution.weight.mean().item()) < 0.1 * expected


def test_an_untrained_network_is_undecided_everywhere():
    torch.manual_seed(0)
    network = UNet(NetworkConfig(base=8, depth=2)).eval()
    with torch.inference_mode():
        probability_NCYX = torch.sigmoid(network(torch.randn(2, 1, 64, 64)))
    assert (probability_NCYX - 0.5).abs().max() < 0.1
    for module in network.modules():
        if isinstance(module, nn.ConvTranspose2d):
            assert not module.bias.any()


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_folding_into_channels_keeps_every_pixel(unshuffle):
    network = UNet(NetworkConfig(base=1, depth=1, unshuffle=unshuffle))
    image_NCYX = torch.randn(2, 1, 12, 20)
    folded_NCYX = network.fold(image_NCYX)
    assert folded_NCYX.shape == (2, unshuffle**2, 12 // unshuffle, 20 // unshuffle)
    assert torch.equal(network.unfold(folded_NCYX), image_NCYX)


def test_a_section_is_segmented_alike_alone_and_in_a_batch():
    torch.manual_seed(0)
    network = UNet(NetworkConfig(base=2, depth=2)).eval()
    image_NCYX = torch.randn(3, 1, 32, 32)
    with torch.inference_mode():
        together = network(image_NCYX)
        alone = torch.cat([network(image_NCYX[n : n + 1]) for n in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_channels_are_dropped_in_training_only():
    network = UNet(NetworkConfig(base=4, depth=1, dropout=0.5))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    image_NCYX = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        nn.init.normal_(network.head.weight)
        torch.manual_seed(0)
        training = [network.train()(image_NCYX) for _ in range(4)]
        deployed = [network.eval()(image_NCYX) for _ in range(2)]
    assert any(not torch.equal(training[0], other) for other in training[1:])
    assert torch.equal(*deployed)


@pytest.mark.parametrize(
    ("config", "settings", "named"),
    [
        (NetworkConfig, {"base": 0}, "base width 0"),
        (NetworkConfig, {"base": 513}, "base width 513"),
        (NetworkConfig, {"depth": 0}, "depth 0"),
        (NetworkConfig, {"depth": 7}, "depth 7"),
        (NetworkConfig, {"unshuffle": 3}, "unshuffle 3"),
        (NetworkConfig, {"dropout": 1.0}, "dropout 1.0"),
        (NetworkConfig, {"dropout": math.nan}, "dropout nan"),
        (AugmentConfig, {"scale_min": 0.0}, "scale 0.0"),
        (AugmentConfig, {"scale_min": 1.5}, "scale 1.5"),
        (AugmentConfig, {"elastic_spacing_px": 7}, "elastic spacing 7"),
        (AugmentConfig, {"noise": -0.1}, "noise -0.1"),
        (AugmentConfig, {"blur_px": math.nan}, "blur_px nan"),
        (TrainConfig, {"epochs": 0}, "epochs 0"),
        (TrainConfig, {"batch": 0}, "batch 0"),
        (TrainConfig, {"hold_out": 0}, "hold_out 0"),
        (TrainConfig, {"learning_rate": 0.0}, r"learning rate 0\.0"),
        (TrainConfig, {"learning_rate": math.nan}, "learning rate nan"),
        (TrainConfig, {"weight_decay": -1.0}, "weight decay -1"),
        (TrainConfig, {"warmup_steps": -1}, "warm-up of -1"),
        (TrainConfig, {"average": 1.0}, r"average 1\.0"),
        (TrainConfig, {"border": -1}, "border -1"),
        (TrainConfig, {"precision": "int8"}, "precision 'int8'"),
        (TrainConfig, {"device": "tpu"}, "device 'tpu'"),
        (TrainConfig, {"seed": -1}, "seed -1"),
        (TrainConfig, {"seed": 2**31}, "seed 2147483648"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(config, settings, named):
    with pytest.raises(UsageError, match=named):
        config(**settings)


@given(depth=st.integers(1, 6), unshuffle=st.sampled_from([1, 2]), base=st.integers(1, 512))
def test_settings_survive_the_way_through_plain_types(depth, unshuffle, base):
    config = NetworkConfig(base=base, depth=depth, unshuffle=unshuffle)
    assert NetworkConfig.from_plain(config.to_plain()) == config
    assert config.stride == unshuffle * 2**depth
