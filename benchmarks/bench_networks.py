"""Networks by width: sections of 512 x 512 a second by precision and batch, against torch, torch.compile and MONAI.

On a CPU the classic U-Net of base 16 and the released architecture; with --full also base 32 and 64 and torch.compile.
On CUDA all of them, with batches of 1, 8 and 64; with --full all powers of two.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from isbi_infer.errors import ResourceError

from . import measure
from .gpu import busy_share
from .limits import device_of

SIDE = 512
CLASSIC, RELEASED = {"depth": 4, "unshuffle": 1}, "released"
NETWORKS = {
    "b16": {"base": 16, **CLASSIC},
    RELEASED: {},  # the default architecture
    "b32": {"base": 32, **CLASSIC},
    "b64": {"base": 64, **CLASSIC},
}
SHORT = ("b16", RELEASED)
TINY = {"tiny": {"base": 4, "depth": 2, "unshuffle": 1}}
TINY_SIDE = 64
# torch and MONAI warn of things to come.
pytestmark = pytest.mark.filterwarnings("ignore")


def on_gpu(provider):
    return device_of(provider) == "cuda"


def pytest_generate_tests(metafunc):
    if "network" in metafunc.fixturenames:
        asked = metafunc.config.option
        everything = asked.full or on_gpu(asked.provider)
        names = TINY if asked.benchmark_disable else NETWORKS if everything else SHORT
        metafunc.parametrize("network", names)


def batches(options):
    if options.quick:
        return (2,)
    if not on_gpu(options.provider):
        return (1, 2, 4)
    return (1, 2, 4, 8, 16, 32, 64) if options.full else (1, 8, 64)


def sections_for(batch, options):
    """Return enough sections for all workers to be busy, and for starting and ending to be little of a GPU's time."""
    if options.quick:
        return batch
    return max(32, 4 * batch) if on_gpu(options.provider) else max(4, 2 * batch)


@pytest.fixture
def case(network, drawn_ZYX, options, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip(
        "isbi_export.formats.exported", reason="the packages of isbi-export are not installed"
    )
    from isbi_train.config import NetworkConfig

    from .networks import Case

    config = NetworkConfig(**(TINY | NETWORKS)[network])
    side = TINY_SIDE if options.quick else SIDE
    most = sections_for(max(batches(options)), options)
    stack_ZYX = np.ascontiguousarray(np.resize(drawn_ZYX[:, :side, :side], (most, side, side)))
    return Case(config, stack_ZYX, tmp_path, options.provider, options.quick)


def ready(case, entrants, batch, sections):
    """Build who can take part, and run each once; return the runs, and why others do not take part."""
    import torch

    runs, skipped = {}, {}
    for name, contender in entrants.items():
        try:
            runs[name] = contender.build(case, batch, sections)
            runs[name]()
        except pytest.skip.Exception as reason:
            skipped[name] = str(reason)
        except (ResourceError, torch.OutOfMemoryError) as error:
            runs.pop(name, None)
            skipped[name] = f"not enough memory for a batch of {batch} ({str(error)[:80]})"
    return runs, skipped


def test_sections_per_second(network, case, benchmark, options, keep, say, monkeypatch, caplog):
    import torch

    from .networks import contenders

    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    baseline, entrants = contenders(options.provider, options.full)
    by_batch, load = {}, []

    def run_all():
        for batch in batches(options):
            sections = sections_for(batch, options)
            runs, skipped = ready(case, entrants, batch, sections)
            if baseline not in runs:
                pytest.fail(f"{network}, {skipped[baseline]}", pytrace=False)
            rounds = measure.interleaved(runs, options.rounds, warm_up=not options.quick)
            found = measure.compared(rounds, baseline)
            load.extend(found["load_average"])
            reference = rounds.results[baseline].astype(int)
            busy = busy_share(runs[baseline]) if on_gpu(options.provider) else None
            by_batch[str(batch)] = found | {
                "sections": sections,
                "skipped": skipped,
                "busy_share": busy,
                "largest_difference": {
                    name: int(np.abs(result - reference).max()) for name, result in rounds.results.items()
                },
            }
            report(batch, by_batch[str(batch)])

    def report(batch, found):
        for name, times in found["contenders"].items():
            ratio = "{median:.2f} ({q1:.2f} to {q3:.2f})".format(**times["wall_ratio"])
            say(
                f"{network}, batch {batch}: {name}: {found['sections'] / times['wall_median_s']:.1f} sections/s, "
                f"times as long as {baseline}: {ratio}; differs by at most {found['largest_difference'][name]}/255"
            )
        for name, reason in found["skipped"].items():
            say(f"{network}, batch {batch}: skipped {name}: {reason}")

    benchmark.group = "networks: all batches and rounds together"
    benchmark.pedantic(run_all, rounds=1, iterations=1)
    layers = case.layers()
    reduced = [record.getMessage() for record in caplog.records if record.name.startswith("isbi_infer.")]
    for line in reduced:
        say(f"{network}: {line}")
    keep(
        f"networks-{network}",
        {
            "load_average": load,
            "by_batch": by_batch,
            "precisions": {name: contender.precision for name, contender in entrants.items()},
            "layers": [asdict(layer) for layer in layers],
            "notes": reduced,
        },
        network=case.config.to_plain(),
        side=case.stack_ZYX.shape[1],
        flop_per_section=sum(layer.flop for layer in layers),
    )
