"""The network: its sizes, its beginning, and what it does to shapes."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from drawn import synthetic_stack
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from isbi_infer.errors import UsageError
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.networks.checkpoint import shapes_of
from isbi_train.networks.network import UNet
from isbi_train.networks.whole import predict_whole


def parameters(config):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in UNet(config).parameters())


@settings(max_examples=settings().max_examples // 2)
@given(
    depth=st.integers(1, 3),
    kind=st.sampled_from([("unet", 1), ("unet", 2), ("unet", 4), ("valid-unet", 1)]),
    widest=st.integers(2, 20),
    batch_norm=st.booleans(),
    separable=st.booleans(),
    batch=st.integers(1, 3),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
)
def test_the_output_has_the_shape_of_the_input_for_any_batch_and_multiple_of_the_stride(
    depth, kind, widest, batch_norm, separable, batch, rows, columns
):
    arch, unshuffle = kind
    config = NetworkConfig(
        base=2,
        depth=depth,
        unshuffle=unshuffle,
        arch=arch,
        widest=widest,
        batch_norm=batch_norm,
        separable=separable and arch == "unet",
    )
    image_NCYX = torch.zeros(batch, 1, rows * config.stride, columns * config.stride)
    with torch.inference_mode():
        assert UNet(config).eval()(image_NCYX).shape == image_NCYX.shape


def test_the_u_net_of_2015_has_31_million_parameters():
    assert parameters(NetworkConfig(base=64, depth=4, unshuffle=1)) == pytest.approx(31.0e6, rel=2e-3)


def test_the_default_network_has_1_93_million_parameters():
    assert parameters(NetworkConfig()) == pytest.approx(1.93e6, rel=2e-3)


def test_the_valid_u_net_has_as_many_parameters_and_those_of_its_widths():
    config = NetworkConfig.of("valid-unet")
    assert config.widths == (64, 128, 256, 512, 1024)
    assert parameters(config) == parameters(NetworkConfig(base=64, depth=4, unshuffle=1))
    # 3x3, up-convolutions and head with biases, as counted by hand for the network of 2015 with one logit
    assert parameters(NetworkConfig.of("valid-unet", batch_norm=False)) == 31_030_593


def sizes_on_the_way(network, side):
    """Give the sides of what every 3x3 block and every concatenation gets, down and up."""
    inputs, hooks = [], []
    for block in (*network.encoder, network.bottom, *network.decoder):
        hooks.append(
            block.register_forward_hook(lambda _, x, y: inputs.append((x[0].shape[-1], y.shape[-1])))
        )
    with torch.inference_mode():
        out = network(torch.zeros(1, 1, side, side))
    for hook in hooks:
        hook.remove()
    return inputs, out.shape[-1]


def test_62_mirrored_pixels_bring_512_pixels_to_512():
    network = UNet(NetworkConfig.of("valid-unet", base=1)).eval()
    assert network.config.mirrored == 62
    down = [(636, 632), (316, 312), (156, 152), (76, 72), (36, 32)]
    up = [(64, 64), (128, 128), (256, 256), (512, 512)]
    assert sizes_on_the_way(network, 512) == ([*down, *up], 512)


def test_the_valid_u_net_is_what_its_parts_say_on_a_section_mirrored_beforehand():
    torch.manual_seed(0)
    network = UNet(NetworkConfig.of("valid-unet", base=2, depth=2)).eval()
    image_YX = torch.randn(48, 64)
    mirrored_YX = torch.from_numpy(np.pad(image_YX.numpy(), 14, mode="reflect"))
    one = network.encoder[0](mirrored_YX[None, None])
    two = network.encoder[1](F.max_pool2d(one, 2))
    x = network.bottom(F.max_pool2d(two, 2))
    for upsample, block, skip in zip(network.upsample, network.decoder, (two, one), strict=True):
        x = upsample(x)
        top, left = ((skip.shape[d] - x.shape[d]) // 2 for d in (2, 3))
        assert ((skip.shape[2] - x.shape[2]) % 2, (skip.shape[3] - x.shape[3]) % 2) == (0, 0)
        centre = skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]
        x = block(torch.cat((centre, x), 1))
    assert torch.equal(network.head(x), network(image_YX[None, None]))


@given(base=st.integers(1, 512), depth=st.integers(1, 6), more=st.integers(0, 4096))
def test_no_level_is_wider_than_the_widest(base, depth, more):
    widths = NetworkConfig(base=base, depth=depth, widest=base + more).widths
    assert len(widths) == depth + 1
    assert (widths[0], max(widths)) == (base, min(base * 2**depth, base + more))
    assert all(after in (2 * before, base + more) for before, after in pairwise(widths))


def test_a_capped_network_has_its_widths_in_every_layer():
    shapes = {name: tuple(w.shape) for name, w in UNet(NetworkConfig(base=4, widest=16)).state_dict().items()}
    assert shapes["encoder.2.0.weight"] == (16, 8, 3, 3)
    assert shapes["bottom.0.weight"] == (16, 16, 3, 3)
    assert shapes["upsample.0.weight"] == (16, 16, 2, 2)
    assert shapes["decoder.0.0.weight"] == (16, 32, 3, 3)
    assert shapes["upsample.1.weight"] == (16, 8, 2, 2)


def test_an_architecture_brings_its_own_defaults_and_given_settings_stay():
    assert NetworkConfig.of("unet") == NetworkConfig()
    assert NetworkConfig.of("valid-unet", base=8, depth=None).to_plain() == {
        **NetworkConfig().to_plain(),
        **{"arch": "valid-unet", "base": 8, "depth": 4, "unshuffle": 1, "dropout": 0.0},
    }


def test_initial_convolutions_spread_as_he_et_al_ask():
    torch.manual_seed(0)
    network = UNet(NetworkConfig(base=16, depth=3, unshuffle=1))
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) == 14
    for convolution in convolutions[1:]:  # the first has too few weights to measure
        expected = math.sqrt(2 / (9 * convolution.in_channels))
        assert convolution.weight.std().item() == pytest.approx(expected, rel=0.1)
        assert abs(convolution.weight.mean().item()) < 0.1 * expected


@settings(max_examples=settings().max_examples // 3)
@given(base=st.integers(1, 8), depth=st.integers(1, 3), unshuffle=st.sampled_from([1, 2, 4]))
def test_every_3x3_convolution_but_the_first_is_split_where_that_is_wanted(base, depth, unshuffle):
    plain = NetworkConfig(base=base, depth=depth, unshuffle=unshuffle)
    with torch.device("meta"):
        networks = UNet(plain), UNet(replace(plain, separable=True))
    whole, split = ([m for m in network.modules() if isinstance(m, nn.Conv2d)] for network in networks)
    first, *others, head = ((m.in_channels, m.out_channels, m.kernel_size, m.groups) for m in whole)
    expected = [first]
    for before, after, _, _ in others:
        expected += [(before, before, (3, 3), before), (before, after, (1, 1), 1)]
    assert [(m.in_channels, m.out_channels, m.kernel_size, m.groups) for m in split] == [*expected, head]


@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_halves_of_a_separable_convolution_together_keep_the_variance(batch_norm):
    torch.manual_seed(0)
    network = UNet(NetworkConfig(base=64, depth=1, separable=True, batch_norm=batch_norm))
    before_NCYX = torch.randn(4, 64, 64, 64).relu()
    with torch.no_grad():
        after_NCYX = network.bottom[1](network.bottom[0](before_NCYX))
    # without the rim, where zeros come in
    assert after_NCYX[:, :, 1:-1, 1:-1].var().item() == pytest.approx(1.0, rel=0.25)


def test_an_untrained_network_is_undecided_everywhere():
    torch.manual_seed(0)
    network = UNet(NetworkConfig(base=8, depth=2)).eval()
    with torch.inference_mode():
        probability_NCYX = torch.sigmoid(network(torch.randn(2, 1, 64, 64)))
    assert (probability_NCYX - 0.5).abs().max() < 0.1
    for module in network.modules():
        if isinstance(module, nn.ConvTranspose2d):
            assert not module.bias.any()


@pytest.mark.parametrize("unshuffle", [1, 2, 4])
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


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize(
    ("arch", "separable"), [("unet", False), ("unet", True), ("valid-unet", False)], ids=str
)
def test_every_weight_learns(arch, separable, batch_norm):
    torch.manual_seed(0)
    config = NetworkConfig.of(arch, base=4, depth=2, batch_norm=batch_norm, separable=separable)
    network = UNet(config).train()
    image_NCYX = torch.randn(2, 1, 4 * config.stride, 4 * config.stride)
    loss = F.binary_cross_entropy_with_logits(network(image_NCYX), (image_NCYX > 0).float())
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(
    ("config", "settings", "named"),
    [
        (NetworkConfig, {"base": 0}, "base width 0"),
        (NetworkConfig, {"base": 513}, "base width 513"),
        (NetworkConfig, {"depth": 0}, "depth 0"),
        (NetworkConfig, {"depth": 7}, "depth 7"),
        (NetworkConfig, {"unshuffle": 3}, "unshuffle 3"),
        (NetworkConfig, {"arch": "resnet"}, "arch 'resnet'"),
        (NetworkConfig, {"base": 32, "widest": 31}, "widest 31"),
        (NetworkConfig, {"widest": 2**20}, "widest 1048576"),
        (NetworkConfig, {"batch_norm": 1}, "batch_norm 1"),
        (NetworkConfig, {"arch": "valid-unet"}, "unshuffle 2 does not go with arch valid-unet"),
        (NetworkConfig, {"separable": 1}, "separable 1"),
        (
            NetworkConfig,
            {"arch": "valid-unet", "unshuffle": 1, "separable": True},
            "separable .* arch valid-unet",
        ),
        (NetworkConfig, {"dropout": 1.0}, "dropout 1.0"),
        (NetworkConfig, {"dropout": math.nan}, "dropout nan"),
        (AugmentConfig, {"scale_min": 0.0}, "scale_min 0.0 is not within"),
        (AugmentConfig, {"scale_min": 1.5}, "scale 1.5"),
        (AugmentConfig, {"elastic_spacing_px": 7}, "elastic spacing 7"),
        (AugmentConfig, {"noise": -0.1}, "noise -0.1"),
        (AugmentConfig, {"blur_px": math.nan}, "blur_px nan"),
        (AugmentConfig, {"shot": 1.1}, r"shot 1\.1"),
        (AugmentConfig, {"tone": -0.1}, r"tone -0\.1 is negative"),
        (AugmentConfig, {"sharpness": -1}, r"sharpness -1 is negative"),
        (TrainConfig, {"average_share": 0.21}, r"average_share 0\.21"),
        (TrainConfig, {"deep_weight": -1.0}, r"deep_weight -1"),
        (TrainConfig, {"cldice_weight": math.nan}, "cldice_weight nan"),
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


@given(
    depth=st.integers(1, 6),
    unshuffle=st.sampled_from([1, 2, 4]),
    base=st.integers(1, 512),
    separable=st.booleans(),
)
def test_settings_survive_the_way_through_plain_types(depth, unshuffle, base, separable):
    config = NetworkConfig(
        base=base, depth=depth, unshuffle=unshuffle, widest=600, batch_norm=False, separable=separable
    )
    assert NetworkConfig.from_plain(config.to_plain()) == config
    assert config.stride == unshuffle * 2**depth


def test_a_checkpoint_leaves_canvas_and_blank_sections_out_as_inference_does():
    torch.manual_seed(0)
    network = UNet(NetworkConfig(base=4, depth=1, unshuffle=1)).eval()
    image_ZYX, _ = synthetic_stack(3, 64, 80)
    padded_ZYX = np.zeros((3, 96, 128), np.uint8)
    padded_ZYX[:2, 16:80, 30:110] = image_ZYX[:2]
    expected_ZYX = predict_whole(network, image_ZYX[:2], stride=2, border=0)
    found_ZYX = predict_whole(network, padded_ZYX, stride=2, border=0)
    assert (found_ZYX[:2, 16:80, 30:110] == expected_ZYX).all()
    found_ZYX[:2, 16:80, 30:110] = found_ZYX.min()
    assert (torch.sigmoid(torch.from_numpy(found_ZYX)) == 0).all()


def test_a_network_whose_shapes_alone_are_asked_for_is_not_initialised(monkeypatch):
    """On the meta device torch would load its decompositions for it, which takes longer than to read a checkpoint."""
    config = NetworkConfig(base=2, depth=1)
    expected = {name: tuple(weight.shape) for name, weight in UNet(config).state_dict().items()}
    monkeypatch.delattr(UNet, "_initialise")
    assert shapes_of(config) == expected
    with pytest.raises(AttributeError):
        UNet(config)
