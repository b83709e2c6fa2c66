"""One large section, the same weights: time against real peers, and what their seams cost.

The section's side is 2048 pixels, with --full 4096, or what --size says; --full also brings every combination of
MONAI's windows.
"""

from __future__ import annotations

import pytest

from isbi_infer import Segmenter

from .peers import OURS, WHOLE, Task, contenders, differences

SHORT_SIDE = 2048
# Torch, MONAI and bioimageio.core warn of things to come.
pytestmark = pytest.mark.filterwarnings("ignore")


def _contenders(config):
    return contenders(config.option.provider, config.option.precision, config.option.full)


def pytest_generate_tests(metafunc):
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", _contenders(metafunc.config))


@pytest.fixture(scope="module")
def task(large_YX, segmenter, options, tmp_path_factory, request):
    shorter = not (options.full or options.quick or request.config.option.size)
    side = SHORT_SIDE if shorter else options.size
    fp32 = segmenter.precision == "fp32"
    return Task(
        image_YX=large_YX[:side, :side].copy(),
        segmenter=segmenter,
        reference=segmenter if fp32 else Segmenter(provider=options.provider, precision="fp32"),
        folder=tmp_path_factory.mktemp("bioimage"),
        quick=options.quick,
    )


@pytest.fixture(scope="module")
def built(task, request):
    """Build each peer once for the whole module; ask for it by name."""
    found, builds = {}, _contenders(request.config)

    def get(name):
        if name not in found:
            found[name] = builds[name](task)
        return found[name]

    return get


@pytest.fixture(scope="module")
def whole_YX(built):
    return built(WHOLE).run()


def test_one_section(benchmark, name, built, whole_YX, task, options):
    peer = built(name)
    benchmark.group = f"one section of {len(task.image_YX)} x {len(task.image_YX)}"
    result_YX = benchmark.pedantic(peer.run, rounds=options.table_rounds, iterations=1)
    found = differences(result_YX, whole_YX, task.reference.contract.halo)
    benchmark.extra_info.update(found | peer.described())
    if name == OURS and task.segmenter.provider == "cpu" and task.segmenter is task.reference:
        assert found["largest"] == 0  # to the bit, or the comparison means nothing


def test_peers_ratio(compare, keep, say, built, whole_YX, task, options, request):
    peers, skipped = {}, {}
    for name in _contenders(request.config):
        try:
            peers[name] = built(name)
        except pytest.skip.Exception as reason:
            skipped[name] = str(reason)
            say(f"skipped {name}: {reason}")
    title = f"peers-{len(task.image_YX)}"
    found, results = compare(title, {name: peer.run for name, peer in peers.items()}, OURS)
    contract = task.reference.contract
    errors = {name: differences(result_YX, whole_YX, contract.halo) for name, result_YX in results.items()}
    for name, error in errors.items():
        say(
            f"{title}: {name} ({peers[name].precision}; {peers[name].does}): differs from the whole image by at most "
            f"{error['largest']:.2g} ({error['largest_inside']:.2g} away from the edges), "
            f"{error['changed_class']:.3%} of pixels change class"
        )
    plan = task.segmenter.plan(task.image_YX.shape).section
    keep(
        title,
        found
        | {
            "differences": errors,
            "computes": {name: peer.described() for name, peer in peers.items()},
            "skipped": skipped,
        },
        size=len(task.image_YX),
        section="synthetic",
        tile_shape=plan.tile_shape,
        tiles=len(plan.tiles),
        pixels_computed_per_pixel=plan.overhead,
        flops_per_pixel=contract.flops_per_pixel,
        model_sha256=task.segmenter.model_sha256,
    )
