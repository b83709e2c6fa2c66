"""The study of networks: its table, and the picture of scores against time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.store import Stored
from isbi_infer.model.contract import read_contract
from isbi_models import released_models

from .cells import MEASURED, MISSING, origin, table
from .plots import FAINT, OURS, THEIRS, Picture, axes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STUDY = "networks-study"
_SCORES = {"v_rand": "V_rand", "v_info": "V_info"}
_WORST_SHOWN = 0.03  # below the best; networks that score worse are named at the picture's lower edge


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One exported file of the study.

    Attributes
    ----------
    name, precision : str
        Of the network and the file.
    v_rand, v_info : float
        On the held-out sections.
    ms : float
        A section on one core.
    ms_all_cores : float
        A section, when all cores work on several.
    gflop : float
        For a section of 512 x 512.
    parameters, bytes : int
        Of the network and the file.
    training_s : float
        Wall time.
    released : bool
        Whether the released model's network is this one.
    """

    name: str
    precision: str
    v_rand: float
    v_info: float
    ms: float
    ms_all_cores: float
    gflop: float
    parameters: int
    bytes: int
    training_s: float
    released: bool


def points(measured: dict[str, Any]) -> list[Point]:
    """Return the files of a stored study, the fastest first."""
    one, all_cores = (measured[cores]["contenders"] for cores in ("one_core", "all_cores"))
    sections, released = measured["all_cores"]["sections"], released_network()
    found = []
    for name, network in measured["networks"].items():
        is_released = released.items() <= network["network"].items()
        for precision, file in network["files"].items():
            key = f"{name} {precision}"
            found.append(
                Point(
                    name=name,
                    precision=precision,
                    v_rand=file["v_rand_thin"],
                    v_info=file["v_info_thin"],
                    ms=1e3 * one[key]["wall_median_s"],
                    ms_all_cores=1e3 * all_cores[key]["wall_median_s"] / sections,
                    gflop=file["gflop"],
                    parameters=network["parameters"],
                    bytes=file["bytes"],
                    training_s=network["training_s"],
                    released=is_released,
                )
            )
    return sorted(found, key=lambda point: point.ms)


def released_network() -> dict[str, Any]:
    """Return the settings of the network that `isbi_infer` loads by default, as stored in its file."""
    contract = read_contract(released_models()[MEASURED].path.read_bytes())
    return {"separable": False} | contract.provenance["training"]["network"]  # older files do not name it


def frontier(found: Sequence[Point], score: str) -> list[Point]:
    """Return the files that no other one beats: none is as fast and scores better, or as good and faster.

    Parameters
    ----------
    found : sequence of Point
        All of them.
    score : {"v_rand", "v_info"}
        Which score.

    Returns
    -------
    list of Point
        The fastest first, each with a higher score than the one before; of equal ones all.
    """

    def beaten(point: Point, other: Point) -> bool:
        ours, theirs = getattr(point, score), getattr(other, score)
        return other.ms <= point.ms and theirs >= ours and (other.ms, theirs) != (point.ms, ours)

    return sorted(
        (point for point in found if not any(beaten(point, other) for other in found)),
        key=lambda point: point.ms,
    )


def study_table(stored: Stored) -> Iterator[str]:
    """Write every file of the study."""
    if STUDY not in stored:
        yield MISSING
        return
    record = stored[STUDY]
    yield from lines(points(record["measured"]), record["measured"], record["settings"])
    yield ""
    yield origin(record)


