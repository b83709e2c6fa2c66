"""Exactness of separable convolutions, at widths for which runtimes have kernels of their own and others."""

import onnx
import pytest
from drawn import synthetic_stack
from hypothesis import given, settings
from hypothesis import strategies as st

from isbi_export.contracts import contract_for
from isbi_export.formats.calibration import Calibration
from isbi_export.formats.deployable import Deployable
from isbi_export.formats.exported import Exported
from isbi_export.formats.onnx_export import OPSET
from isbi_export.graph.analysis.analyse import analyse
from isbi_export.graph.metadata import write_onnx
from isbi_export.variants import plan_variants
from isbi_infer import Segmenter
from isbi_infer.run.tissue import Tissue
from isbi_train.config import NetworkConfig
from isbi_train.networks.checkpoint import Weights

VARIANTS = plan_variants(["onnx"], ["fp32", "fp16", "int8"])
CONFIGS = [
    NetworkConfig(base=3, depth=1, unshuffle=1, separable=True),
    NetworkConfig(base=16, depth=1, unshuffle=2, separable=True),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory, seasoned):
    """The folder of each network's files: float32, float16 and int8."""
    folders = {}
    image_ZYX, _ = synthetic_stack(2, 64, 64)
    for config in CONFIGS:
        folder = folders[config] = tmp_path_factory.mktemp("separable")
        network = seasoned(config)
        weights = Weights(network=config, state_dict=network.state_dict())
        calibration = Calibration(sections=tuple((Tissue.of(image_YX),) for image_YX in image_ZYX), source={})
        made = Exported(Deployable(network), OPSET, 0, calibration)
        analysis = analyse(made.graph("float32").SerializeToString())
        for variant in VARIANTS:
            contract = contract_for(weights, "0" * 64, analysis, variant)
            write_onnx(folder / f"model{variant.suffix}", made.graph_for(variant), contract)
    return folders


@settings(max_examples=settings().max_examples // 2)
@given(
    config=st.sampled_from(CONFIGS),
    variant=st.sampled_from(VARIANTS),
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    extra=st.integers(1, 9),
    batch=st.integers(1, 3),
    seed=st.integers(0, 100),
)
def test_tiled_equals_whole_bit_for_bit(
    exported, tissue_YX, config, variant, height, width, extra, batch, seed
):
    path = exported[config] / f"model{variant.suffix}"
    whole = Segmenter(path, provider="cpu")
    tile = 2 * whole.contract.halo + extra * whole.contract.stride
    section_YX = tissue_YX[seed : seed + height, seed : seed + width]
    assert whole.contract.exact
    tiled_YX = Segmenter(path, provider="cpu", tile=tile, batch=batch)(section_YX)
    assert (tiled_YX == whole(section_YX)).all()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_depthwise_convolutions_are_quantised_channel_by_channel(exported, config):
    model = onnx.load(exported[config] / "model.int8.onnx")
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    sources = {output: node for node in model.graph.node for output in node.output}
    depthwise = []
    for node in model.graph.node:
        groups = {a.name: a.i for a in node.attribute}.get("group", 1)
        if node.op_type == "Conv" and groups > 1:
            source = sources[node.input[1]]
            assert source.op_type == "DequantizeLinear"
            assert shapes[source.input[0]] == (groups, 1, 3, 3)
            assert shapes[source.input[1]] == (groups,)
            depthwise.append(groups)
    base = config.base
    assert depthwise == [base, base, 2 * base, 2 * base, base]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_contract_counts_the_operations_of_both_halves(exported, config):
    base, folded = config.base, config.unshuffle**2
    # Per pixel of the first level: 3x3 of each channel and 1x1 over all; the level below has a quarter of the pixels.
    first = 9 * folded * base + (9 * base + base * base)
    bottom = (9 * base + base * 2 * base) + (9 * 2 * base + 2 * base * 2 * base)
    upsample = 2 * base * base
    decoder = (9 * 2 * base + 2 * base * base) + (9 * base + base * base)
    head = base * folded
    convolutions = 2 * (first + bottom / 4 + upsample + decoder + head) / folded
    found = Segmenter(exported[config] / "model.onnx", provider="cpu").contract.flops_per_pixel
    assert convolutions <= found <= 1.2 * convolutions + 20 * base
