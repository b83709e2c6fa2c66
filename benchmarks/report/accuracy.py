"""The tables of models and networks on the held-out sections of several stacks, and of what they miss there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from math import ceil
from statistics import fmean, stdev
from typing import Any

from benchmarks.store import Stored

from .cells import MISSING, origin, spread, table

_PARTS = 5  # of the held-out sections of a stack


def accuracy_table(stored: Stored) -> Iterator[str]:
    """Write the scores of every released model on every stack: at the best threshold, and at 0.5."""
    yield from _scores_of_models(stored, "accuracy")


def tuned_table(stored: Stored) -> Iterator[str]:
    """Write, likewise, the scores of a model that was trained on with a few sections of a user's own."""
    yield from _scores_of_models(stored, "accuracy-fine-tuning")


def _scores_of_models(stored: Stored, name: str) -> Iterator[str]:
    if name not in stored:
        yield MISSING
        return
    record = stored[name]
    stacks = record["measured"]["stacks"]

    def rows() -> Iterator[list[str]]:
        for model, by_stack in record["measured"]["by_model"].items():
            for name, found in by_stack.items():
                where = f"{name}, sections {stacks[name]['sections']}, {stacks[name]['pixel_size_nm']:g} nm"
                yield [
                    f"`{model}`",
                    where,
                    f"{found['v_rand']:.4f} ({found['best_threshold_rand']:.1f})",
                    f"{found['v_info']:.4f} ({found['best_threshold_info']:.1f})",
                    f"{found['v_rand_at_0.5']:.4f}",
                    f"{found['v_info_at_0.5']:.4f}",
                    found["precision"],
                ]

    header = [
        "model",
        "held out",
        "V_rand (threshold)",
        "V_info (threshold)",
        "V_rand at 0.5",
        "V_info at 0.5",
        "",
    ]
    yield from table(header, rows())
    yield ""
    yield origin(record)


def sections_table(stored: Stored) -> Iterator[str]:
    """Write the default model's scores on parts of the held-out sections, at most five parts of each stack."""
    if "accuracy" not in stored:
        yield MISSING
        return
    record = stored["accuracy"]
    by_stack = next(iter(record["measured"]["by_model"].values()))

    def rows() -> Iterator[list[str]]:
        for name, found in by_stack.items():
            first = int(record["measured"]["stacks"][name]["sections"].split(":")[0])
            rand, info = (found["by_section"][key] for key in ("v_rand", "v_info"))
            step = max(1, ceil(len(rand) / _PARTS))
            for start in range(0, len(rand), step):
                part = slice(start, min(start + step, len(rand)))
                yield [
                    name,
                    f"{first + part.start}:{first + part.stop}",
                    *(f"{fmean(scores[part]):.4f}" for scores in (rand, info)),
                ]

    yield from table(["held out of", "sections", "V_rand", "V_info"], rows())
    yield ""
    yield origin(record)


def trials_table(stored: Stored) -> Iterator[str]:
    """Write what each training came to on every stack; several seeds of one as mean and standard deviation."""
    yield from _table_of_trials(stored, "training", "")


def half_table(stored: Stored) -> Iterator[str]:
    """Write what trials come to at 0.5, as far as that was stored."""
    yield from _table_of_trials(stored, "training, at 0.5", "_at_0.5")


def unseen_table(stored: Stored) -> Iterator[str]:
    """Write what trainings come to on the stacks that they left out."""
    records = _groups(stored, "unseen")
    if not records:
        yield MISSING
        return
    sections = {name: part for record in records for name, part in record["measured"]["sections"].items()}
    by_title: dict[str, dict[str, list[dict[str, float]]]] = {}
    for trial in chain.from_iterable(record["measured"]["trials"] for record in records):
        for name, scores in trial["scores"].items():
            by_title.setdefault(trial["title"], {}).setdefault(name, []).append(scores)

    def cell(found: list[dict[str, float]]) -> str:
        return ", ".join(_spread([scores[key] for scores in found]) for key in ("v_rand", "v_info"))

    yield from table(
        ["training", *(f"without {name}, that" for name in sections)],
        (
            [title, *(cell(by_stack[name]) if name in by_stack else "" for name in sections)]
            for title, by_stack in by_title.items()
        ),
    )
    for record in records:
        yield ""
        yield origin(record)


