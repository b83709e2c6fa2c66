"""The report: pages and pictures are drawn from the stored results alone, and a stale one is noticed."""

import json

import pytest

pytest.importorskip("matplotlib")

from benchmarks.limits import best_limits
from benchmarks.report.__main__ import update_pages, update_pictures
from benchmarks.report.plots import PICTURES, is_current
from benchmarks.report.tables import limits_table, peers_table
from benchmarks.report.terminal import as_text
from benchmarks.store import newest, store

FAIR, BUSY = 1.0, 3.0


def memory(peak=2**28):
    return {
        "memory-sections": {"measured": {"by_sections": {"30": {"peak_bytes": [peak, peak - 1]}}}},
        "memory-tiles": {
            "measured": {
                "by_tile": {"512": {"model_bytes_per_pixel": 168.0}},
                "limit_bytes_per_pixel": 272.0,
            }
        },
    }


def peers(load=FAIR, **found):
    ratio = {"q1": 1.9, "median": 2.0, "q3": 2.2}
    same = {"q1": 1.0, "median": 1.0, "q3": 1.0}
    exact = {"largest": 0.0, "largest_inside": 0.0, "changed_class": 0.0}
    return {
        "name": "peers-4096",
        "file": "peers.json",
        "measured_at": "2026-11-22T00:00:00",
        "machine": {"cpu": "X", "cores": 2, "memory_gib": 4.0},
        "versions": {"numpy": "2"},
        "settings": {"provider": "cpu", "size": 100, "flops_per_pixel": 1e6},
        "measured": {
            "baseline": "isbi-infer",
            "load_average": [load],
            "contenders": {
                "isbi-infer": {"wall_median_s": 0.1, "wall_ratio": same, "cpu_ratio": same},
                "MONAI, roi 256": {"wall_median_s": 0.2, "wall_ratio": ratio, "cpu_ratio": ratio},
            },
            "differences": {
                "isbi-infer": exact,
                "MONAI, roi 256": {"largest": 0.5, "largest_inside": 0.1, "changed_class": 0.01},
            },
            "computes": {
                "isbi-infer": {"does": "tiles", "precision": "fp32", "pixels_computed_per_pixel": 1.1},
                "MONAI, roi 256": {"does": "windows", "precision": "fp32", "pixels_computed_per_pixel": 2.0},
            },
            "skipped": {"OpenVINO": "openvino is not installed"},
        },
    } | found


def test_a_picture_is_stale_when_its_data_change_and_only_then(tmp_path):
    assert update_pictures(tmp_path, memory(), check=False) == [
        "bench-memory.png: not drawn from the stored results"
    ]
    assert update_pictures(tmp_path, memory(), check=True) == []
    path = tmp_path / "images" / "bench-memory.png"
    before = path.read_bytes()
    assert update_pictures(tmp_path, memory(peak=2**29), check=True)
    assert path.read_bytes() == before
    update_pictures(tmp_path, memory(peak=2**29), check=False)
    assert update_pictures(tmp_path, memory(peak=2**29), check=True) == []


def test_a_picture_without_the_mark_of_its_data_is_stale(tmp_path):
    from matplotlib.figure import Figure

    path = tmp_path / "by-hand.png"
    assert not is_current(path, {})
    Figure(figsize=(1, 1)).savefig(path)
    assert not is_current(path, {})


def test_what_is_not_stored_is_neither_drawn_nor_demanded(tmp_path):
    assert update_pictures(tmp_path, {}, check=True) == []
    assert update_pictures(tmp_path, {}, check=False) == []
    assert not (tmp_path / "images").exists()
    (tmp_path / "page.md").write_text("<!-- picture: memory -->\n<!-- end -->\n")
    update_pages(tmp_path, {}, check=False)
    assert "Not measured yet." in (tmp_path / "page.md").read_text()


