"""Networks trained on several tissues for as much CPU time each: `python -m benchmarks.studies.tissues --stacks FILE`.

All draw the same crops through the same augmentation, loss, optimiser and schedule, those of the recipe `em` from
random weights; only the network differs, and with `--leave-out` the tissues. Scored are the averaged weights of the
last step, at the pixel size of the recipe, on what every stack of the list holds out, also on those that were left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isbi_infer.errors import UsageError
from isbi_infer.files import replacing
from isbi_infer.terminal import exit_codes

from .groups import add_group, named

if TYPE_CHECKING:
    from torch import Tensor, nn

    from isbi_train.config import TrainConfig
    from isbi_train.config.settings import Settings
    from isbi_train.data.stacks import TrainingData
    from isbi_train.training.batches import Pool, Sections
    from isbi_train.training.state import TrainingState

    from .baselines.networks import Network

NAME = "tissues"
RECIPE = "em"
NETWORKS = (RECIPE, "basicunet", "dynunet")
ALL = "all"
_TIMED, _WARM_UP = 12, 3  # steps
_SCORES = ("v_rand_thin", "v_info_thin")


def settings_of(stacks: Path) -> Settings:
    """Return the recipe's settings for a list of stacks, on the CPU, from random weights."""
    from isbi_train.config.settings import recipe_layer, resolve

    found = resolve([(f"recipe {RECIPE}", recipe_layer(RECIPE))])
    return replace(
        found,
        train=replace(found.train, device="cpu", calibrate=False),
        inputs=replace(found.inputs, stacks=str(stacks), init=None),
    )


def network_of(name: str, settings: Settings) -> Network:
    """Return one of `NETWORKS`."""
    from isbi_train.networks.network import UNet

    from .baselines.networks import Network, networks

    if name == RECIPE:
        return Network("recipe `em`", lambda: UNet(settings.network), settings.network.stride)
    return networks()[name]


def without(data: TrainingData, left_out: str) -> TrainingData:
    """Return all stacks but one; all of them for "all"."""
    from isbi_train.data.stacks import TrainingData

    known = [stack.name for stack in data.stacks]
    if left_out not in (ALL, *known):
        raise UsageError(f"no stack is named {left_out!r}; choose from {', '.join(known)}")
    return TrainingData.of_list([stack for stack in data.stacks if stack.name != left_out])


def drawn_from(training: TrainingData, settings: Settings) -> Sections | Pool:
    """Prepare all that training draws from."""
    from isbi_train.training.batches import bring_stacks
    from isbi_train.training.device import choose_device

    where = choose_device(settings.train).torch_device
    return bring_stacks(training.stacks, settings.train, {}, where, settings.augment)


def take_steps(
    build: Callable[[], nn.Module],
    train: TrainConfig,
    draw: Callable[[int], tuple[Tensor, Tensor]],
    weight_scale: float,
    steps: int,
) -> tuple[TrainingState, list[float], list[float]]:
    """Train a network for so many steps, as `isbi_train.training.train` does, without checkpoints and validation.

    Parameters
    ----------
    build : callable
        Returns the network with random weights.
    train : TrainConfig
        With the seed.
    draw : callable
        Returns images and maps of a step, as `isbi_train.training.batches.draw_batch`.
    weight_scale : float
        See `isbi_train.training.losses.mean_weight`.
    steps : int
        How many.

    Returns
    -------
    (TrainingState, list of float, list of float)
        The state with the averaged weights; of each step the loss, and the seconds of CPU time.
    """
    import torch

    from isbi_train.training.batches import step_seed
    from isbi_train.training.device import choose_device
    from isbi_train.training.state import TrainingState
    from isbi_train.training.train import averaging_decay, learning_rate, take_step

    torch.manual_seed(train.seed)
    model = build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = TrainingState.start(model, train, choose_device(train))
    state.set_averaging_decay(averaging_decay(steps, train))
    losses, seconds = [], []
    for step in range(steps):
        started = time.process_time()
        state.set_learning_rate(learning_rate(step, steps, train))
        batch = draw(step)
        torch.manual_seed(step_seed(train, step))
        losses.append(take_step(state, *batch, train, weight_scale).item())
        state.average.update_parameters(state.model)
        seconds.append(time.process_time() - started)
    return state, losses, seconds


def train_and_score(
    network: Network,
    settings: Settings,
    pool: Sections | Pool,
    scored: TrainingData,
    *,
    seed: int,
    cpu_seconds: float,
) -> dict[str, Any]:
    """Train a network for so much CPU time and score it on what each stack holds out.

    Parameters
    ----------
    network : Network
        Which one.
    settings : Settings
        Of the recipe.
    pool : Sections or Pool
        What is trained on, see `drawn_from`.
    scored : TrainingData
        The stacks that are scored on.
    seed : int
        Fixes weights, crops and augmentation.
    cpu_seconds : float
        Of all threads together; the steps that take so long are counted before the training, which takes these.

    Returns
    -------
    dict
        ``steps``, ``cpu_s``, ``training_loss``, and ``stacks`` with the scores of each.
    """
    from isbi_train.training.batches import draw_batch
    from isbi_train.training.device import choose_device
    from isbi_train.training.validate import HeldOut, validate

    train = replace(settings.train, seed=seed)

    def trained(steps: int) -> tuple[TrainingState, list[float], list[float]]:
        draw = partial(draw_batch, pool, settings.augment, train)
        return take_steps(network.build, train, draw, pool.weight_scale, steps)

    per_step = statistics.median(trained(_WARM_UP + _TIMED)[2][_WARM_UP:])
    steps = max(1, round(cpu_seconds / per_step))
    state, losses, seconds = trained(steps)
    # The loss is not told, so what it would be compared with is not made.
    held_out = [HeldOut(stack.name, stack.held_out, stack.held_out) for stack in scored.stacks]
    average = state.average.module.eval()
    found = validate(average, held_out, stride=network.stride, border=train.border)
    return {
        "steps": steps,
        "cpu_s": sum(seconds),
        "training_loss": statistics.fmean(losses[-50:]),
        "dtype": str(choose_device(train).dtype),
        "stacks": {name: {key: scores[key] for key in _SCORES} for name, scores in found["stacks"].items()},
    }