def _groups(stored: Stored, study: str) -> list[dict[str, Any]]:
    """Return all records of a study, whose `--group`s stand in files of their own."""
    return [stored[name] for name in sorted(stored) if name.partition("-")[0] == study]


def _table_of_trials(stored: Stored, heading: str, at: str) -> Iterator[str]:
    records = [
        record
        for record in _groups(stored, "trials")
        if any(_is_known(trial, at) for trial in record["measured"]["trials"])
    ]
    if not records:
        yield MISSING
        return
    sections = records[0]["measured"]["sections"]
    differing = [record["file"] for record in records if record["measured"]["sections"] != sections]
    if differing:
        raise ValueError(f"{', '.join(differing)}: of other sections than {records[0]['file']}")
    by_title: dict[str, list[dict[str, Any]]] = {}
    for trial in chain.from_iterable(record["measured"]["trials"] for record in records):
        same = by_title.setdefault(trial["title"], [])
        new = "sha256" not in trial or trial["sha256"] not in [one.get("sha256") for one in same]
        if new and _is_known(trial, at):
            same.append(trial)

    def rows() -> Iterator[list[str]]:
        for title, trials in by_title.items():
            if not trials:
                continue
            yield [
                title,
                ", ".join(str(seed) for trial in trials for seed in trial.get("seeds", [trial.get("seed")])),
                *(
                    ", ".join(
                        _spread([trial["scores"][name][f"{key}{at}"] for trial in trials])
                        for key in ("v_rand", "v_info")
                    )
                    for name in sections
                ),
            ]

    yield from table([heading, "seeds", *sections], rows())
    for record in records:
        yield ""
        yield origin(record)


def _is_known(trial: dict[str, Any], at: str) -> bool:
    return all(f"v_rand{at}" in scores for scores in trial["scores"].values())


def folds_table(stored: Stored) -> Iterator[str]:
    """Write the scores of every fold of a stack, and their mean and standard deviation."""
    records = _groups(stored, "folds")
    if not records:
        yield MISSING
        return
    trainings = [training for record in records for training in record["measured"]["trainings"]]
    sections = [fold["sections"] for fold in trainings[0]["folds"]]
    for record in records:
        measured = record["measured"]
        found = [[fold["sections"] for fold in training["folds"]] for training in measured["trainings"]]
        if measured["stack"] != records[0]["measured"]["stack"] or any(cut != sections for cut in found):
            raise ValueError(f"{record['file']}: of other sections than {trainings[0]['title']}")

    def rows() -> Iterator[list[str]]:
        for training in trainings:
            for key, name in (("v_rand", "V_rand"), ("v_info", "V_info")):
                scores = [fold[key] for fold in training["folds"]]
                yield [training["title"], name, _spread(scores), *(f"{score:.4f}" for score in scores)]

    yield from table(["training", "", "all", *sections], rows())
    for record in records:
        yield ""
        yield origin(record)


def released_table(stored: Stored) -> Iterator[str]:
    """Write how long released models take for one stack, by runtime, with and without a known pixel size."""
    records = {name: record for name, record in stored.items() if name.startswith("released-")}
    if not records:
        yield MISSING
        return
    models = list(next(iter(records.values()))["measured"]["contenders"])

    def rows() -> Iterator[list[str]]:
        for record in records.values():
            asked, measured = record["settings"], record["measured"]
            size = asked["pixel_size_nm"]
            yield [
                f"{asked['runtime']}, {'no pixel size' if size is None else f'{size:g} nm'}",
                *(
                    f"{measured['contenders'][model]['wall_median_s']:.2f} s"
                    if model == measured["baseline"]
                    else spread(measured["contenders"][model]["wall_ratio"])
                    for model in models
                ),
            ]

    yield from table(["runtime, stack", *(f"`{model}`" for model in models)], rows())
    for record in records.values():
        yield ""
        yield origin(record)