def lines(found: Sequence[Point], measured: dict[str, Any], settings: dict[str, Any]) -> Iterator[str]:
    """Write the files as a table, the fastest first, and below it what is not in it."""
    fronts = {score: frontier(found, score) for score in _SCORES}
    height, width = settings["shape"]
    cores = measured["all_cores"]["cores"]
    header = ["network", "file", "V_rand", "V_info", "ms, one core", f"ms, {cores} cores"]
    header += ["GFLOP", "parameters", "MB", "training, min"]

    def scores(point: Point) -> Iterator[str]:
        for score, front in fronts.items():
            text = f"{getattr(point, score):.4f}"
            yield f"**{text}**" if point in front else text

    yield from table(
        header,
        (
            [
                f"{point.name}, released" if point.released else point.name,
                point.precision,
                *scores(point),
                f"{point.ms:.1f}",
                f"{point.ms_all_cores:.1f}",
                f"{point.gflop:.1f}",
                f"{point.parameters:,}",
                f"{point.bytes / 1e6:.2f}",
                f"{point.training_s / 60:.0f}",
            ]
            for point in found
        ),
    )
    yield ""
    yield (
        f"Sections of {height} x {width}. **Bold**: on the frontier, which is where no other file is as fast (on one "
        "core) and better."
    )
    for score, title in _SCORES.items():
        yield ""
        yield f"{title}, the frontier: " + ", ".join(f"{p.name} {p.precision}" for p in fronts[score]) + "."
    refused = [
        f"{name} {precision} ({reason})"
        for name, network in measured["networks"].items()
        for precision, reason in network["refused"].items()
    ]
    for title, names in (("Refused by the export's gate", refused), ("Not trained", measured["left_out"])):
        if names:
            yield ""
            yield f"{title}: {', '.join(names)}."


def study_data(stored: Stored) -> Any:
    """Return what the picture shows."""
    if STUDY not in stored:
        return None
    keys = ("name", "precision", "v_rand", "v_info", "ms", "released")
    found = [asdict(point) for point in points(stored[STUDY]["measured"])]
    return {
        "points": [{key: point[key] for key in keys} for point in found],
        "frontier": {
            score: [[p.name, p.precision] for p in frontier(points(stored[STUDY]["measured"]), score)]
            for score in _SCORES
        },
    }


def draw_study(data: Any) -> Figure:
    """Draw both scores against time, with the frontier and the released network."""
    figure, panels = axes_of(7.6, 4.2, columns=2)
    for axes, (score, title) in zip(panels, _SCORES.items(), strict=True):
        _draw_score(axes, data["points"], data["frontier"][score], score)
        axes.set_title(title)
    handles = [
        panels[0].plot([], [], linestyle="", marker=marker, markersize=6, label=label, **style)[0]
        for label, marker, style in (
            ("float32", "o", {"markerfacecolor": "white", "markeredgecolor": THEIRS}),
            ("int8", "o", {"color": THEIRS}),
            ("released", "o", {"color": OURS}),
        )
    ]
    handles += panels[0].plot([], [], color=FAINT, label="frontier")
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _draw_score(axes: Axes, found: list[dict[str, Any]], front: list[list[str]], score: str) -> None:
    best = max(point[score] for point in found)
    floor = best - _WORST_SHOWN
    on_front = [point for point in found if [point["name"], point["precision"]] in front]
    axes.step(
        [p["ms"] for p in on_front],
        [max(p[score], floor) for p in on_front],
        where="post",
        color=FAINT,
        zorder=1,
    )
    for point in found:
        colour = OURS if point["released"] else THEIRS
        low = point[score] < floor
        axes.scatter(
            point["ms"],
            max(point[score], floor),
            s=30,
            marker="v" if low else "o",
            facecolor=colour if point["precision"] == "int8" else "white",
            edgecolor=colour,
            linewidth=1.2,
            zorder=3 if point["released"] else 2,
        )
        if low or point in on_front or point["released"]:
            label = f"{point['name']} {point[score]:.3f}" if low else point["name"]
            axes.annotate(
                label,
                (point["ms"], max(point[score], floor)),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=6,
                rotation=90 if low else 0,
                va="bottom",
            )
    axes.set_xscale("log")
    ticks = [
        t
        for t in (5, 10, 20, 50, 100, 200, 500, 1000, 2000)
        if 0.8 * found[0]["ms"] <= t <= 1.2 * found[-1]["ms"]
    ]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.minorticks_off()
    axes.margins(x=0.18)
    axes.set_xlabel("ms per section on one core")


PICTURE = Picture(
    study_data,
    draw_study,
    "Points: V_rand and V_info of each network's files against the time for one section on one core",
)
