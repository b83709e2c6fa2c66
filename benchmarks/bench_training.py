"""How fast training goes: a step of the released recipe and of other networks, and drawing its crops."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest

from isbi_infer.backends.cores import available_cores
from isbi_infer.sample import synthetic_stack

# Torch warns of things to come.
pytestmark = pytest.mark.filterwarnings("ignore")

RECIPE = "released"
DRAW, STEP, BOTH = "drawing a batch", "a step on a ready batch", "both, as training does"
NETWORKS = {
    "base 16, unshuffle 2": {"base": 16, "unshuffle": 2},
    "base 32, unshuffle 2": {"base": 32, "unshuffle": 2},
    "base 64, unshuffle 2": {"base": 64, "unshuffle": 2},
    "base 16, unshuffle 1": {"base": 16, "unshuffle": 1},
}
RELEASED = "base 32, unshuffle 2"
REPEATS = 2  # steps of one sample


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of a run, how narrowly it computes, and the sections it draws from."""

    settings: Any
    device: Any
    sections: Any

    @property
    def crops(self) -> int:
        return self.settings.train.batch

    def batch(self, step: int = 0) -> Any:
        """Draw the crops of a step, finished on the device."""
        from isbi_train.training.batches import draw_batch

        drawn = draw_batch(self.sections, self.settings.augment, self.settings.train, step)
        self.finished(drawn[0])
        return drawn

    @staticmethod
    def finished(tensor: Any) -> None:
        """Wait for the device."""
        tensor.flatten()[0].item()


class Training:
    """A run in the making, as `isbi_train.training.train.fit` makes it."""

    def __init__(self, recipe: Recipe, network: Any, device: Any = None) -> None:
        import torch

        from isbi_train.networks.network import UNet
        from isbi_train.training.state import TrainingState

        self.recipe, self.device = recipe, device or recipe.device
        torch.manual_seed(recipe.settings.train.seed)
        model = UNet(network).to(self.device.torch_device, memory_format=torch.channels_last)
        self.parameters = sum(weights.numel() for weights in model.parameters())
        self.state = TrainingState.start(model, recipe.settings.train, self.device)
        self.ready = recipe.batch()

    def step(self, batch: Any = None) -> float:
        """Take a step on a batch, the ready one by default, and return its loss."""
        from isbi_train.training.train import take_step

        train, scale = self.recipe.settings.train, self.recipe.sections.weight_scale
        loss = take_step(self.state, *(batch or self.ready), train, scale)
        self.state.average.update_parameters(self.state.model)
        return loss.item()


@pytest.fixture(scope="module")
def recipe(options):
    torch = pytest.importorskip("torch")

    from isbi_train.config.settings import recipe_layer, resolve
    from isbi_train.data.labelled import LabelledStack
    from isbi_train.training.batches import bring_sections
    from isbi_train.training.device import choose_device

    threads = torch.get_num_threads()
    torch.set_num_threads(1 if options.quick else available_cores())
    settings = resolve([(RECIPE, recipe_layer(RECIPE))])
    device = "cpu" if options.provider in ("cpu", "openvino") else "cuda"
    smaller = {"crop": 64, "batch": 1} if options.quick else {}
    settings = replace(settings, train=replace(settings.train, device=device, **smaller))
    sections, side = (1, 96) if options.quick else (2, 512)
    image_ZYX, label_ZYX = synthetic_stack(sections, side, side)
    device = choose_device(settings.train)
    stack = LabelledStack(image_ZYX, label_ZYX > 0, 4.0)
    yield Recipe(settings, device, bring_sections(stack, settings.train, None, device.torch_device))
    torch.set_num_threads(threads)


def repeated(work, options):
    """Do it a few times, for a sample that is long enough."""

    def run():
        for _ in range(1 if options.quick else REPEATS):
            result = work()
        return result

    return run


def kept(keep, say, title, found, recipe, options, **more):
    """Print images a second, and store the comparison."""
    images = recipe.crops * (1 if options.quick else REPEATS)
    for name, times in found["contenders"].items():
        say(f"{title}: {name}: {images / times['wall_median_s']:.1f} crops/s")
    keep(
        title,
        found | {"crops": images} | more,
        recipe=RECIPE,
        crop=recipe.settings.train.crop,
        batch=recipe.crops,
        device=str(recipe.device.torch_device),
        dtype=str(recipe.device.dtype).removeprefix("torch."),
    )


def test_drawing_against_stepping_ratio(compare, keep, say, recipe, options):
    training = Training(recipe, recipe.settings.network)
    contenders = {
        STEP: training.step,
        DRAW: recipe.batch,
        BOTH: lambda: training.step(recipe.batch()),
    }
    found, losses = compare(
        "training-step", {name: repeated(work, options) for name, work in contenders.items()}, STEP
    )
    assert math.isfinite(losses[BOTH])  # or it was no training
    kept(keep, say, "training-step", found, recipe, options)


def test_networks_ratio(compare, keep, say, recipe, options):
    import torch

    from isbi_train.training.device import Device

    changes = {RELEASED: NETWORKS[RELEASED]} if options.quick else NETWORKS
    networks = {name: replace(recipe.settings.network, **changed) for name, changed in changes.items()}
    runs = {name: Training(recipe, network) for name, network in networks.items()}
    if recipe.device.dtype != torch.float32 and not options.quick:
        wide = Device(recipe.device.torch_device, torch.float32)
        runs[f"{RELEASED}, float32"] = Training(recipe, networks[RELEASED], wide)
    found, losses = compare(
        "training-networks", {name: repeated(run.step, options) for name, run in runs.items()}, RELEASED
    )
    assert all(math.isfinite(loss) for loss in losses.values())
    parameters = {name: run.parameters for name, run in runs.items()}
    kept(keep, say, "training-networks", found, recipe, options, parameters=parameters)


def test_step(benchmark, recipe, options):
    training = Training(recipe, recipe.settings.network)
    benchmark.group = "training"
    benchmark.pedantic(training.step, rounds=options.rounds, warmup_rounds=1, iterations=1)
    benchmark.extra_info["crops"] = recipe.crops


def test_drawing(benchmark, recipe, options):
    benchmark.group = "training"
    image_NCYX, *_ = benchmark.pedantic(recipe.batch, rounds=options.rounds, warmup_rounds=1, iterations=1)
    assert image_NCYX.shape == (recipe.crops, 1, *2 * [recipe.settings.train.crop])
