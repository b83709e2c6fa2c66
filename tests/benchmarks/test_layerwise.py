"""The layerwise limit: the published table of an H100, operations as the exported graph counts them, and its laws."""

import pytest
import torch

from benchmarks.layerwise import Layer, Peaks, layerwise_limits, seconds
from benchmarks.network_layers import layers_of
from benchmarks.store import newest
from isbi_export.formats.deployable import Deployable
from isbi_export.formats.onnx_export import OPSET, graph_of
from isbi_export.graph.analysis.analyse import analyse
from isbi_train.config import NetworkConfig
from isbi_train.networks.network import UNet

H100_FP16 = Peaks(flop_s=790e12, bytes_s=3.0e12, bytes_per_value=2)


def layers(side=512, **config):
    with torch.device("meta"):  # weights cost time and do not matter
        network = UNet(NetworkConfig(**config)).eval()
    return layers_of(Deployable(network), (side, side))


@pytest.mark.parametrize(
    ("base", "fused", "separate"), [(64, 1819, 983), (32, 5789, 2460), (16, 14668, 5398)]
)
def test_the_table_of_an_h100_in_fp16_comes_out_within_a_thousandth(base, fused, separate):
    found = layers(base=base, depth=4, unshuffle=1)
    assert 1 / seconds(found, H100_FP16, fused=True) == pytest.approx(fused, rel=1e-3)
    assert 1 / seconds(found, H100_FP16, fused=False) == pytest.approx(separate, rel=1e-3)


@pytest.mark.parametrize(
    "config", [{"base": 2, "depth": 2, "unshuffle": 1}, {"base": 3, "depth": 1, "unshuffle": 2}]
)
def test_operations_are_those_of_the_exported_graph(config):
    module = Deployable(UNet(NetworkConfig(**config)).eval())
    graph = analyse(graph_of(module, OPSET).SerializeToString())
    assert sum(layer.flop for layer in layers_of(module, (64, 32))) == pytest.approx(
        graph.flops_per_pixel * 64 * 32
    )


def test_a_limit_grows_with_the_image_and_shrinks_with_faster_memory():
    once, twice = layers(32, base=2, depth=2, unshuffle=1), layers(64, base=2, depth=2, unshuffle=1)
    faster = Peaks(H100_FP16.flop_s, 2 * H100_FP16.bytes_s, 2)
    for fused in (True, False):
        assert seconds(twice, H100_FP16, fused=fused) == pytest.approx(
            4 * seconds(once, H100_FP16, fused=fused)
        )
        assert seconds(once, faster, fused=fused) < seconds(once, H100_FP16, fused=fused)


def test_a_layer_takes_the_longer_of_computing_and_moving():
    peaks = Peaks(flop_s=100, bytes_s=8, bytes_per_value=4)
    assert seconds([Layer(flop=300, values=2, more_values=4)], peaks, fused=True) == 3
    assert seconds([Layer(flop=300, values=8, more_values=4)], peaks, fused=True) == 4
    assert seconds([Layer(flop=300, values=2, more_values=4)], peaks, fused=False) == 5


def test_limits_are_returned_only_where_the_machine_s_own_are_known():
    network = layers(64, base=2, depth=2, unshuffle=1)
    cpu = {"gflop_s": {"fp32": {"2": 200.0}}, "copy_gb_s": {"2": 20.0}}
    found = layerwise_limits(network, {"cpu": cpu}, "fp32", 2)
    assert 0 < found["fused_s"] < found["separate_s"]
    assert layerwise_limits(network, {"cpu": cpu}, "int8", 2) == {}
    assert layerwise_limits(network, {"cpu": cpu}, "fp32", 16) == {}
    assert layerwise_limits(network, {"cuda": {"gflop_s": {}}}, "fp16", on="cuda") == {}
    assert layerwise_limits(network, None, "fp32") == {}


def test_stored_layers_are_those_of_the_stored_network():
    records = [record for record in newest().values() if "layers" in record["measured"]]
    assert records
    for record in records:
        stored = [Layer(**layer) for layer in record["measured"]["layers"]]
        assert stored == layers(record["settings"]["side"], **record["settings"]["network"])
