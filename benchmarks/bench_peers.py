"""One large section, the same weights: time against real peers, and what their seams cost."""

from __future__ import annotations

import pytest

from .peers import OURS, PEERS, WHOLE, Scene, differences

# Torch, MONAI and bioimageio.core warn of things to come.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def scene(large_YX, segmenter, tmp_path_factory):
    return Scene(large_YX, segmenter, tmp_path_factory.mktemp("bioimage"))


@pytest.fixture(scope="module")
def built(scene):
    """Build each peer once for the whole module; ask for it by name."""
    found = {}

    def get(name):
        if name not in found:
            found[name] = PEERS[name](scene)
        return found[name]

    return get


@pytest.fixture(scope="module")
def whole_YX(built):
    return built(WHOLE)()


@pytest.mark.parametrize("name", PEERS)
def test_one_section(benchmark, name, built, whole_YX, scene, options):
    benchmark.group = f"one section of {options.size} x {options.size}"
    result_YX = benchmark.pedantic(built(name), rounds=options.table_rounds, iterations=1)
    found = differences(result_YX, whole_YX, scene.segmenter.contract.halo)
    benchmark.extra_info.update(found)
    if name == OURS and scene.segmenter.provider == "cpu":
        assert found["largest"] == 0  # to the bit, or the comparison means nothing


def test_peers_ratio(compare, keep, say, built, whole_YX, scene, options):
    contenders, skipped = {}, {}
    for name in PEERS:
        try:
            contenders[name] = built(name)
        except pytest.skip.Exception as reason:
            skipped[name] = str(reason)
            say(f"skipped {name}: {reason}")
    title = f"peers-{options.size}"
    found, results = compare(title, contenders, OURS)
    halo = scene.segmenter.contract.halo
    errors = {name: differences(result_YX, whole_YX, halo) for name, result_YX in results.items()}
    for name, error in errors.items():
        say(
            f"{title}: {name}: differs from the whole image by at most {error['largest']:.2g} "
            f"({error['largest_inside']:.2g} away from the edges), {error['changed_class']:.3%} of pixels change class"
        )
    plan = scene.segmenter.plan(scene.image_YX.shape)
    keep(
        title,
        found | {"differences": errors, "skipped": skipped},
        size=options.size,
        section="synthetic",
        tile_shape=plan.tile_shape,
        tiles=len(plan.tiles),
        pixels_computed_per_pixel=plan.overhead,
        model_sha256=scene.segmenter.model_sha256,
    )