def summed_up(trials: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and spread over the seeds, for each network, choice of stacks, CPU time and stack.

    Returns
    -------
    list of dict
        ``network``, ``left_out``, ``minutes``, ``stack``, ``seeds``, ``steps`` (their mean), and of each score
        the mean and the standard deviation, None of a single seed.
    """
    groups: dict[tuple[str, str, float, str], list[dict[str, Any]]] = {}
    for trial in trials:
        for stack, scores in trial["stacks"].items():
            key = (trial["network"], trial["left_out"], trial["minutes"], stack)
            groups.setdefault(key, []).append({**scores, "seed": trial["seed"], "steps": trial["steps"]})
    rows = []
    for (network, left_out, minutes, stack), found in groups.items():
        row: dict[str, Any] = {"network": network, "left_out": left_out, "minutes": minutes, "stack": stack}
        row["seeds"] = sorted(one["seed"] for one in found)
        row["steps"] = round(statistics.fmean(one["steps"] for one in found))
        for key in _SCORES:
            values = [one[key] for one in found]
            row[key] = statistics.fmean(values)
            row[f"{key}_spread"] = statistics.stdev(values) if len(values) > 1 else None
        rows.append(row)
    return rows


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.tissues", description=__doc__.splitlines()[0]
    )
    found.add_argument("--stacks", type=Path, required=True, help="list of labelled stacks, in TOML")
    found.add_argument("--out", type=Path, required=True, help="folder for the result of each training")
    found.add_argument(
        "--network", action="append", choices=NETWORKS, default=[], help="repeatable [all of them]"
    )
    found.add_argument("--seed", action="append", type=int, default=[], help="repeatable [1]")
    found.add_argument("--minutes", type=float, default=3.0, help="CPU time of one training [%(default)s]")
    found.add_argument(
        "--leave-out",
        action="append",
        default=[],
        metavar="NAME",
        help="train without this stack; repeatable, 'all' leaves none out [all]",
    )
    found.add_argument(
        "--store", action="store_true", help="write benchmarks/results/ from all that is in --out"
    )
    add_group(found)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Train and score what has no result in the folder yet; sum up, and store where that is asked for."""
    asked = parser().parse_args(argv)
    with exit_codes(parser().prog):
        if not asked.minutes > 0:
            raise UsageError(f"--minutes {asked.minutes:g} is not above 0")
        from isbi_train.data.inputs import read_list_of

        from .baselines.networks import size

        settings = settings_of(asked.stacks)
        data = read_list_of(settings)
        asked.out.mkdir(parents=True, exist_ok=True)
        for left_out in asked.leave_out or [ALL]:
            training, pool = without(data, left_out), None
            for seed, name in product(asked.seed or [1], asked.network or NETWORKS):
                path = asked.out / f"{name}-{left_out}-{seed}-{asked.minutes:g}.json"
                if path.exists():
                    continue
                network = network_of(name, settings)
                pool = pool or drawn_from(training, settings)
                found = train_and_score(
                    network, settings, pool, data, seed=seed, cpu_seconds=60 * asked.minutes
                )
                known = {"network": name, "title": network.title, "left_out": left_out, "seed": seed}
                trial = {**known, "minutes": asked.minutes, **size(network.build()), **found}
                with replacing(path) as temporary:
                    temporary.write_text(json.dumps(trial, indent=1), encoding="utf-8")
                _say(trial)
        trials = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(asked.out.glob("*.json"))]
        if asked.store:
            from benchmarks.store import store

            stacks = {stack.name: stack.facts["sha256"] for stack in data.stacks}
            found = {"rows": summed_up(trials), "trials": trials, "stacks": stacks}
            print(
                store(
                    named(NAME, asked.group),
                    found,
                    {"recipe": RECIPE, "pixel_size_nm": settings.inputs.resample_nm},
                )
            )


def _say(trial: dict[str, Any]) -> None:
    left = "" if trial["left_out"] == ALL else f" without {trial['left_out']}"
    scores = ", ".join(
        f"{name} {found['v_rand_thin']:.4f} {found['v_info_thin']:.4f}"
        for name, found in trial["stacks"].items()
    )
    print(
        f"{trial['network']}{left}, seed {trial['seed']}: {trial['steps']} steps in "
        f"{trial['cpu_s'] / 60:.1f} CPU minutes; V_rand and V_info: {scores}",
        flush=True,
    )


if __name__ == "__main__":
    main()
