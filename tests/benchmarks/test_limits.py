"""The machine's own limits: how they are measured, looked up, and kept with every stored result."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import limits as measuring
from benchmarks.limits import best_limits, fraction_of_limit, limit_of, measure_limits
from benchmarks.matrix_products import NotSupportedError, needed
from benchmarks.report.__main__ import TABLES
from benchmarks.report.cells import of_limit, share_of_limit
from benchmarks.store import newest, store
from isbi_infer.backends.cores import available_cores

ROOT = Path(__file__).parents[2]
LIMITS = {
    "cpu": {"gflop_s": {"fp32": {"1": 200.0, "2": 400.0}, "int8": {"1": 900.0}}},
    "cuda": {"gflop_s": {"fp16": 790e3}},
}
positive = st.floats(1e-3, 1e6)


@given(gflop=positive, seconds=positive, part=st.floats(0.01, 1))
def test_work_that_takes_longer_reaches_less_of_the_limit(gflop, seconds, part):
    whole = fraction_of_limit(gflop * 1e9, seconds, LIMITS, "fp32", cores=2)
    assert whole == pytest.approx(gflop / seconds / 400)
    assert fraction_of_limit(gflop * 1e9, seconds / part, LIMITS, "fp32", 2) == pytest.approx(part * whole)


def test_a_limit_belongs_to_a_device_a_precision_and_a_number_of_cores():
    assert limit_of(LIMITS, "fp32", 1) == 200
    assert limit_of(LIMITS, "int8", 1) == 900
    assert limit_of(LIMITS, "fp16", 16, on="cuda") == 790e3


@pytest.mark.parametrize(
    ("limits", "precision", "count", "on"),
    [
        (None, "fp32", 1, "cpu"),
        ({}, "fp32", 1, "cpu"),
        (LIMITS, "bf16", 1, "cpu"),
        (LIMITS, "int8", 2, "cpu"),
        ({"cpu": LIMITS["cpu"]}, "fp32", 1, "cuda"),
        (LIMITS | {"busy": True}, "fp32", 1, "cpu"),
    ],
)
def test_a_limit_not_measured_or_on_a_busy_machine_has_no_fraction(limits, precision, count, on):
    assert fraction_of_limit(1e9, 1.0, limits, precision, count, on) is None


def test_a_cell_without_limits_or_operations_is_empty():
    record = {"settings": {"provider": "cpu"}, "machine": {"cores": 2}, "best_limits": LIMITS}
    assert of_limit(100e9, 0.5, record, "fp32") == "50%"
    assert of_limit(0, 0.5, record, "fp32") == "-"
    assert of_limit(100e9, 0.5, record | {"best_limits": {}}, "fp32") == "-"


@given(st.floats(0, 1e4))
def test_more_than_a_limit_is_never_written_without_a_word(fraction):
    percent, _, word = share_of_limit(fraction).partition(", ")
    assert (float(percent.rstrip("%")) > 100) == (word == "unexplained")
    assert float(percent.rstrip("%")) == pytest.approx(100 * fraction, abs=0.5001)


def test_no_table_of_the_stored_results_exceeds_a_limit_without_a_word():
    stored = newest()
    cells = [cell.strip() for table in TABLES.values() for line in table(stored) for cell in line.split("|")]
    alone = [cell for cell in cells if re.fullmatch(r"\d+%", cell)]
    assert alone  # or nothing was looked at
    assert max(int(cell.rstrip("%")) for cell in alone) <= 100


rates = st.dictionaries(st.sampled_from(["1", "2"]), positive, min_size=1)
measured = st.builds(
    lambda fp32, copies, busy: {
        "busy": busy,
        "cpu": {
            "gflop_s": {"fp32": fp32},
            "copy_gb_s": copies,
            "how": {"fp32": {n: f"at {rate}" for n, rate in fp32.items()}},
            "missing": {"int8": "none"},
        },
    },
    rates,
    rates,
    st.booleans(),
)


@given(st.lists(measured, max_size=5))
def test_the_best_limit_is_the_highest_of_all_idle_runs_and_knows_how_it_was_measured(runs):
    best = best_limits(runs)
    idle = [run["cpu"] for run in runs if not run["busy"]]
    assert ("cpu" in best) == bool(idle)
    for count in ("1", "2"):
        for rate, key in (("gflop_s", "fp32"), ("copy_gb_s", None)):
            found = [run[rate].get(key, {}).get(count) if key else run[rate].get(count) for run in idle]
            expected = max((one for one in found if one is not None), default=None)
            assert limit_of(best, "fp32", int(count), rate=rate) == expected
        if limit := limit_of(best, "fp32", int(count)):
            assert best["cpu"]["how"]["fp32"][count] == f"at {limit}"


def test_a_precision_that_one_run_missed_and_another_measured_is_not_missing():
    missed = {"cpu": {"gflop_s": {}, "copy_gb_s": {"1": 1.0}, "missing": {"fp32": "none", "int8": "none"}}}
    for runs in ([missed, LIMITS], [LIMITS, missed]):
        assert best_limits(runs)["cpu"]["missing"] == {}
    assert best_limits([missed])["cpu"]["missing"].keys() == {"fp32", "int8"}


def test_every_result_is_judged_by_the_best_limits_of_its_own_processor_and_gpu(tmp_path):
    def limits(rate, **cuda):
        return {"busy": False, "cpu": {"gflop_s": {"fp32": {"1": rate}}, "copy_gb_s": {"1": 1.0}}, **cuda}

    def stored(name, processor, found, gpus=(), **measured):
        path = store(name, measured, {}, tmp_path, found)
        record = json.loads(path.read_text()) | {
            "machine": {"cpu": processor, **({"gpus": gpus} if gpus else {})}
        }
        path.write_text(json.dumps(record))

    stored("short", "a", limits(100.0))
    stored("limits", "a", None, **limits(200.0))  # a long run: its limits are what it measured
    stored("other", "b", limits(900.0))
    stored("gpu", "a", limits(50.0, cuda={"gflop_s": {"fp16": 700.0}}), ["an H100"])
    found = newest(tmp_path)
    best = {name: limit_of(record["best_limits"], "fp32") for name, record in found.items()}
    assert best == {"short": 200.0, "limits": 200.0, "other": 900.0, "gpu": 200.0}
    assert limit_of(found["gpu"]["best_limits"], "fp16", on="cuda") == 700.0
    assert "cuda" not in found["short"]["best_limits"]


def test_each_precision_is_measured_or_its_absence_has_a_reason():
    found = measure_limits(seconds=0.0, sides=[32], copied_bytes=2**16)["cpu"]
    counts = {str(n) for n in (1, available_cores())}
    assert set(found["gflop_s"]) | set(found["missing"]) == {"fp32", "bf16", "int8"}
    for rates in [*found["gflop_s"].values(), found["copy_gb_s"]]:
        assert set(rates) == counts
        assert min(rates.values()) > 0
    assert set(found["how"]) == set(found["gflop_s"])


def test_the_fastest_library_counts_and_one_that_is_not_installed_does_not(monkeypatch):
    def absent(side):
        return needed("no_such_library")

    monkeypatch.setattr(
        measuring,
        "MATRIX_PRODUCTS",
        {
            "fp32": {
                "absent": absent,
                "slow": lambda side: lambda: sum(range(20_000)),
                "fast": lambda side: int,
            }
        }
        | {"bf16": {"absent": absent}},
    )
    found = measure_limits(seconds=0.0, sides=[8], copied_bytes=2**16)["cpu"]
    assert found["how"]["fp32"]["1"] == "fast, 8 x 8"
    assert found["missing"] == {"bf16": "absent: no_such_library is not installed"}


def test_what_is_not_installed_is_named():
    with pytest.raises(NotSupportedError, match="no_such_library is not installed"):
        needed("no_such_library")


def test_every_stored_result_holds_the_limits_of_its_run(tmp_path):
    bench = tmp_path / "bench_kept.py"
    bench.write_text(
        "import pytest\n"
        "@pytest.fixture(scope='session')\n"
        "def limits():\n"
        "    return {'cpu': {'gflop_s': {'fp32': {'1': 200.0}}}}\n"
        "def test_one(keep):\n"
        "    keep('one', {'seconds': 1.0})\n"
        "def test_two(keep):\n"
        "    keep('two', {'seconds': 2.0}, size=3)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.conftest", str(bench)]
    options = ["--store", "--results", str(tmp_path / "results"), "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "results").iterdir())]
    assert [record["name"] for record in records] == ["one", "two"]
    assert all(record["limits"]["cpu"]["gflop_s"]["fp32"] == {"1": 200.0} for record in records)
