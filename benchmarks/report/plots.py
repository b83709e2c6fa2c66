"""The pictures of the docs: what is plotted is read from the stored results alone, and each picture knows its data."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from benchmarks.store import Stored
from isbi_infer.files import replacing

from .cells import fair
from .goals import DEFAULT, PEERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KEY = (
    "isbi-bench-sha256"  # of the plotted data, in the PNG's text; pixels differ from one freetype to the next
)
_DPI = 150
OURS, THEIRS, FAINT = "#0b6e69", "#8a93a0", "#c9ced6"
_PROJECTS = ("#3b6fb6", "#c4622d", "#7d5ba6", "#b08a1e", "#a83a5b", "#5b6670", "#3f8f4f")


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture: what it plots, how, and what is written for those who do not see it.

    Attributes
    ----------
    data : callable
        Takes the stored results and returns all that is plotted, as JSON can hold it; None where it is not stored yet.
    draw : callable
        Takes that data and nothing else, under `isbi_train.plots.figures.STYLE`.
    alt : str
        What it shows.
    """

    data: Callable[[Stored], Any]
    draw: Callable[[Any], Figure]
    alt: str


def digest(data: Any) -> str:
    """Return the sha256 of what is plotted."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def is_current(path: Path, data: Any) -> bool:
    """Return whether the picture at `path` was drawn from this data."""
    from PIL import Image

    if not path.exists():
        return False
    with Image.open(path) as picture:
        return picture.info.get(_KEY) == digest(data)


def write(picture: Picture, data: Any, path: Path) -> None:
    """Draw a picture and write it with the sha256 of its data."""
    import matplotlib

    matplotlib.use("Agg")
    from isbi_train.plots.figures import STYLE

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE), replacing(path) as temporary:
        figure = picture.draw(data)
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={_KEY: digest(data)})


def axes_of(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure without a window, and its axes; width and height in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def peers_data(stored: Stored, name: str) -> Any:
    """Return time and accuracy of every peer that ran on a machine idle enough."""
    record = stored.get(name)
    if record is None or not fair(record):
        return None
    measured = record["measured"]
    return {
        "baseline": measured["baseline"],
        "cores": record["machine"]["cores"],
        "work": _work(record["settings"]),
        "peers": {
            peer: {"ratio": times["wall_ratio"], "differences": measured["differences"][peer]}
            for peer, times in measured["contenders"].items()
        },
    }


def _work(settings: dict[str, Any]) -> str:
    sections, *_ = settings.get("shape", (1,))
    return f"{sections} sections" if sections > 1 else "One section"


def draw_peers(data: Any) -> Figure:
    """Draw how many times as long each takes, with quartiles."""
    peers = sorted(data["peers"].items(), key=lambda item: item[1]["ratio"]["median"], reverse=True)
    figure, (axes,) = axes_of(7.2, 0.9 + 0.27 * len(peers))
    names = [name for name, _ in peers]
    ratios = [entry["ratio"] for _, entry in peers]
    medians = [ratio["median"] for ratio in ratios]
    spread = [
        [ratio["median"] - ratio["q1"] for ratio in ratios],
        [ratio["q3"] - ratio["median"] for ratio in ratios],
    ]
    ours = _project(data["baseline"])
    colours = [OURS if _project(name) == ours else THEIRS for name in names]
    axes.barh(names, medians, color=colours, xerr=spread, error_kw={"ecolor": "#333333", "elinewidth": 1})
    for y, (median, ratio) in enumerate(zip(medians, ratios, strict=True)):
        axes.annotate(
            f"{median:.2f}",
            (max(median, ratio["q3"]), y),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.axvline(1, color=OURS, linewidth=0.8, linestyle=":")
    axes.set_xlim(0, 1.08 * max(ratio["q3"] for ratio in ratios))
    axes.set_xlabel(f"times as long as {data['baseline']}: median and quartiles")
    axes.set_title(f"{data['work']}, the same weights, {_cores(data)}: wall time")
    axes.set_ylim(-0.7, len(peers) - 0.3)
    axes.tick_params(axis="y", length=0)
    return figure


def draw_accuracy(data: Any) -> Figure:
    """Draw accuracy against time; a line joins those that none beats in both."""
    peers, colours = data["peers"], _colours(data)
    figure, panels = axes_of(7.2, 3.8 + 0.08 * len(peers), columns=2)
    for axes, (key, title) in zip(
        panels,
        {
            "largest": "largest difference from the whole image",
            "changed_class": "fraction of pixels that change class",
        }.items(),
        strict=True,
    ):
        points = [(entry["ratio"]["median"], entry["differences"][key]) for entry in peers.values()]
        front = sorted(point for point in points if not any(_beats(other, point) for other in points))
        axes.step(*zip(*front, strict=True), where="post", color=FAINT, zorder=1)
        for name, point in zip(peers, points, strict=True):
            axes.scatter(*point, color=colours[name], s=26, zorder=3 if name == data["baseline"] else 2)
        axes.set_yscale("symlog", linthresh=1e-7, linscale=0.5)
        axes.set_ylim(-2e-8, 2)
        axes.set_yticks([0, 1e-6, 1e-4, 1e-2, 1], ["0", "1e-6", "1e-4", "1e-2", "1"])
        axes.yaxis.minorticks_off()
        axes.set_xlim(0, 1.1 * max(ratio for ratio, _ in points))
        axes.set_xlabel(f"times as long as {data['baseline']} ({_cores(data)})")
        axes.set_title(title)
        for (x, y), numbers in _near(points, axes):
            axes.annotate(numbers, (x, y), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=7)
    handles = [
        panels[0].plot([], [], "o", color=colours[name], markersize=4, label=f"{number}  {name}")[0]
        for number, name in enumerate(peers, start=1)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=7.5)
    return figure


def _cores(data: Any) -> str:
    return "1 core" if data["cores"] == 1 else f"{data['cores']} cores"


def _project(name: str) -> str:
    """Return whose a contender is by the first word of its name; TorchScript and torch.compile are torch's."""
    word = re.match(r"[A-Za-z]*", name)[0].lower()
    return "torch" if word.startswith("torch") else word


