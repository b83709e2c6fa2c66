"""Measure what the networks cost: parameters, operations, time of a section, and training of our recipes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from isbi_infer.terminal import exit_codes, require_packages

RECIPES = ("original", "unet-64", "released")
SECTIONS, SIDE = 25, 512  # what the recipes train on
STEPS, ROUNDS = 2, 5


def costs(side: int = SIDE, *, rounds: int = ROUNDS, steps: int = STEPS) -> dict[str, Any]:
    """Measure all networks in turn, in torch and float32, as they are without folding or exporting anything.

    Parameters
    ----------
    side : int
        Of the section that is segmented, in pixels.
    rounds : int
        Of the timing of sections that count.
    steps : int
        Of each of our recipes' training that count.

    Returns
    -------
    dict
        ``networks``: of each its ``title``, ``parameters``, ``gflop`` and ``cpu_s``, of one section;
        ``training``: of each recipe its ``steps`` and ``cpu_s_per_step``; ``threads``.
    """
    import torch

    from benchmarks.measure import compared, interleaved
    from isbi_train.networks.network import UNet

    from .networks import OURS, networks, recipe_network, size

    built = {name: (known.title, known.build()) for name, known in networks().items() if name != OURS}
    for recipe in RECIPES:
        built[recipe] = (f"recipe `{recipe}`", UNet(recipe_network(recipe)))
    image_NCYX = torch.zeros(1, 1, side, side)
    work = {name: _forward(network, image_NCYX) for name, (_, network) in built.items()}
    times = compared(interleaved(work, rounds), OURS)["contenders"]
    return {
        "networks": {
            name: {"title": title, **size(network, side), "cpu_s": times[name]["cpu_median_s"]}
            for name, (title, network) in built.items()
        },
        "training": {recipe: training_cost(recipe, steps) for recipe in RECIPES},
        "threads": torch.get_num_threads(),
    }


def _forward(network: Any, image_NCYX: Any) -> Callable[[], Any]:
    import torch

    network.eval()

    def run() -> Any:
        with torch.inference_mode():
            return network(image_NCYX)

    return run


def training_cost(recipe: str, steps: int, **changes: Any) -> dict[str, float]:
    """Measure some steps of a recipe's training, on synthetic sections.

    Parameters
    ----------
    recipe : str
        One of ours.
    steps : int
        How many count.
    **changes
        Of its training settings.

    Returns
    -------
    dict
        ``steps`` of the whole recipe on 25 sections of 512 x 512, and ``cpu_s_per_step``.
    """
    from isbi_infer.sample import synthetic_stack
    from isbi_train.config.settings import recipe_layer, resolve
    from isbi_train.data.labelled import LabelledStack
    from isbi_train.networks.network import UNet
    from isbi_train.training.batches import steps_in_all

    from .training import Split, cpu_per_step

    chosen = resolve([(f"recipe {recipe}", recipe_layer(recipe))])
    train = replace(chosen.train, device="cpu", **changes)
    side = max(64, train.crop)
    image_ZYX, label_ZYX = synthetic_stack(2, side, side)
    split = Split.of(LabelledStack(image_ZYX, label_ZYX > 0, 4.0), slice(0, 1), chosen.augment, train)
    found = cpu_per_step(split, {recipe: (lambda: UNet(chosen.network), False)}, steps)
    whole = steps_in_all(SECTIONS * SIDE**2, chosen.train)
    return {"steps": whole, "cpu_s_per_step": found[recipe]}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.studies.baselines.costs", description=__doc__)
    found.add_argument("--store", action="store_true", help="write benchmarks/results/")
    found.add_argument("--rounds", type=int, default=ROUNDS, help="of each network's section [%(default)s]")
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure and say, and store where that is asked for."""
    asked = parser().parse_args(argv)
    with exit_codes(parser().prog):
        require_packages("bench", "torch", "monai")
        from benchmarks.store import store

        found = costs(rounds=asked.rounds)
        for name, cost in found["networks"].items():
            print(
                f"{name:10}  {cost['parameters'] / 1e6:5.2f} M  {cost['gflop']:6.1f} GFLOP  "
                f"{1e3 * cost['cpu_s']:6.0f} ms of CPU time a section"
            )
        for recipe, cost in found["training"].items():
            hours = cost["steps"] * cost["cpu_s_per_step"] / 3600
            print(
                f"recipe {recipe}: {cost['steps']} steps of {cost['cpu_s_per_step']:.2f} s, {hours:.1f} hours"
            )
        if asked.store:
            settings = {"side": SIDE, "rounds": asked.rounds, "steps": STEPS, "arithmetic": "torch, float32"}
            print(store("network-costs", found, settings))


if __name__ == "__main__":
    main()
