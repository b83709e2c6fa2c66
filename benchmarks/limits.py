"""This machine's own limits, so that a time is also a fraction of what it could be: `python -m benchmarks.limits`.

A limit is a best: the fastest of several libraries, sizes and repeats. A product of two square matrices of side n
counts 2 n^3 operations, and a copy counts what it reads and what it writes. With all cores, each core computes a
product of its own at the same time as the others, as this project's workers do; nobody waits for anybody. Libraries:
ONNX Runtime's MatMul (fp32) and MatMulInteger (uint8 x int8), NumPy (fp32), torch.mm (bf16), torch._int_mm (int8) and
OpenVINO's MatMul (fp32, bf16, uint8 x int8), of which what it compiled says in what it computes. AMX counts where the
processor and the library have it.
torch.mm in fp32 is not among them: on AMD's processors its library does less than half of what its own convolutions do.

A measurement of a few seconds on a machine that is shared can come out at half of what the machine can do. So times are
judged by `best_limits`: the best that was ever stored for the processor.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from isbi_infer.backends.cores import available_cores

from .machine import OTHERS, load_average
from .matrix_products import MATRIX_PRODUCTS, NotSupportedError, Work, needed

Limits = dict[str, Any]

ROOT = Path(__file__).parents[1]
SHORT_S, LONG_S = 2.0, 10.0  # for all measurements together
_SIDES = (512, 1024)
_COPIED_BYTES = 2**29  # far beyond the caches; as much again is written
_BURST_S = 0.01  # waking the threads must not count
_RATES = ("gflop_s", "copy_gb_s", "to_device_gb_s", "from_device_gb_s")
# The threads are ours: a library's own would wait for each other.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def measured_apart(provider: str = "cpu", seconds: float = SHORT_S) -> Limits:
    """Measure in a process of its own, so that neither its libraries nor its threads stay behind."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.limits",
        "--provider",
        provider,
        "--seconds",
        str(seconds),
        "--json",
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | _ONE_THREAD, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"benchmarks.limits ended with {done.returncode}: {done.stderr[-2000:]}")
    found: Limits = json.loads(done.stdout)
    return found


def measure_limits(
    provider: str = "cpu",
    seconds: float = SHORT_S,
    sides: Sequence[int] = _SIDES,
    copied_bytes: int = _COPIED_BYTES,
) -> Limits:
    """Measure the limits of the processor, and of the GPU where `provider` computes on one.

    Parameters
    ----------
    provider : str
        As `Segmenter` takes it.
    seconds : float
        Time for all measurements of one device together.
    sides : sequence of int
        Of the matrices, eight times as large on a GPU; the fastest counts.
    copied_bytes : int
        By all cores together, and by the GPU.

    Returns
    -------
    dict
        ``load_average`` of the last minute, and ``busy``: whether other programs took part of the machine.
        ``cpu``: ``gflop_s`` (by precision, then by the number of cores as text), ``copy_gb_s`` (by the number of
        cores), ``how`` (by precision, the library and side that were fastest), ``missing`` (by what is not known, why).
        ``cuda``, where asked for: ``name``, ``gflop_s`` (by precision), ``copy_gb_s``, ``to_device_gb_s``,
        ``from_device_gb_s``, ``missing``.
    """
    load = load_average()
    found: Limits = {"load_average": load, "busy": load > (os.cpu_count() or 1) + OTHERS}
    found["cpu"] = _of_cpu(seconds, sides, copied_bytes)
    if device_of(provider) == "cuda":
        found["cuda"] = _of_cuda(seconds, [8 * side for side in sides], copied_bytes)
    return found


