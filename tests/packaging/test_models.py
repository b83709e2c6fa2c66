"""Released files: what they, the registry, the card and the checkpoint beside them say about each other."""

import hashlib
from pathlib import Path

import pytest

from isbi_export.graph.analysis.analyse import analyse
from isbi_infer.model.contract import read_contract
from isbi_models import released_models

CARD = (Path(__file__).parents[2] / "models" / "CARD.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("model", released_models().values(), ids=lambda model: model.name)
def test_file_registry_card_checkpoint_and_contract_agree(model):
    checkpoint = hashlib.sha256(model.checkpoint.path.read_bytes()).hexdigest()
    assert checkpoint == model.checkpoint.sha256
    assert checkpoint in CARD
    assert model.licence in CARD
    assert model.citation.rpartition(", doi:")[0].partition(", ")[0] in CARD
    assert "non-commercial" in model.terms
    assert {"float32", "int8"} <= set(model.files)
    for precision, file in model.files.items():
        content = file.path.read_bytes()
        contract, graph = read_contract(content), analyse(content)
        assert hashlib.sha256(content).hexdigest() == file.sha256
        assert file.sha256 in CARD
        assert contract.precision == precision
        assert contract.trust_note is None
        assert contract.provenance["training"]["checkpoint_sha256"] == checkpoint
        assert (contract.stride, contract.halo, contract.exact) == (graph.stride, graph.halo, graph.exact)
    scores = read_contract(model.path.read_bytes()).provenance["scores"]
    assert f"{scores['v_rand_thin']:.4f}" in CARD
    assert f"{scores['v_info_thin']:.4f}" in CARD
