"""Train, export, score and time the networks of networks.toml: `python -m benchmarks.studies.networks [--store]`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.store import store
from isbi_infer.errors import UsageError
from isbi_infer.terminal import exit_codes, require_packages

if TYPE_CHECKING:
    from isbi_train.data.labelled import LabelledStack

    from .candidates import Study

NAME = "networks-study"
_HERE = Path(__file__).parent


def measure_all(study: Study, stack: LabelledStack, sections: Path, out: Path, rounds: int) -> dict[str, Any]:
    """Export, score and time every candidate whose training is finished.

    Parameters
    ----------
    study : Study
        The candidates.
    stack : LabelledStack
        All labelled sections.
    sections : Path
        Their images, to calibrate int8 on.
    out : Path
        Folder with a folder for each candidate.
    rounds : int
        Of the timing.

    Returns
    -------
    dict
        ``networks`` by name: ``network``, ``parameters``, ``epochs``, ``training_s``, ``checkpoint_sha256``,
        ``files`` by precision (see `benchmarks.studies.networks.measure.score`) and ``refused``; ``one_core`` and
        ``all_cores``, times of the files ("NAME PRECISION"); ``left_out``, the names of those not trained;
        ``load_average``.

    Raises
    ------
    UsageError
        If no training is finished.
    """
    from .candidates import finished_run
    from .measure import describe, export, score, times

    networks: dict[str, Any] = {}
    models: dict[str, Path] = {}
    left_out = []
    held_out = stack[study.candidates[0].settings.train.held_out(len(stack))]
    for candidate in study.candidates:
        name, folder = candidate.name, out / candidate.name
        checkpoint = finished_run(candidate, stack, folder)
        if checkpoint is None:
            left_out.append(name)
            print(f"{name}: left out, its training is not finished", flush=True)
            continue
        paths, refused = export(folder, sections)
        files = {precision: score(path, held_out) for precision, path in paths.items()}
        networks[name] = {**describe(folder, checkpoint), "files": files, "refused": refused}
        models |= {f"{name} {precision}": path for precision, path in paths.items()}
        for precision, scores in files.items():
            print(
                f"{name} {precision}: V_rand {scores['v_rand_thin']:.4f}  V_info {scores['v_info_thin']:.4f}",
                flush=True,
            )
        for precision, reason in refused.items():
            print(f"{name} {precision}: not published, {reason}", flush=True)
    if not models:
        raise UsageError(f"{out}: no training of the study is finished there; leave --measure out")
    found = times(models, held_out, rounds, baseline=next(iter(models)))
    load = found["one_core"]["load_average"] + found["all_cores"]["load_average"]
    return {"networks": networks, **found, "left_out": left_out, "load_average": load}


def train_all(study: Study, stack: LabelledStack, out: Path) -> None:
    """Train every candidate that is not trained yet, one after the other."""
    from .candidates import train

    for candidate in study.candidates:
        print(f"{candidate.name}: training", flush=True)

        def say(entry: dict[str, Any], name: str = candidate.name) -> None:
            print(
                f"{name}: epoch {entry['epoch']}  V_rand {entry['v_rand_thin']:.4f}  "
                f"V_info {entry['v_info_thin']:.4f}  {entry['seconds']:.0f} s",
                flush=True,
            )

        if not train(candidate, stack, out / candidate.name, say):
            print(f"{candidate.name}: was trained before", flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.studies.networks", description=__doc__)
    found.add_argument(
        "--data",
        type=Path,
        default=Path("data/isbi2012"),
        help="folder with train-volume.tif and train-labels.tif, as isbi-train download leaves it [%(default)s]",
    )
    found.add_argument(
        "--out",
        type=Path,
        default=Path("runs/study"),
        help="folder for a folder of each network [%(default)s]",
    )
    found.add_argument("--networks", type=Path, default=_HERE / "networks.toml", help="what to compare")
    found.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="only this one; repeatable"
    )
    found.add_argument("--measure", action="store_true", help="train nothing: measure what is trained")
    found.add_argument("--rounds", type=int, default=9, help="of the timing [%(default)s]")
    found.add_argument("--store", action="store_true", help="write benchmarks/results/")
    return found


def main(argv: list[str] | None = None) -> None:
    """Train what is not trained, measure all, and store it where that is asked for."""
    asked = parser().parse_args(argv)
    with exit_codes(parser().prog):
        if asked.rounds < 1:
            raise UsageError(f"--rounds {asked.rounds} is below 1")
        require_packages("export", "torch", "onnx", "onnxscript")
        from benchmarks.report.study import lines, points
        from benchmarks.report.terminal import as_text
        from isbi_train.data.labelled import IMAGES, load_labelled

        from .candidates import read_study

        study, stack = read_study(asked.networks, asked.data, asked.only), load_labelled(asked.data)
        if not asked.measure:
            train_all(study, stack, asked.out)
        measured = measure_all(study, stack, asked.data / IMAGES, asked.out, asked.rounds)
        held_out = study.candidates[0].settings.train.held_out(len(stack))
        settings = {
            "recipe": study.recipe,
            "sections": f"{held_out.start}:{held_out.stop}",
            "shape": list(stack.image_ZYX.shape[1:]),
            "data_sha256": stack.sha256(),
            "rounds": asked.rounds,
        }
        print(as_text(NAME, lines(points(measured), measured, settings)))
        if asked.store:
            print(store(NAME, measured, settings))


if __name__ == "__main__":
    main()
