"""Whole runs from TIFF to TIFF: what precision, batch, tile, output and flips cost, against the default settings."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod

import numpy as np
import pytest

from isbi_infer import Segmenter
from isbi_infer.model.devices import rows

# Without what gains nothing there: a CPU computes float16 in float32, CUDA has no convolution of int8.
PRECISIONS = {"cpu": ("fp32", "int8"), "openvino": ("fp32", "bf16", "int8")}
ON_GPU = ("fp32", "fp16")
BATCHES = {"cpu": (1, 2, 4, 8), "openvino": (1, 2, 4, 8)}
BATCHES_ON_GPU = (1, 2, 4, 8, 16, 32, 64)
TILES = (256, 512)
MORE_SIDE = 1024  # of the sections that are tiled, or computed eight times
QUICK_TILE, QUICK_SIDE = 416, 448  # the smallest tile there is, and what takes more than one
SECTIONS, MORE = "throughput", "throughput-more-work"


@dataclass(frozen=True, slots=True)
class Setting:
    """What a user may ask of a run; the output is float32 and the rest is left to the program where it is not given."""

    precision: str
    batch: int | None = None
    tile: int | None = None
    tta: bool = False
    dtype: str = "float32"

    def __str__(self) -> str:
        parts = [self.precision]
        parts += [f"batch {self.batch}"] if self.batch else []
        parts += [f"tile {self.tile}"] if self.tile else []
        parts += ["--tta"] if self.tta else []
        parts += [f"{self.dtype} output"] if self.dtype != "float32" else []
        return ", ".join(parts)


def precisions_on(provider: str) -> tuple[str, ...]:
    """Return the precisions that are compared on a device; those that a processor would emulate are not."""
    known = PRECISIONS.get(provider, ON_GPU)
    if provider != "openvino":
        return known
    from isbi_infer.backends.openvino import native_precisions

    native = native_precisions(next(rows("onnx", provider)))
    return tuple(name for name in known if name in native)


def settings_of_sections(provider: str, precision: str, quick: bool) -> list[Setting]:
    """List what is compared on 30 small sections, the default first."""
    precisions = dict.fromkeys((precision, *precisions_on(provider)))
    batches = (2,) if quick else BATCHES.get(provider, BATCHES_ON_GPU)
    return [
        *(Setting(name) for name in precisions),
        *(Setting(precision, batch=batch) for batch in batches),
        Setting(precision, dtype="uint8"),
    ]


def settings_of_more_work(precision: str, quick: bool) -> list[Setting]:
    """List what computes several times as many pixels, after the default: the largest tile."""
    tiles = (QUICK_TILE,) if quick else TILES
    return [
        Setting(precision),
        *(Setting(precision, tile=tile) for tile in tiles),
        Setting(precision, tta=True),
    ]


def pytest_generate_tests(metafunc):
    if "setting" in metafunc.fixturenames:
        asked = metafunc.config.option
        settings = settings_of_sections(asked.provider, asked.precision, asked.benchmark_disable)
        metafunc.parametrize("setting", settings, ids=str)


@pytest.fixture(scope="module")
def stacks(small_ZYX, large_YX, write_sections, options):
    """Return a stack by the comparison that it is for: its shape and its path."""
    side = QUICK_SIDE if options.quick else min(MORE_SIDE, len(large_YX))
    more_ZYX = np.stack([large_YX[:side, :side], large_YX[:side, :side][::-1]])
    return {
        name: (stack_ZYX.shape, write_sections(stack_ZYX))
        for name, stack_ZYX in ((SECTIONS, small_ZYX), (MORE, more_ZYX))
    }


@pytest.fixture(scope="module")
def runs(stacks, tmp_path_factory, options):
    """Build a run from file to file by what is compared and the setting; each model is opened once."""
    target = tmp_path_factory.mktemp("throughput") / "out.tif"
    opened = {}

    def built(name, setting):
        asked = {key: value for key, value in asdict(setting).items() if key != "dtype"}
        key = tuple(asked.values())
        if key not in opened:
            opened[key] = Segmenter(provider=options.provider, **asked)
        segmenter, source = opened[key], stacks[name][1]
        return segmenter, lambda: segmenter.segment_file(source, target, dtype=setting.dtype)

    yield built
    target.unlink(missing_ok=True)


def work(segmenter, setting, shape):
    """Count what a run computes."""
    run_plan = segmenter.plan(shape, dtype=setting.dtype)
    plan = run_plan.section
    pixels = prod(shape)
    computed = plan.overhead * pixels * len(run_plan.views)
    return {
        "sections": shape[0],
        "pixels": pixels,
        "pixels_computed_per_pixel": computed / pixels,
        "gflop": computed * segmenter.contract.flops_per_pixel / 1e9,
        "tile_shape": plan.tile_shape,
        "batch": run_plan.batch,
        "precision": setting.precision,
        "model_sha256": segmenter.model_sha256,
    }


@pytest.mark.parametrize("name", [SECTIONS, MORE])
def test_settings_ratio(name, compare, keep, say, stacks, runs, options):
    if name == SECTIONS:
        settings = settings_of_sections(options.provider, options.precision, options.quick)
    else:
        settings = settings_of_more_work(options.precision, options.quick)
    shape = stacks[name][0]
    built = {str(setting): (setting, *runs(name, setting)) for setting in settings}
    counted = {title: work(segmenter, setting, shape) for title, (setting, segmenter, _) in built.items()}
    found, summaries = compare(name, {title: run for title, (_, _, run) in built.items()}, str(settings[0]))
    for title, summary in summaries.items():
        assert summary.provider == options.provider
        seconds, counts = found["contenders"][title]["wall_median_s"], counted[title]
        say(
            f"{name}: {title}: {counts['pixels'] / seconds / 1e6:.2f} Mpx/s, {shape[0] / seconds:.1f} sections/s, "
            f"{counts['gflop'] / seconds:.0f} GFLOP/s"
        )
    keep(name, found | {"work": counted}, shape=shape)


def test_whole_run(benchmark, setting, stacks, runs):
    shape = stacks[SECTIONS][0]
    benchmark.group = f"TIFF to TIFF {'x'.join(map(str, shape))}"
    segmenter, run = runs(SECTIONS, setting)
    summary = benchmark.pedantic(run, rounds=1, iterations=1)
    benchmark.extra_info.update(work(segmenter, setting, shape))
    assert summary.sections == shape[0]
