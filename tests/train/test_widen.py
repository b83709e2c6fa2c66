"""Training on in a wider network: it computes what the narrower one did, and learns with all of its channels."""

from dataclasses import replace

import pytest
import torch
from networks_at_hand import CONFIG, fresh

from isbi_infer.errors import UsageError
from isbi_train.config import AugmentConfig
from isbi_train.config.inputs import Inputs
from isbi_train.networks.network import UNet
from isbi_train.networks.widen import can_widen, widen
from isbi_train.training.start import Start
from isbi_train.training.train import fit

WIDER = [
    replace(CONFIG, base=3),
    replace(CONFIG, base=5, widest=6),
    replace(CONFIG, base=4, batch_norm=False),
    replace(CONFIG, base=4, unshuffle=1),
]


@pytest.mark.parametrize("wide", WIDER, ids=lambda config: str(config.widths))
def test_a_wider_network_computes_what_the_narrower_one_does(wide):
    narrow = fresh(replace(CONFIG, widest=6, batch_norm=wide.batch_norm, unshuffle=wide.unshuffle))
    wider = fresh(wide, seed=1)
    assert can_widen(narrow.config, wide)
    wider.load_state_dict(widen(narrow.state_dict(), wider.state_dict()))
    image = torch.randn(2, 1, 32, 48, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        found, expected = wider(image), narrow(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_new_channels_are_listened_to_after_a_step_and_learn_after_two():
    torch.manual_seed(0)
    narrow, wider = UNet(replace(CONFIG, base=4, widest=8)), UNet(replace(CONFIG, base=4)).train()
    wider.load_state_dict(widen(narrow.state_dict(), wider.state_dict()))
    steps = torch.optim.SGD(wider.parameters(), lr=1e-3)
    for seed in range(2):
        image = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
        steps.zero_grad()
        wider(image).square().mean().backward()
        steps.step()
    few, many = narrow.config.widths[-1], wider.config.widths[-1]
    listening_O = wider.upsample[0].weight[few:, :8].detach().abs().sum((1, 2, 3))
    learning_O = wider.bottom[0].weight.grad[few:].abs().sum((1, 2, 3))
    for count in (listening_O.gt(0).sum(), learning_O.gt(0).sum()):
        assert count > (many - few) / 2  # one of them may be silenced by its ReLU


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        ({"base": 2}, {"base": 1}),
        ({"base": 2}, {"base": 4, "depth": 3}),
        ({"base": 2}, {"base": 4, "unshuffle": 4}),
        ({"base": 2}, {"base": 4, "batch_norm": False}),
        ({"base": 2}, {"base": 4, "neighbours": 1}),
        ({"base": 2, "widest": 8}, {"base": 3, "widest": 4}),
        ({"base": 2, "separable": True}, {"base": 4, "separable": True}),
        ({"arch": "valid-unet", "unshuffle": 1}, {"arch": "valid-unet", "unshuffle": 1, "base": 4}),
    ],
)
def test_networks_that_differ_otherwise_are_not_widened(narrow, wide):
    assert not can_widen(replace(CONFIG, **narrow), replace(CONFIG, **wide))


def test_a_wider_network_with_neighbours_looks_at_neither_at_first():
    start = Start.read("em-open")
    network = start.weights.network
    narrow, wide = (
        UNet(network).eval(),
        UNet(replace(network, widest=network.widest + 32, neighbours=1)).eval(),
    )
    start.load_into(narrow)
    start.load_into(wide)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        found, expected = wide(image), narrow(image[:, 1:2])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_run_says_that_its_network_has_more_channels_than_its_start(
    labelled, network, train_config, trained, tmp_path, caplog
):
    settings = {"augment": AugmentConfig(), "train": train_config(epochs=1)}
    start = Inputs(init=str(trained / "model.pth"))
    for wide, said in ((replace(network, base=2 * network.base), 1), (network, 0)):
        caplog.clear()
        fit(labelled, tmp_path / str(said), network=wide, **settings, inputs=start)
        assert caplog.text.count("has 2-4-8 channels by level, this network 4-8-16") == said
        assert caplog.text.count("channels by level") == said


def test_fewer_channels_than_those_of_the_start_are_an_error():
    start = Start.read("em-open")
    with pytest.raises(UsageError, match=r"is of another network \(widths:"):
        start.load_into(UNet(replace(start.weights.network, widest=64)))
