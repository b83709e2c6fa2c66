"""Weights of networks with other names: recognised where their order is known, computed alike, or refused."""

import re
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks_at_hand import CONFIG, same
from safetensors.torch import save_file
from torch import nn

from isbi_infer.errors import ModelError, UsageError
from isbi_train.config import NetworkConfig
from isbi_train.networks.network import UNet
from isbi_train.networks.weights import load_weights


class Theirs(nn.Module):
    """A classic U-Net as others write it; their own forward, sharing no line with ours."""

    def __init__(
        self,
        base=2,
        depth=2,
        *,
        valid=False,
        norm=False,
        bias=True,
        ups_first=False,
        relu_first=False,
        skips_first=True,
    ):
        super().__init__()
        self.valid, self.skips_first = valid, skips_first
        widths = [base * 2**level for level in range(depth + 1)]

        def block(a, b, padding):
            layers = []
            for channels in (a, b):
                layers.append(nn.Conv2d(channels, b, 3, padding=padding, bias=bias))
                rest = [*([nn.BatchNorm2d(b)] if norm else []), nn.ReLU()]
                layers += rest[::-1] if relu_first else rest
            return nn.Sequential(*layers)

        self.pool = nn.MaxPool2d(2)
        down_padding = 0 if valid else 1
        for i, (a, b) in enumerate(zip([1, *widths], widths, strict=False)):
            setattr(self, f"down{i + 1}", block(a, b, down_padding))
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        for i, (a, b) in enumerate(pairs):
            setattr(self, f"upconv{i + 1}", nn.ConvTranspose2d(a, b, 2, stride=2))
            if not ups_first:
                setattr(self, f"merge{i + 1}", block(a, b, 1))
        if ups_first:
            for i, (a, b) in enumerate(pairs):
                setattr(self, f"merge{i + 1}", block(a, b, 1))
        self.final = nn.Conv2d(base, 1, 1)
        self.depth = depth

    def forward(self, x):
        if self.valid:
            # 62 at a depth of 4, and half of that less one at every depth less.
            side = {1: 6, 2: 14, 3: 30, 4: 62}[self.depth]
            x = nn.ReflectionPad2d(side)(x)
        skips = []
        for i in range(self.depth):
            x = getattr(self, f"down{i + 1}")(x)
            skips.append(x)
            x = self.pool(x)
        x = getattr(self, f"down{self.depth + 1}")(x)
        for i in range(self.depth):
            x = getattr(self, f"upconv{i + 1}")(x)
            skip = skips.pop()
            top, left = ((skip.shape[d] - x.shape[d]) // 2 for d in (2, 3))
            skip = skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]
            both = [skip, x] if self.skips_first else [x, skip]
            x = getattr(self, f"merge{i + 1}")(torch.cat(both, 1))
        return self.final(x)


def seasoned(network):
    torch.manual_seed(3)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(
                torch.rand_like(value) + 0.5
                if name.endswith("var")
                else value + 0.1 * torch.randn_like(value)
            )
    return network.eval()