def tissues_table(stored: Stored) -> Iterator[str]:
    """Write the scores of networks trained for as much CPU time, on all stacks and on all but one.

    Where two groups hold the same trainings, the one of more seeds counts.
    """
    records = _groups(stored, "tissues")
    if not records:
        yield MISSING
        return
    by_training: dict[tuple[str, ...], dict[str, Any]] = {}
    for measured, row in ((one["measured"], row) for one in records for row in one["measured"]["rows"]):
        if "minutes" not in row:  # records of earlier versions have them of each training alone
            lasted = {trial["minutes"] for trial in measured["trials"]}
            row = {**row, "minutes": min(lasted)} if len(lasted) == 1 else row
        key = (row["network"], row["left_out"], str(row.get("minutes")), row["stack"])
        if key not in by_training or len(row["seeds"]) > len(by_training[key]["seeds"]):
            by_training[key] = row
    found = list(by_training.values())
    several = len({row.get("minutes") for row in found}) > 1
    titles = {
        trial["network"]: trial["title"] for record in records for trial in record["measured"]["trials"]
    }

    def rows() -> Iterator[list[str]]:
        for row in found:
            trained = "all" if row["left_out"] == "all" else f"all but {row['left_out']}"
            yield [
                titles[row["network"]],
                trained,
                f"**{row['stack']}**" if row["stack"] == row["left_out"] else row["stack"],
                *(_mean(row, key) for key in ("v_rand_thin", "v_info_thin")),
                str(len(row["seeds"])),
                *([f"{row['minutes']:g}"] if several else []),
                str(row["steps"]),
            ]

    columns = ["seeds", *(["CPU minutes"] if several else []), "steps"]
    yield from table(["network", "trained on", "held out of", "V_rand", "V_info", *columns], rows())
    for record in records:
        yield ""
        yield origin(record)


def tilt_table(stored: Stored) -> Iterator[str]:
    """Write which borders are missed, by how far their membranes lean from upright."""
    if "tilt" not in stored:
        yield MISSING
        return
    record = stored["tilt"]

    def rows() -> Iterator[list[str]]:
        for name, found in record["measured"]["stacks"].items():
            for row in found["rows"]:
                yield [
                    f"{name}, sections {found['sections']}",
                    f"{row['from_degrees']}-{row['to_degrees']}",
                    f"{row['share']:.1%}",
                    "" if row["missed"] is None else f"{row['missed']:.1%}",
                ]

    yield from table(["held out", "degrees from upright", "of all borders", "of these missed"], rows())
    yield ""
    for name, found in record["measured"]["stacks"].items():
        yield f"Of the pixels of {name} far from borders, {found['false_membrane']:.1%} are called membrane."
        yield ""
    yield origin(record)


def planes_table(stored: Stored) -> Iterator[str]:
    """Write the scores of isotropic stacks along each plane, and of all planes together."""
    if "planes" not in stored:
        yield MISSING
        return
    record = stored["planes"]

    def rows() -> Iterator[list[str]]:
        for name, stack in record["measured"]["stacks"].items():
            for which, found in stack["scores"].items():
                yield [
                    f"{name}, sections {stack['sections']}",
                    which,
                    f"{found['v_rand']:.4f} ({found['best_threshold_rand']:.1f})",
                    f"{found['v_info']:.4f} ({found['best_threshold_info']:.1f})",
                ]

    yield from table(["held out", "cut along", "V_rand (threshold)", "V_info (threshold)"], rows())
    yield ""
    yield origin(record)


def _mean(row: dict[str, Any], key: str) -> str:
    spread = row[f"{key}_spread"]
    return f"{row[key]:.4f}" + ("" if spread is None else f" ± {spread:.4f}")


def _spread(values: list[float]) -> str:
    return f"{fmean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")
