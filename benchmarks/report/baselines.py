"""The table of recipes and baselines: what each network costs and how it scores on the same sections."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.store import Stored
from isbi_infer.model.contract import read_contract
from isbi_models import ReleasedModel, released_models

from .cells import MEASURED, origin, table

COSTS, BASELINES = "network-costs", "baseline-"
NOT_TRAINED = "not trained to its end"
_NOTHING = "-"
_SIDE = 512
_SCORES = ("v_rand_thin", "v_info_thin")
_HEADER = (
    "",
    "parameters",
    "GFLOP, 512 x 512",
    "ms of CPU time, 512 x 512",
    "CPU minutes of training (steps)",
    "V_rand, 25-29",
    "V_info, 25-29",
    "V_rand, 5 folds",
    "V_info, 5 folds",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One network: cells as text."""

    title: str
    parameters: str
    gflop: str
    milliseconds: str
    training: str
    last: tuple[str, str]
    folds: tuple[str, str]

    def cells(self) -> list[str]:
        """Return the cells in the order of the table."""
        network = [self.title, self.parameters, self.gflop, self.milliseconds, self.training]
        return [*network, *self.last, *self.folds]


def recipes_table(stored: Stored) -> Iterator[str]:
    """Write cost and scores of our recipes and of the baselines."""
    costs = stored[COSTS]["measured"] if COSTS in stored else {}
    baselines = {name: record for name, record in stored.items() if name.startswith(BASELINES)}
    rows = [
        *(_recipe(recipe, costs) for recipe in ("original", "unet-64")),
        released_row(released_models()[MEASURED], costs),
        *(_baseline(record["measured"], costs) for record in baselines.values()),
    ]
    cells = [row.cells() for row in rows]
    yield from table(_HEADER, cells if baselines else [*cells, ["the baselines", "not measured yet"]])
    if origins := [f"- {origin(stored[name])}" for name in (COSTS, *baselines) if name in stored]:
        yield from ("", *origins)


def released_row(model: ReleasedModel, costs: Mapping[str, Any]) -> Row:
    """Read the released model's scores off its own file, and those of its folds off the file beside it."""
    contract = read_contract(model.path.read_bytes())
    path = model.path.with_name(f"{model.name}.folds.json")
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    row = _recipe("released", costs)
    epochs = sorted({entry["epoch"] for entry in found["per_fold"]}) if found else []
    title = f"**`{model.name}`**, recipe `released`"
    return Row(
        f"{title}; folds of {', '.join(map(str, epochs))} epochs" if epochs else title,
        row.parameters,
        f"{contract.flops_per_pixel * _SIDE**2 / 1e9:.1f}",
        row.milliseconds,
        row.training,
        tuple(f"{contract.provenance['scores'][score]:.4f}" for score in _SCORES),
        _folds(found),
    )


def _recipe(recipe: str, costs: Mapping[str, Any]) -> Row:
    """Return a recipe's cost; its training is so many steps of the measured time, not a training."""
    cost, training = costs.get("networks", {}).get(recipe), costs.get("training", {}).get(recipe)
    minutes = (
        _minutes(training["steps"] * training["cpu_s_per_step"], training["steps"]) if training else _NOTHING
    )
    return Row(
        f"recipe `{recipe}`", *_size(cost), _milliseconds(cost), minutes, (NOT_TRAINED,) * 2, (_NOTHING,) * 2
    )


def _baseline(measured: Mapping[str, Any], costs: Mapping[str, Any]) -> Row:
    trained = [*measured["per_fold"], *([measured["last"]] if measured["last"] else [])]
    plain = ", plain cross-entropy" if measured["loss"] == "plain" else ""
    seconds = sum(entry["cpu_s"] for entry in trained) / len(trained)
    steps = round(sum(entry["steps"] for entry in trained) / len(trained))
    last = measured["last"]
    return Row(
        measured["title"] + plain,
        *_size(measured),
        _milliseconds(costs.get("networks", {}).get(measured["network"])),
        _minutes(seconds, steps),
        tuple(f"{last[score]:.4f}" for score in _SCORES) if last else (_NOTHING,) * 2,
        _folds(measured),
    )


def _size(cost: Mapping[str, Any] | None) -> tuple[str, str]:
    return (f"{cost['parameters'] / 1e6:.1f} M", f"{cost['gflop']:.1f}") if cost else (_NOTHING,) * 2


def _milliseconds(cost: Mapping[str, Any] | None) -> str:
    return f"{1e3 * cost['cpu_s']:,.0f}" if cost else _NOTHING


def _minutes(seconds: float, steps: int) -> str:
    return f"{seconds / 60:,.0f} ({steps:,})"


def _folds(found: Mapping[str, Any] | None) -> tuple[str, str]:
    if not found or len(found["per_fold"]) < found["folds"]:
        return (_NOTHING,) * 2
    return tuple(f"{found['mean'][score]:.4f} +- {found['spread'][score]:.4f}" for score in _SCORES)
