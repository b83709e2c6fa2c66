import hashlib
from pathlib import Path

import pytest

from isbi_export.graph.analysis.analyse import analyse
from isbi_export.graph.analysis.onnxfile import read_onnx
from isbi_infer.model.contract import contract_of
from isbi_models import released_models

CARD = (Path(__file__).parents[2] / "models" / "CARD.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("model", released_models().values(), ids=lambda model: model.name)
def test_file_registry_card_checkpoint_and_contract_agree(model):
    checkpoint = hashlib.sha256(model.path.with_suffix(".pth").read_bytes()).hexdigest()
    assert checkpoint in CARD
    assert {"float32", "int8"} <= set(model.files)
    for precision, file in model.files.items():
        content = file.path.read_bytes()
        contract, graph = contract_of(read_onnx(content).metadata), analyse(content)
        assert hashlib.sha256(content).hexdigest() == file.sha256
        assert file.sha256 in CARD
        assert contract.precision == precision
        assert contract.training["checkpoint_sha256"] == checkpoint
        assert (contract.stride, contract.halo, contract.exact) == (graph.stride, graph.halo, graph.exact)
    assert f"{contract.scores['v_rand_thin']:.4f}" in CARD
    assert f"{contract.scores['v_info_thin']:.4f}" in CARD
