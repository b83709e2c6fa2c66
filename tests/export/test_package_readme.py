"""What a package's README says of a model: what its contract knows, and no more."""

from dataclasses import replace

import pytest
import torch

from isbi_export.bioimage.description import Terms
from isbi_export.bioimage.readme import readme
from isbi_export.publish import publish
from isbi_infer.model.contract import read_contract
from isbi_models import released_models
from isbi_train.config import NetworkConfig

TERMS = Terms(name="a model", licence="CC-BY-4.0", authors=("Ada Lovelace",))


def released(name):
    return read_contract(released_models()[name].path.read_bytes())


@pytest.fixture(scope="module")
def bare(seasoned, proved_on_onnxruntime_alone, tmp_path_factory):
    """The contract of weights without a word on their training."""
    folder = tmp_path_factory.mktemp("bare")
    network = seasoned(NetworkConfig(base=2, depth=1, unshuffle=1))
    torch.save(network.state_dict(), folder / "bare.pth")
    with proved_on_onnxruntime_alone():
        publish(folder / "bare.pth", folder, ["onnx"], arch="unet")
    return read_contract((folder / "bare.onnx").read_bytes())


def test_a_model_of_several_stacks_names_them_with_their_scores():
    contract = released("em")
    text = readme(contract, TERMS)
    names = ["isbi2012", "mouse-cortex", "fly-medulla"]
    assert f"Trained on 3 stacks ({', '.join(names)}), for their tissues, stains and microscopes." in text
    assert "one stack" not in text
    assert "of the training stacks, which were held out" in text
    assert f"|  | mean | {' | '.join(names)} |" in text
    scores = contract.provenance["scores"]
    found = [scores, *(scores["stacks"][name] for name in names)]
    means = " | ".join(f"{column['v_rand_thin']:.4f}" for column in found)
    assert f"| V_rand after border thinning | {means} |" in text
    for stack in contract.provenance["training"]["stacks"]:
        assert f"| sha256 of the images of {stack['name']} | `{stack['data_sha256']['images']}` |" in text


def test_a_model_of_one_stack_says_so():
    text = readme(released("isbi2012-unet-b32"), TERMS)
    assert "Trained on one stack, for its tissue, stain and microscope." in text
    assert "On sections 25:30 of the training stack, which were held out" in text


def test_what_is_not_known_of_bare_weights_is_not_claimed(bare):
    text = readme(bare, TERMS)
    for name in ("pixel size", "sections", "epochs", "sha256 of the training data"):
        assert f"| {name} | not known |" in text
    assert f"| sha256 of the checkpoint | `{bare.provenance['training']['checkpoint_sha256']}` |" in text
    assert "Scores on sections held out from training are not known." in text
    assert "On what it was trained is not known." in text
    assert "how the model was trained is not known" in text
    for claim in ("None", "one stack", "No section was held out", "is how the model was trained"):
        assert claim not in text


def test_names_of_stacks_do_not_end_the_cells_of_a_table():
    contract = released("em")
    stacks = [{"name": name, "data_sha256": {"images": "0"}} for name in ("a|b", "c\nd")]
    training = {**contract.provenance["training"], "stacks": stacks}
    text = readme(replace(contract, provenance={**contract.provenance, "training": training}), TERMS)
    assert "|  | mean | a\\|b | c d |" in text
    assert "| sha256 of the images of a\\|b | `0` |" in text
