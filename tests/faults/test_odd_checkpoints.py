"""Checkpoints that torch opens and no training wrote: a clean refusal before anything is computed or exported."""

import copy
import operator
import re
from functools import reduce

import pytest
import torch
from tiny_files import tiny_checkpoint

from isbi_export.contracts import contract_for
from isbi_export.graph.analysis.analyse import Context, GraphAnalysis
from isbi_export.variants import Variant
from isbi_infer.errors import IsbiError, ModelError
from isbi_infer.model.contract import parse_contract
from isbi_train.networks.checkpoint import load_checkpoint, save_checkpoint
from isbi_train.networks.weights import load_weights

HEAD = "head.weight"


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """What the file of a good checkpoint holds."""
    path = tmp_path_factory.mktemp("good") / "good.pth"
    save_checkpoint(path, tiny_checkpoint())
    return torch.load(path, weights_only=True)


@pytest.fixture
def refused(tmp_path):
    def check(held):
        path = tmp_path / "odd.pth"
        torch.save(held, path)
        with pytest.raises(ModelError) as raised:
            load_weights(path)
        line = str(raised.value)
        assert line.startswith(f"{path}: ")
        assert "\n" not in line
        return line

    return check


SIZES = (2, 3)
KINDS = {
    "complex": lambda weight: weight.to(torch.complex64),
    "sparse": lambda weight: weight.to_sparse(),
    "compressed sparse": lambda weight: weight.reshape(1, -1).to_sparse_csr(),
    "nested": lambda _: torch.nested.nested_tensor([torch.zeros(size) for size in SIZES]),
    "jagged": lambda _: torch.nested.nested_tensor(
        [torch.zeros(size) for size in SIZES], layout=torch.jagged
    ),
    "quantised": lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
    "on no device": lambda weight: weight.to("meta"),
    "integers": lambda weight: weight.int(),
    "truth": lambda weight: weight.bool(),
    "expanded": lambda weight: torch.zeros(()).expand(weight.shape),
    "expanded beyond any memory": lambda _: torch.zeros(()).expand(10**7, 10**7),
    "a list": lambda _: [1.0],
    "nothing": lambda _: None,
    "a text": lambda _: "weight",
    "a table": lambda weight: {"weight": weight},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bare", [False, True], ids=["checkpoint", "bare weights"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_of_another_kind_is_refused_by_name(plain, refused, kind, bare):
    weights = dict(plain["state_dict"])
    weights[HEAD] = KINDS[kind](weights[HEAD])
    line = refused(weights if bare else {**plain, "state_dict": weights})
    assert HEAD in line or "could run code" in line


def circle():
    held = {}
    held["state_dict"] = held
    return held


def beside_weights():
    held = {"model": {HEAD: torch.zeros(1)}}
    held["callbacks"] = [held]
    return held


def unfolding(width=50, depth=6):
    held = {"state_dict": {HEAD: torch.zeros(1)}}
    inner = {str(i): 0 for i in range(width)}
    for _ in range(depth):
        inner = {str(i): inner for i in range(width)}
    return held | {"callbacks": inner}


@pytest.mark.parametrize("make", [circle, beside_weights, unfolding])
def test_parts_within_parts_without_end_are_refused_and_not_followed(refused, make):
    assert "parts within parts without end" in refused(make())


def places(held, path=()):
    """Yield the way to every part that is no tensor."""
    if path:
        yield path
    inner = held.items() if isinstance(held, dict) else enumerate(held) if isinstance(held, list) else ()
    for name, part in inner:
        if not isinstance(part, torch.Tensor):
            yield from places(part, (*path, name))


ODD = [
    None,
    True,
    -1,
    10**30,
    float("nan"),
    float("inf"),
    "x",
    "\x1b[2J",
    b"x",
    [],
    {},
    (1,),
    torch.zeros(2),
    [{}],
]


def everything_read_of(weights):
    """Do what export and training do with a checkpoint."""
    graph = GraphAnalysis(
        stride=2,
        context=Context(8, 8, 8, 8),
        halo=8,
        exact=True,
        reasons=(),
        flops_per_pixel=1.0,
        activation_bytes_per_pixel=1.0,
    )
    contract = contract_for(weights, "0" * 64, graph, Variant(file_format="onnx"))
    document = contract.to_json()
    assert parse_contract(document).to_json() == document
    weights.load_network()


@pytest.mark.parametrize("step", [17, pytest.param(1, marks=pytest.mark.more)])
def test_whatever_stands_in_a_checkpoint_is_used_or_refused(plain, tmp_path, step, figures):
    path = tmp_path / "odd.pth"
    cases = [(way, odd) for way in places(plain) for odd in ODD][::step]
    figures(odd_checkpoints=len(cases))
    said = []
    for way, odd in cases:
        held = copy.deepcopy(plain)
        reduce(operator.getitem, way[:-1], held)[way[-1]] = odd
        torch.save(held, path)
        try:
            everything_read_of(load_weights(path))
        except IsbiError as error:
            said.append(str(error))
    for line in said:
        assert re.match(f"{re.escape(str(path))}: |damaged", line)
        assert line.isprintable()


def test_a_checkpoint_that_is_sound_passes_all_of_this(plain, tmp_path):
    path = tmp_path / "good.pth"
    torch.save(plain, path)
    everything_read_of(load_weights(path))
    assert load_checkpoint(path).epoch == 3
