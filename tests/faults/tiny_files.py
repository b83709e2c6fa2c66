"""The smallest files that the product takes, from which the tests of faults make damaged ones."""

from dataclasses import replace

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from isbi_export.graph.metadata import stamp
from isbi_infer.model.contract import read_contract
from isbi_models import default_model
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.networks.checkpoint import Checkpoint
from isbi_train.networks.network import UNet

RELEASED = default_model().path.read_bytes()
CONTRACT = replace(
    read_contract(RELEASED),
    stride=1,
    halo=1,
    border=0,
    halo_error={},
    runtimes=(),
    familiar=None,
    provenance={},
)


def weight_named(name="weight"):
    """Return the nine weights of the tiny model."""
    return numpy_helper.from_array(np.linspace(-1, 1, 9, dtype=np.float32).reshape(1, 1, 3, 3), name)


def graph_around(nodes, initialisers=(), sparse=(), functions=()):
    """Return a model whose other nodes make "weight": a convolution with it and a sigmoid."""
    image, result = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, "height", "width"])
        for name in (CONTRACT.input_name, CONTRACT.output_name)
    )
    nodes = [
        *nodes,
        helper.make_node("Conv", [image.name, "weight"], ["logits"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["logits"], [result.name]),
    ]
    graph = helper.make_graph(
        nodes, "g", [image], [result], list(initialisers), sparse_initializer=list(sparse)
    )
    opsets = [helper.make_opsetid("", 20), *(helper.make_opsetid(f.domain, 1) for f in functions)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))


def tiny_onnx(**contract):
    """Return the bytes of a model of nine weights that runs, with a contract, of which fields may be changed."""
    return stamp(graph_around((), [weight_named()]), replace(CONTRACT, **contract))


def tiny_checkpoint():
    """Return an untrained checkpoint with everything that a trained one has."""
    torch.manual_seed(0)
    network = NetworkConfig(base=1, depth=1)
    return Checkpoint(
        network=network,
        augment=AugmentConfig(),
        train=TrainConfig(hold_out=1),
        state_dict=UNet(network).state_dict(),
        epoch=3,
        data={
            "sha256": {"images": "0" * 64, "labels": "1" * 64},
            "sections": 4,
            "pixel_size_nm": 4.0,
            "normalisation": "section-zscore",
            "init": "2" * 64,
            "teaching": {"teacher": "3" * 64},
            "origins": [{"name": "a model", "licence": "MIT", "terms": "", "citation": ""}],
        },
        scores={"sections": "3:4", "loss": 0.5, "v_rand_thin": 0.9, "v_info_thin": 0.9, "threshold": 0.5},
    )