@pytest.mark.parametrize("name", ["peers", "memory"])
def test_every_picture_is_drawn_and_linked(tmp_path, name):
    stored = {"peers-4096": peers()} | memory()
    page = tmp_path / "page.md"
    page.write_text(f"before\n<!-- picture: {name} -->\n<!-- end -->\nafter\n")
    assert update_pages(tmp_path, stored, check=True)
    assert "bench-" not in page.read_text()
    update_pages(tmp_path, stored, check=False)
    update_pictures(tmp_path, stored, check=False)
    assert f"![{PICTURES[name].alt}](images/bench-{name}.png)" in page.read_text()
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("after\n")
    assert (tmp_path / "images" / f"bench-{name}.png").stat().st_size > 5000
    assert update_pages(tmp_path, stored, check=True) == []


def test_peers_of_a_busy_machine_are_neither_plotted_nor_tabled(tmp_path):
    busy = {"peers-4096": peers(load=BUSY)}
    assert PICTURES["peers"].data(busy) is None
    assert "too busy" in "".join(peers_table(busy, "peers-4096"))


def test_peers_are_shown_as_a_part_of_the_limit_for_the_pixels_they_really_compute():
    limits = {"cpu": {"gflop_s": {"fp32": {"1": 200.0, "2": 400.0}}}}
    lines = list(peers_table({"peers-4096": peers(best_limits=limits)}, "peers-4096"))
    assert "| isbi-infer | tiles | fp32 | 0.10 " in lines[2]
    assert "| 110 | 28% |" in lines[2]
    assert "| 100 | 25% |" in lines[3]
    assert "OpenVINO | openvino is not installed" in lines[4]
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert " - " in list(peers_table({"peers-4096": peers()}, "peers-4096"))[2]


def test_limits_are_shown_with_the_reason_where_one_is_missing():
    record = peers(name="limits", file="limits.json")
    measured = {
        "cpu": {
            "gflop_s": {"fp32": {"1": 200.0, "2": 410.4}},
            "copy_gb_s": {"1": 20.0, "2": 31.3},
            "how": {"fp32": {"1": "NumPy, 512 x 512", "2": "NumPy, 512 x 512"}},
            "missing": {"bf16": "torch: torch is not installed", "int8": "none"},
        },
        "load_average": 0.1,
        "busy": False,
    }
    record |= {"measured": measured, "best_limits": best_limits([measured])}
    lines = list(limits_table({"limits": record}))
    assert "| fp32 product | 200 GFLOP/s | 410 GFLOP/s | NumPy, 512 x 512 |" in lines
    assert "| bf16 product | - | - | torch: torch is not installed |" in lines
    record["best_limits"] = best_limits([measured | {"busy": True}])
    assert "too busy" in "".join(limits_table({"limits": record}))


def test_a_table_on_the_terminal_has_aligned_columns_and_no_addresses():
    text = as_text(
        "name", ["| a | from |", "| --- | --- |", "| long cell | [here](far/away.json) |", "", "On X."]
    )
    assert text.splitlines() == [
        "name",
        "====",
        "a          from",
        "---------  ----",
        "long cell  here",
        "",
        "On X.",
        "",
    ]


def test_only_the_newest_result_of_a_name_and_of_this_machine_is_read(tmp_path):
    store("one", {"seconds": 1}, {}, tmp_path, {"cpu": {}})
    path = store("two", {"seconds": 2}, {}, tmp_path)
    older = json.loads(path.read_text()) | {"measured_at": "2020-01-01T00:00:00+00:00", "measured": {}}
    (tmp_path / "another-machine-2020-01-01-two.json").write_text(json.dumps(older))
    found = newest(tmp_path)
    assert found["two"]["measured"] == {"seconds": 2}
    assert found["one"]["limits"] == {"cpu": {}}
    assert "limits" not in found["two"]
    assert newest(tmp_path, "another-machine").keys() == {"two"}
    assert newest(tmp_path, "another-machine")["two"]["measured"] == {}