@settings(max_examples=settings().max_examples // 2)
@given(
    valid=st.booleans(),
    norm=st.booleans(),
    bias=st.booleans(),
    ups_first=st.booleans(),
    skips_first=st.booleans(),
    depth=st.integers(1, 4),
    base=st.integers(1, 4),
)
def test_a_u_net_with_other_names_computes_the_same_here_when_its_order_is_stated(
    tmp_path_factory, valid, norm, bias, ups_first, skips_first, depth, base
):
    assume(norm or bias)
    options = {"valid": valid, "norm": norm, "bias": bias, "ups_first": ups_first}
    theirs = seasoned(Theirs(base, depth, **options, skips_first=skips_first))
    arch = f"{'valid-unet' if valid else 'unet'}-{'skip' if skips_first else 'up'}-first"
    path = tmp_path_factory.getbasetemp() / "theirs.pth"
    torch.save({f"module.{name}": value for name, value in theirs.state_dict().items()}, path)
    loaded = load_weights(path, arch)
    assert (loaded.network.base, loaded.network.depth, loaded.network.batch_norm) == (base, depth, norm)
    assert f"by order and shape as {arch} states" in loaded.notes[1]
    stride = loaded.network.stride
    image_NCYX = torch.randn(1, 1, stride, 2 * stride)
    with torch.inference_mode():
        torch.testing.assert_close(
            loaded.load_network()(image_NCYX), theirs(image_NCYX), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("arch", [None, "unet", "valid-unet"])
@pytest.mark.parametrize("norm", [True, False])
def test_what_weights_do_not_show_is_asked_for_and_never_guessed(stored, arch, norm):
    asked = r"\['down1\.0\.weight'.*base 2 and depth 2.*skips come before or after.*--arch unet-skip-first"
    with pytest.raises(ModelError, match=asked) as refused:
        load_weights(stored(Theirs(norm=norm).state_dict()), arch)
    assert "\n" not in str(refused.value)


def double_conv(a, b, names=None, bias=False):
    layers = [
        layer
        for c in (a, b)
        for layer in (nn.Conv2d(c, b, 3, padding=1, bias=bias), nn.BatchNorm2d(b), nn.ReLU())
    ]
    return nn.Sequential(OrderedDict(zip(names or map(str, range(6)), layers, strict=True)))


class Milesial(nn.Module):
    """Names and computation of milesial/Pytorch-UNet; older versions have biases before the BatchNorm."""

    def __init__(self, base, depth, channels=1, bias=False):
        super().__init__()
        self.depth = depth
        self.inc = nn.ModuleDict({"double_conv": double_conv(channels, base, bias=bias)})
        for i in range(1, depth + 1):
            block = nn.ModuleDict({"double_conv": double_conv(base * 2 ** (i - 1), base * 2**i, bias=bias)})
            setattr(
                self, f"down{i}", nn.ModuleDict({"maxpool_conv": nn.ModuleList([nn.MaxPool2d(2), block])})
            )
            a = base * 2 ** (depth + 1 - i)
            up = {"up": nn.ConvTranspose2d(a, a // 2, 2, stride=2)}
            up["conv"] = nn.ModuleDict({"double_conv": double_conv(a, a // 2, bias=bias)})
            setattr(self, f"up{i}", nn.ModuleDict(up))
        self.outc = nn.ModuleDict({"conv": nn.Conv2d(base, 1, 1)})

    def forward(self, x):
        skips = [self.inc["double_conv"](x)]
        for i in range(1, self.depth + 1):
            pool, block = getattr(self, f"down{i}")["maxpool_conv"]
            skips.append(block["double_conv"](pool(skips[-1])))
        x = skips.pop()
        for i in range(1, self.depth + 1):
            up = getattr(self, f"up{i}")
            x = up["conv"]["double_conv"](torch.cat([skips.pop(), up["up"](x)], 1))
        return self.outc["conv"](x)


class Mateuszbuda(nn.Module):
    """Names and computation of mateuszbuda/brain-segmentation-pytorch."""

    def __init__(self, base, depth, channels=1):
        super().__init__()
        self.depth = depth

        def block(a, b, name):
            return double_conv(
                a, b, [f"{name}{layer}{i}" for i in (1, 2) for layer in ("conv", "norm", "relu")]
            )

        for i in range(1, depth + 1):
            width = base * 2 ** (i - 1)
            setattr(self, f"encoder{i}", block(channels if i == 1 else width // 2, width, f"enc{i}"))
        self.bottleneck = block(base * 2 ** (depth - 1), base * 2**depth, "bottleneck")
        for i in range(depth, 0, -1):
            width = base * 2 ** (i - 1)
            setattr(self, f"upconv{i}", nn.ConvTranspose2d(2 * width, width, 2, stride=2))
            setattr(self, f"decoder{i}", block(2 * width, width, f"dec{i}"))
        self.conv = nn.Conv2d(base, 1, 1)

    def forward(self, x):
        skips = []
        for i in range(1, self.depth + 1):
            skips.append(getattr(self, f"encoder{i}")(x))
            x = nn.functional.max_pool2d(skips[-1], 2)
        x = self.bottleneck(x)
        for i in range(self.depth, 0, -1):
            x = getattr(self, f"decoder{i}")(torch.cat((getattr(self, f"upconv{i}")(x), skips.pop()), 1))
        return self.conv(x)


PUBLISHED = [Milesial, lambda *size: Milesial(*size, bias=True), Mateuszbuda]


@settings(max_examples=20, deadline=None)
@given(
    published=st.sampled_from(PUBLISHED),
    base=st.integers(1, 4),
    depth=st.integers(1, 4),
    prefixed=st.booleans(),
)
def test_well_known_u_nets_compute_the_same_here(tmp_path_factory, published, base, depth, prefixed):
    theirs = seasoned(published(base, depth))
    path = tmp_path_factory.getbasetemp() / "published.safetensors"  # by names alone, in no order
    prefix = "model." if prefixed else ""
    save_file({prefix + name: value.contiguous() for name, value in theirs.state_dict().items()}, path)
    loaded = load_weights(path)
    assert (loaded.network.arch, loaded.network.base, loaded.network.depth) == ("unet", base, depth)
    assert re.search("its names are those of (milesial|mateuszbuda)/", loaded.notes[1])
    image_NCYX = torch.randn(1, 1, loaded.network.stride, 2 * loaded.network.stride)
    with torch.inference_mode():
        torch.testing.assert_close(
            loaded.load_network()(image_NCYX), theirs(image_NCYX), rtol=1e-4, atol=1e-5
        )


def test_well_known_u_nets_that_differ_from_ours_say_how(stored):
    with pytest.raises(
        ModelError, match=r"those of milesial/Pytorch-UNet, but it takes images of 3 channels"
    ):
        load_weights(stored(Milesial(2, 2, channels=3).state_dict()))
    state = {n: w for n, w in Milesial(2, 2).state_dict().items() if not re.match(r"up\d\.up\.", n)}
    with pytest.raises(
        ModelError, match=r"milesial.*but its weights are not of its network: missing \['upsample"
    ):
        load_weights(stored(state))
    with pytest.raises(UsageError, match=r"mateuszbuda.*leave --arch out"):
        load_weights(stored(Mateuszbuda(2, 2).state_dict()), "valid-unet")


def test_an_order_is_not_stated_of_names_that_are_known(stored, weights):
    with pytest.raises(UsageError, match="their order is known; use one of unet, valid-unet"):
        load_weights(stored(weights), "unet-skip-first")


def test_what_a_trainer_keeps_beside_the_network_is_left_aside_and_named(stored, weights):
    content = {f"model.{name}": weight for name, weight in weights.items()}
    content["criterion.pos_weight"] = torch.ones(1)
    loaded = load_weights(stored({"epoch": 1, "state_dict": content}))
    assert same(loaded.state_dict, weights)
    assert "left aside what does not belong to the network: ['criterion.pos_weight']" in loaded.notes[-1]
    damaged = {name: weight for name, weight in content.items() if name != "model.head.bias"}
    with pytest.raises(ModelError, match=r"missing \['head\.bias'\]"):
        load_weights(stored(damaged))


@pytest.mark.parametrize("head", ["unet.", "network.", "backbone.", "net.module."])
def test_lightning_names_a_network_as_it_likes(stored, weights, head):
    content = {f"{head}{name}": weight for name, weight in weights.items()}
    content |= {"loss_fn.weight": torch.ones(2), "accuracy.total": torch.tensor(3)}
    loaded = load_weights(stored({"state_dict": content, "optimizer_states": [{"state": {}}]}))
    assert same(loaded.state_dict, weights)
    assert "does not belong to the network: ['loss_fn.weight', 'accuracy.total']" in loaded.notes[-1]


@pytest.mark.parametrize("key", ["net", "network", "module", "weights", "params"])
def test_a_state_dictionary_is_found_under_the_keys_of_other_trainers(stored, weights, key):
    moments = {0: {"exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}}
    loaded = load_weights(stored({key: weights, "optimizer": {"state": moments, "param_groups": []}}))
    assert same(loaded.state_dict, weights)
    assert len(loaded.notes) == 1


def test_two_networks_in_one_file_are_not_chosen_from(stored, weights):
    both = {f"{prefix}{name}": weight for prefix in ("model.", "net.") for name, weight in weights.items()}
    with pytest.raises(ModelError, match=r"under each of the prefixes model\., net\."):
        load_weights(stored(both))


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema", "averaged_model", "swa"])
def test_averaged_weights_that_stand_alone_are_taken_and_said(stored, weights, key):
    loaded = load_weights(stored({key: weights, "epoch": 7}))
    for name, weight in loaded.state_dict.items():
        torch.testing.assert_close(weight, weights[name].to(weight.dtype), rtol=0, atol=0)
    assert any(f"took the averaged weights under {key}, since it holds no others" in n for n in loaded.notes)


def test_two_kinds_of_averaged_weights_are_not_chosen_between(stored, weights):
    with pytest.raises(ModelError, match="holds no weights but"):
        load_weights(stored({"ema": weights, "swa": weights}))


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema", "averaged_model", "swa"])
def test_averaged_weights_beside_the_others_are_named(stored, weights, key):
    averaged = {name: weight * 2 for name, weight in weights.items()}
    loaded = load_weights(stored({"state_dict": weights, key: averaged, "optimizer": {"state": {}}}))
    assert same(loaded.state_dict, weights)
    assert f"other weights under ['{key}'], maybe averaged ones, which were not taken" in loaded.notes[-1]


@pytest.mark.parametrize("place", ["names", "callback", "list"])
def test_averaged_weights_are_named_wherever_they_lie(stored, weights, place):
    plain = {f"model.{name}": weight for name, weight in weights.items()}
    averaged = {f"ema_model.{name}": weight * 2 for name, weight in weights.items()}
    content, said = {
        "names": ({"state_dict": plain | averaged}, "ema_model."),
        "callback": (
            {"state_dict": plain, "callbacks": {"EMA": {"ema_weights": averaged}}},
            "callbacks: EMA",
        ),
        "list": ({"state_dict": plain, "ema": {"shadow_params": list(averaged.values())}}, "ema"),
    }[place]
    loaded = load_weights(stored(content))
    assert same(loaded.state_dict, weights)
    assert f"other weights under ['{said}'], maybe averaged ones, which were not taken" in loaded.notes[-1]


def test_a_batch_norm_behind_the_activation_is_refused(stored):
    with pytest.raises(ModelError, match=r"'down1\.2' stands 2 places behind its convolution"):
        load_weights(stored(Theirs(norm=True, relu_first=True).state_dict()), "unet-skip-first")


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_separable_convolutions_with_other_names_are_refused(stored, depth):
    state = UNet(replace(CONFIG, depth=depth, separable=True)).state_dict()
    others = {f"layer{number}.{name.rpartition('.')[2]}": w for number, (name, w) in enumerate(state.items())}
    with pytest.raises(ModelError, match=r"depthwise.*names that isbi-train gives.*missing \['bottom\.0"):
        load_weights(stored(others))


def test_a_separable_network_is_no_valid_u_net(stored):
    path = stored(UNet(NetworkConfig(base=2, depth=1, unshuffle=1, separable=True)).state_dict())
    with pytest.raises(UsageError, match="convolutions are separable, which arch valid-unet has not"):
        load_weights(path, "valid-unet")


def reordered(state):
    names = list(state)
    names[0], names[4] = names[4], names[0]
    return OrderedDict((name, state[name]) for name in names)


@pytest.mark.parametrize(
    "change",
    [
        reordered,
        lambda state: {name: w for name, w in state.items() if name != "final.bias"},
        lambda state: {**state, "extra.weight": torch.zeros(1)},
        lambda state: {**state, "final.weight": torch.zeros(1, 3, 1, 1)},
    ],
    ids=["order", "missing", "extra", "shape"],
)
def test_other_names_in_another_order_or_of_other_shapes_are_refused_with_both_lists(stored, change):
    with pytest.raises(ModelError) as raised:
        load_weights(stored(change(Theirs().state_dict())), "unet")
    message = str(raised.value)
    assert re.search(r"no U-Net's of base \d and depth 2, neither by name nor by order and shape", message)
    assert re.search(r"missing \['bottom\.0\.bias', .*\], unexpected \['.*, and \d+ more\]", message)
    assert "\n" not in message


def test_a_network_that_is_no_u_net_is_refused_with_both_lists(stored):
    content = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 1, 1)).state_dict()
    with pytest.raises(
        ModelError, match=r"2 convolutions are no U-Net's.*missing \[.*\], unexpected \['0\.weight'"
    ):
        load_weights(stored(content))


def test_two_logits_are_refused(stored):
    content = Theirs().state_dict() | {"final.weight": torch.zeros(2, 2, 1, 1), "final.bias": torch.zeros(2)}
    with pytest.raises(ModelError, match="returns 2 maps, expected 1 logit"):
        load_weights(stored(content), "unet")


def test_other_names_in_safetensors_are_refused_since_their_order_is_lost(tmp_path):
    save_file(Theirs(norm=True).state_dict(), tmp_path / "theirs.safetensors")
    with pytest.raises(ModelError, match="does not keep the order"):
        load_weights(tmp_path / "theirs.safetensors", "unet")