def best_limits(measured: Iterable[Limits]) -> Limits:
    """Return the best of several measurements of one processor or GPU, figure by figure.

    Parameters
    ----------
    measured : iterable of dict
        From `measure_limits`. Those of busy machines do not count.

    Returns
    -------
    dict
        ``cpu`` and ``cuda``, as from `measure_limits`, where they were measured at all.
    """
    best: Limits = {}
    for limits in measured:
        if limits.get("busy"):
            continue
        for device in limits.keys() & {"cpu", "cuda"}:
            found = limits[device]
            kept = best.setdefault(device, {"gflop_s": {}, "how": {}, "missing": {}})
            kept |= {key: found[key] for key in found.keys() & {"name"}}
            kept["missing"] |= found.get("missing", {})
            for path, rate in _leaves({key: found[key] for key in _RATES if key in found}):
                if rate > _at(kept, path, 0.0):
                    _put(kept, path, rate)
                    if how := _at(found, ("how", *path[1:]), ""):
                        _put(kept, ("how", *path[1:]), how)
    for kept in best.values():
        kept["missing"] = {name: why for name, why in kept["missing"].items() if name not in kept["gflop_s"]}
    return best


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _at(tree: Mapping[str, Any], path: tuple[str, ...], default: Any) -> Any:
    for key in path:
        tree = tree.get(key, {})
    return tree or default


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def device_of(provider: str) -> str:
    """Return whose limits hold for a provider: "cpu" or "cuda"."""
    return "cuda" if provider in ("cuda", "tensorrt") else "cpu"


def limit_of(
    limits: Limits | None, precision: str, cores: int = 1, on: str = "cpu", rate: str = "gflop_s"
) -> float | None:
    """Return a limit; None where it was not measured, or on a busy machine.

    Parameters
    ----------
    limits : dict or None
        From `measure_limits` or `best_limits`.
    precision : str
        Of the product; of no meaning for copies.
    cores : int
        That compute; of no meaning on CUDA.
    on : {"cpu", "cuda"}
        Where it is computed.
    rate : {"gflop_s", "copy_gb_s"}
        A product's in GFLOP/s, or a copy's in GB/s, read and written.
    """
    if limits is None or limits.get("busy"):
        return None
    found = limits.get(on, {}).get(rate)
    if rate == "gflop_s" and found is not None:
        found = found.get(precision)
    return found.get(str(cores)) if isinstance(found, Mapping) else found


def fraction_of_limit(
    flop: float,
    seconds: float,
    limits: Limits | None,
    precision: str = "fp32",
    cores: int = 1,
    on: str = "cpu",
) -> float | None:
    """Return what part of the limit some work reached.

    Parameters
    ----------
    flop : float
        Floating-point operations of the work: a contract's ``flops_per_pixel`` times the pixels really computed, which
        are the pixels of the section times its plan's ``overhead``.
    seconds : float
        That it took.
    limits : dict or None
        From `best_limits`, as ``best_limits`` of a stored record.
    precision : {"fp32", "bf16", "int8"}, on CUDA {"fp32", "tf32", "fp16"}
        Of the arithmetic.
    cores : int
        That computed; of no meaning on CUDA.
    on : {"cpu", "cuda"}
        Where it was computed.

    Returns
    -------
    float or None
        1 is the limit; above it, the measurements contradict each other. None where that limit was not measured, or on
        a busy machine, where it comes out too low.
    """
    limit = limit_of(limits, precision, cores, on)
    return None if limit is None else flop / seconds / (limit * 1e9)


def _of_cpu(seconds: float, sides: Sequence[int], copied_bytes: int) -> dict[str, Any]:
    counts = sorted({1, available_cores()})
    libraries = sum(map(len, MATRIX_PRODUCTS.values()))
    each_s = seconds / (len(counts) * (libraries * len(sides) + 2))
    found: dict[str, Any] = {"gflop_s": {}, "copy_gb_s": {}, "how": {}, "missing": {}}
    for precision, makers in MATRIX_PRODUCTS.items():
        ways, reasons = [], []
        for library, make in makers.items():
            for side in sides:
                try:
                    works = [make(side) for _ in range(max(counts))]
                    rates = {n: n * 2e-9 * side**3 / _best_s(works[:n], each_s) for n in counts}
                except (NotSupportedError, RuntimeError) as reason:
                    reasons.append(f"{library}: {str(reason).splitlines()[0]}")
                    break
                ways.append((rates, f"{library}, {side} x {side}"))
        if ways:
            best = {n: max(ways, key=lambda way, n=n: way[0][n]) for n in counts}
            found["gflop_s"][precision] = {str(n): rates[n] for n, (rates, _) in best.items()}
            found["how"][precision] = {str(n): how for n, (_, how) in best.items()}
        else:
            found["missing"][precision] = "; ".join(reasons)
    found["copy_gb_s"] = {str(n): _copy_gb_s(n, copied_bytes, 2 * each_s) for n in counts}
    return found


