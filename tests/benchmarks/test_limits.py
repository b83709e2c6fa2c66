"""The machine's own limits: how they are measured, looked up, and kept with every stored result."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import limits as measuring
from benchmarks.limits import fraction_of_limit, limit_of, measure_limits
from benchmarks.machine import cores
from benchmarks.matrix_products import NotSupportedError, needed
from benchmarks.report.cells import of_limit

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
def test_a_limit_not_measured_or_on_a_busy_machine_gives_no_fraction(limits, precision, count, on):
    assert fraction_of_limit(1e9, 1.0, limits, precision, count, on) is None


def test_a_cell_without_limits_or_operations_is_empty():
    record = {"settings": {"provider": "cpu"}, "machine": {"cores": 2}, "limits": LIMITS}
    assert of_limit(100e9, 0.5, record) == "200 (50%)"
    assert of_limit(0, 0.5, record) == "-"
    assert of_limit(100e9, 0.5, record | {"limits": None}) == "-"


def test_each_precision_is_measured_or_its_absence_has_a_reason():
    found = measure_limits(seconds=0.0, sides=[32], copied_bytes=2**16)["cpu"]
    counts = {str(n) for n in (1, cores())}
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