def _colours(data: Any) -> dict[str, str]:
    """Return what comes from one project one colour."""
    projects = {name: _project(name) for name in data["peers"]}
    ours = _project(data["baseline"])
    others = dict.fromkeys(project for project in projects.values() if project != ours)
    colour = {project: _PROJECTS[number % len(_PROJECTS)] for number, project in enumerate(others)}
    return {name: (colour | {ours: OURS})[project] for name, project in projects.items()}


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] <= other[1]


def _near(points: list[tuple[float, float]], axes: Axes) -> list[tuple[tuple[float, float], str]]:
    """Number the points from 1; those too near to each other for two labels share one."""
    groups: list[list[int]] = []
    places = axes.transData.transform(points)
    for index, place in enumerate(places):
        for group in groups:
            x, y = abs(places[group[0]] - place)
            if x < 18 and y < 16:
                group.append(index)
                break
        else:
            groups.append([index])
    return [
        (
            (mean(points[index][0] for index in group), max(points[index][1] for index in group)),
            ", ".join(str(index + 1) for index in group),
        )
        for group in groups
    ]


def memory_data(stored: Stored) -> Any:
    """Return peak memory by the number of sections, and the model's by tile."""
    if not {"memory-sections", "memory-tiles"} <= stored.keys():
        return None
    sections, tiles = stored["memory-sections"]["measured"], stored["memory-tiles"]["measured"]
    return {
        "peak_bytes": {count: max(entry["peak_bytes"]) for count, entry in sections["by_sections"].items()},
        "tile_bytes": {tile: entry["model_bytes_per_pixel"] for tile, entry in tiles["by_tile"].items()},
        "limit": tiles["limit_bytes_per_pixel"],
    }


def draw_memory(data: Any) -> Figure:
    """Draw peak memory: flat in the number of sections, below the limit by tile."""
    figure, (left, right) = axes_of(7.2, 2.6, columns=2)
    peaks = sorted((int(count), peak / 2**20) for count, peak in data["peak_bytes"].items())
    left.plot(*zip(*peaks, strict=True), "o-", color=OURS)
    left.set_xscale("log")
    left.set_xticks([count for count, _ in peaks], [f"{count:,}" for count, _ in peaks])
    left.xaxis.minorticks_off()
    left.set_ylim(0, 1.5 * max(peak for _, peak in peaks))
    left.set_xlabel("sections of 512 x 512")
    left.set_title("peak of a whole run, MiB")
    tiles = sorted((int(tile), found) for tile, found in data["tile_bytes"].items())
    bars = right.bar([str(tile) for tile, _ in tiles], [found for _, found in tiles], color=OURS, width=0.6)
    right.bar_label(bars, fmt="%.0f", fontsize=8, color="white", label_type="center")
    right.axhline(data["limit"], color=THEIRS, linewidth=1, linestyle="--")
    right.annotate(
        f"limit {data['limit']:.0f}",
        (-0.4, data["limit"]),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=8,
    )
    right.set_ylim(0, 1.2 * max(data["limit"], *data["tile_bytes"].values()))
    right.set_xlabel("side of a tile")
    right.set_title("the model, bytes per tile pixel and worker")
    return figure


# Each is docs/images/bench-NAME.png, shown between <!-- picture: NAME --> and <!-- end --> in a page of docs/.
PICTURES: dict[str, Picture] = {
    "default": Picture(
        lambda stored: peers_data(stored, DEFAULT),
        draw_peers,
        "Bars: how many times as long as isbi-infer with its default settings each peer takes for 30 sections",
    ),
    "peers-one-core": Picture(
        lambda stored: peers_data(stored, PEERS),
        draw_peers,
        "Bars: how many times as long as isbi-infer each peer takes for one section on one core",
    ),
    "peers": Picture(
        lambda stored: peers_data(stored, "peers-4096"),
        draw_peers,
        "Bars: how many times as long as isbi-infer each peer takes for one section on all cores",
    ),
    "accuracy": Picture(
        lambda stored: peers_data(stored, PEERS),
        draw_accuracy,
        "Points: each peer's difference from the whole-image result against the time it takes on one core",
    ),
    "memory": Picture(
        memory_data,
        draw_memory,
        "Peak memory by the number of sections, and the model's by the side of a tile",
    ),
}
