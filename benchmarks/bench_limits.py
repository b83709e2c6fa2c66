"""What this machine could do at most: products in each precision, copies, and transfers to a GPU."""

from __future__ import annotations

from .limits import LONG_S, measured_apart


def test_limits(benchmark, limits, options, keep, say):
    benchmark.group = "limits"
    found = benchmark.pedantic(
        (lambda: limits) if options.quick else (lambda: measured_apart(options.provider, LONG_S)),
        rounds=1,
        iterations=1,
    )
    benchmark.extra_info.update(found)
    for device in ("cpu", "cuda"):
        for key, value in found.get(device, {}).items():
            say(f"limits: {device}: {key}: {_written(value)}")
    if found["busy"]:
        say(f"limits: too low, the machine is busy: load average {found['load_average']}")
    assert found["cpu"]["gflop_s"]["fp32"]["1"] > 0
    keep("limits", found)


def _written(value):
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_written(entry)}" for key, entry in value.items()) or "nothing"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
