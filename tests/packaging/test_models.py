"""Released files: what they, the registry, the card and the checkpoint beside them say about each other."""

import hashlib

import pytest

from isbi_export.graph.analysis.analyse import analyse
from isbi_infer.model.contract import read_contract
from isbi_models import released_models

MOST_BYTES = 40 * 10**6  # of all released files, which every clone and every installation holds


@pytest.mark.parametrize("model", released_models().values(), ids=lambda model: model.name)
def test_file_registry_card_checkpoint_and_contract_agree(model):
    card = model.card.read_text(encoding="utf-8")
    checkpoint = hashlib.sha256(model.checkpoint.path.read_bytes()).hexdigest()
    assert checkpoint == model.checkpoint.sha256
    assert checkpoint in card
    assert model.licence in card
    assert model.citation.rpartition(", doi:")[0].partition(", ")[0] in card
    assert model.terms.partition(":")[0] in card
    assert {"float32", "int8"} <= set(model.files)
    for precision, file in model.files.items():
        content = file.path.read_bytes()
        contract, graph = read_contract(content), analyse(content)
        assert hashlib.sha256(content).hexdigest() == file.sha256
        assert file.sha256 in card
        assert contract.precision == precision
        assert contract.trust_note is None
        assert contract.provenance["training"]["checkpoint_sha256"] == checkpoint
        assert (contract.stride, contract.halo, contract.exact) == (graph.stride, graph.halo, graph.exact)
    scores = read_contract(model.path.read_bytes()).provenance["scores"]
    assert f"{scores['v_rand_thin']:.4f}" in card
    assert f"{scores['v_info_thin']:.4f}" in card


def test_all_released_files_together_are_small():
    files = [
        file.path
        for model in released_models().values()
        for file in (*model.files.values(), model.checkpoint)
    ]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