def _copy_gb_s(count: int, copied_bytes: int, seconds: float) -> float:
    """Copy, each core arrays of its own."""
    size = copied_bytes // count
    works = []
    for _ in range(count):
        source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
        works.append(partial(np.copyto, target, source))
    return 2e-9 * size * count / _best_s(works, seconds)


def _best_s(works: Sequence[Work], seconds: float) -> float:
    """Return the least time in which all works, a thread each, are done once; repeated for some seconds."""

    def repeated(work: Work, repeats: int) -> None:
        for _ in range(repeats):
            work()

    def together_s(repeats: int) -> float:
        started = time.perf_counter()
        list(pool.map(repeated, works, [repeats] * len(works)))
        return time.perf_counter() - started

    with ThreadPoolExecutor(len(works)) as pool:
        until = time.perf_counter() + seconds
        once_s = min(together_s(1), together_s(1))  # the first also starts the threads
        repeats = max(1, math.ceil(_BURST_S / once_s))
        best_s = together_s(repeats)
        while time.perf_counter() < until:
            best_s = min(best_s, together_s(repeats))
        return best_s / repeats


def _of_cuda(seconds: float, sides: Sequence[int], copied_bytes: int) -> dict[str, Any]:
    try:
        torch = needed("torch")
        if not torch.cuda.is_available():
            raise NotSupportedError("torch finds no CUDA device")
    except NotSupportedError as reason:
        return {"gflop_s": {}, "missing": {"cuda": str(reason)}}
    device, each_s = torch.device("cuda"), seconds / 6
    products = {}
    for precision, dtype in {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16}.items():
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        times = {}
        for side in sides:
            a, b, c = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(3))
            times[side] = _best_on_device_s(torch, partial(torch.mm, a, b, out=c), each_s / len(sides))
        products[precision] = max(2e-9 * side**3 / time_s for side, time_s in times.items())
    here, there = (torch.ones(copied_bytes, dtype=torch.uint8, device=device) for _ in range(2))
    pinned = torch.ones(copied_bytes, dtype=torch.uint8).pin_memory()
    size_gb = 1e-9 * len(pinned)
    return {
        "name": torch.cuda.get_device_name(device),
        "gflop_s": products,
        "copy_gb_s": 2 * size_gb / _best_on_device_s(torch, lambda: there.copy_(here), each_s),
        "to_device_gb_s": size_gb
        / _best_on_device_s(torch, lambda: here.copy_(pinned, non_blocking=True), each_s),
        "from_device_gb_s": size_gb
        / _best_on_device_s(torch, lambda: pinned.copy_(here, non_blocking=True), each_s),
        "missing": {},
    }


def _best_on_device_s(torch: Any, work: Work, seconds: float) -> float:
    def finished() -> None:
        for _ in range(8):
            work()
        torch.cuda.synchronize()

    return _best_s([finished], seconds) / 8


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    found.add_argument("--provider", default="cpu", help="as isbi-infer takes it [cpu]")
    found.add_argument("--seconds", type=float, default=LONG_S, help="for all measurements together [10]")
    found.add_argument("--json", action="store_true", help="print them as they are stored")
    return found


def main(argv: list[str] | None = None) -> int:
    """Print the limits of this machine."""
    asked = parser().parse_args(argv)
    if asked.json:
        print(json.dumps(measure_limits(asked.provider, asked.seconds)))
    else:
        print(json.dumps(measured_apart(asked.provider, asked.seconds), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
