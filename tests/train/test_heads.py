"""Heads that training drops: what they compute, that a run learns from them, and that they leave nothing behind."""

from dataclasses import replace

import pytest
import torch

from isbi_infer.errors import UsageError
from isbi_train.config import NetworkConfig, TrainConfig
from isbi_train.networks.checkpoint import load_checkpoint
from isbi_train.networks.network import UNet
from isbi_train.training import train as training
from isbi_train.training.affinities import REACHES_PX, affinity_loss
from isbi_train.training.heads import WithHeads, deep_loss, heads_loss
from isbi_train.training.losses import loss

BOTH = TrainConfig(affinity_weight=0.5, deep_weight=0.25, membrane_weight=3.0)
WEIGHTS = ["affinity_weight", "deep_weight", "cldice_weight"]


@pytest.fixture
def stopped(train, monkeypatch):
    """Train into a folder, and stop in the middle of an epoch."""

    def run(out, **changes):
        calls, take_step = [], training.take_step

        def stop(*arguments):
            calls.append(1)
            if len(calls) == 12:
                raise KeyboardInterrupt
            return take_step(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(training, "take_step", stop)
            with pytest.raises(KeyboardInterrupt):
                train(out, **changes)
        return out

    return run


def test_heads_read_the_levels_and_leave_the_logits_as_they_are(network):
    torch.manual_seed(5)
    plain = UNet(replace(network, depth=3)).eval()
    taught, image_NCYX = WithHeads(plain, BOTH).eval(), torch.randn(2, 1, 32, 48)
    logits_NCYX, found = taught(image_NCYX)
    assert torch.equal(logits_NCYX, plain(image_NCYX))
    (affinities_NAYX,) = found["affinities"]
    assert affinities_NAYX.shape == (2, 2 * len(REACHES_PX), 16, 24)
    assert [tuple(level.shape) for level in found["deep"]] == [(2, 1, 4, 6), (2, 1, 8, 12)]


@pytest.mark.parametrize("arch", ["unet", "valid-unet"])
def test_levels_double_in_size_and_the_last_one_is_what_the_logits_are_made_of(arch):
    config = NetworkConfig(arch=arch, base=2, depth=2, unshuffle=1)
    network, image_NCYX = UNet(config).eval(), torch.randn(1, 1, 64, 96)
    levels = network.levels(image_NCYX)
    assert [tuple(level.shape[1:]) for level in levels] == [(4, 32, 48), (2, 64, 96)]
    assert torch.equal(network.logits(levels[-1]), network(image_NCYX))


def test_a_run_that_asks_for_no_heads_has_none(network):
    assert WithHeads.around(UNet(network), TrainConfig()) is None
    assert WithHeads.around(torch.nn.Identity(), BOTH) is None


def test_a_network_without_coarser_levels_cannot_be_deeply_supervised(network):
    with pytest.raises(UsageError, match="deep_weight needs a network of depth 2"):
        WithHeads.around(UNet(replace(network, depth=1)), BOTH)


def test_a_run_with_affinities_of_version_5_goes_on(train, stopped, tmp_path):
    expected = load_checkpoint(train(tmp_path / "whole", affinity_weight=0.5))
    saved = stopped(tmp_path / "stopped", affinity_weight=0.5) / "progress.pth"
    plain = torch.load(saved, weights_only=True)
    plain["version"] = 5
    del plain["augment"]["shot"]
    for name in ("average_share", "deep_weight", "cldice_weight"):
        del plain["train"][name]
    torch.save(plain, saved)
    found = load_checkpoint(train(tmp_path / "stopped", affinity_weight=0.5, resume=True))
    for name, weight in expected.state_dict.items():
        assert torch.equal(found.state_dict[name], weight), name


def test_what_a_coarse_level_says_is_held_against_every_pixel_that_it_stands_for():
    generator = torch.Generator().manual_seed(1)
    maps_NKYX = (torch.rand((2, 1, 8, 12), generator=generator) > 0.4).float()
    coarse, fine = (
        torch.randn((2, 1, 2, 3), generator=generator),
        torch.randn((2, 1, 4, 6), generator=generator),
    )
    found = deep_loss([coarse, fine], maps_NKYX, 3.0, 1.7)

    def of(level):
        step = 8 // level.shape[2]
        return loss(level.repeat_interleave(step, 2).repeat_interleave(step, 3), maps_NKYX, 3.0, 1.7)

    assert found.item() == pytest.approx(((of(fine) + 0.5 * of(coarse)) / 1.5).item(), rel=1e-6)
    assert deep_loss([], maps_NKYX, 3.0, 1.7) == 0


def test_losses_of_heads_add_up_by_their_weights(network):
    torch.manual_seed(5)
    maps_NKYX = (torch.rand(2, 1, 64, 64) > 0.4).float()
    _, found = WithHeads(UNet(network), BOTH)(torch.randn(2, 1, 64, 64))
    together = heads_loss(found, maps_NKYX, 3.0, BOTH, 1.7)
    apart = affinity_loss(found["affinities"][0], maps_NKYX)
    coarse = deep_loss(found["deep"], maps_NKYX, 3.0, 1.7)
    assert together.item() == pytest.approx((0.5 * apart + 0.25 * coarse).item(), rel=1e-6)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_run_that_learns_more_keeps_the_network_alone(train, network, tmp_path, name):
    plain, taught = (train(tmp_path / str(weight), **{name: weight}) for weight in (0.0, 0.5))
    without, found = load_checkpoint(plain), load_checkpoint(taught)
    assert found.state_dict.keys() == UNet(network).state_dict().keys()
    assert any(not torch.equal(found.state_dict[key], weight) for key, weight in without.state_dict.items())
    assert (getattr(without.train, name), getattr(found.train, name)) == (0.0, 0.5)
    assert replace(found.train, **{name: 0.0}) == without.train


def test_a_run_with_heads_goes_on_as_if_it_had_never_stopped(train, stopped, tmp_path):
    weights = dict.fromkeys(WEIGHTS, 0.5)
    expected = load_checkpoint(train(tmp_path / "whole", **weights))
    stopped(tmp_path / "stopped", **weights)
    found = load_checkpoint(train(tmp_path / "stopped", **weights, resume=True))
    for name, weight in expected.state_dict.items():
        assert torch.equal(found.state_dict[name], weight), name
