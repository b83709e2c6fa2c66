"""Weights that cannot be used: refused with what they hold, and nothing in them is run."""

import os
import pickle
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks_at_hand import CONFIG
from safetensors.torch import save

from isbi_infer.errors import ModelError
from isbi_train.networks.checkpoint import save_checkpoint
from isbi_train.networks.network import UNet
from isbi_train.networks.weights import load_weights


class Payload:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("new", [True, False])
def test_a_payload_among_the_weights_is_refused_and_not_run(stored, weights, tmp_path, new):
    path = stored({**weights, "x": Payload(tmp_path / "pwned")}, _use_new_zipfile_serialization=new)
    with pytest.raises(ModelError, match=r"could run code, and is not opened; save the weights alone"):
        load_weights(path)
    assert not (tmp_path / "pwned").exists()


def test_a_pickle_is_refused_and_not_run(tmp_path):
    for protocol in (2, 4):
        path = tmp_path / "weights.pth"
        path.write_bytes(pickle.dumps({"a": Payload(tmp_path / "pwned")}, protocol))
        with pytest.raises(ModelError, match=r"weights\.pth"):
            load_weights(path)
    assert not (tmp_path / "pwned").exists()


def test_a_whole_network_is_refused_and_told_how_to_be_saved(stored):
    with pytest.raises(ModelError, match=r"torch\.save\(model\.state_dict\(\)"):
        load_weights(stored(UNet(CONFIG)))


@settings(max_examples=settings().max_examples * 2 // 3)
@given(kept=st.floats(0, 1, exclude_max=True), kind=st.sampled_from(["zip", "before 1.6", "safetensors"]))
def test_a_truncated_file_is_a_model_error_on_one_line(tmp_path_factory, weights, kept, kind):
    folder = tmp_path_factory.getbasetemp()
    path = folder / ("cut.safetensors" if kind == "safetensors" else "cut.pth")
    if kind == "safetensors":
        whole = save(dict(weights))
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind == "zip")
        whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ModelError, match=re.escape(path.name)) as raised:
        load_weights(path)
    assert "\n" not in str(raised.value)


@settings(max_examples=settings().max_examples * 2 // 3)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_header_of_safetensors_never_gives_another_network(
    tmp_path_factory, weights, where, bit
):
    content = bytearray(save(dict(weights)))
    header = 8 + int.from_bytes(content[:8], "little")
    content[int(where * header)] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    path.write_bytes(content)
    try:
        found = load_weights(path, "unet")
    except ModelError:
        return
    assert found.network == CONFIG


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n", "git lfs pull"),
        (b"", "not a readable"),
        (b"<html>404</html>", "not a readable"),
        (b"\x80\x02", "weights"),
    ],
    ids=["lfs", "empty", "html", "two bytes"],
)
def test_files_that_are_something_else_say_what_is_wrong(tmp_path, suffix, content, said):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"weights\{suffix}: .*{said}" if said != "weights" else said):
        load_weights(path)


def test_a_missing_file_and_a_folder_are_model_errors(tmp_path):
    for name in ("no.pth", "no.safetensors"):
        with pytest.raises(ModelError, match="no such checkpoint"):
            load_weights(tmp_path / name)
    with pytest.raises(ModelError, match="not a readable checkpoint"):
        load_weights(tmp_path)


def test_missing_and_unexpected_names_are_both_listed(stored, weights):
    changed = {name: w for name, w in weights.items() if name not in ("head.bias", "bottom.0.weight")}
    with pytest.raises(
        ModelError, match=r"missing \['bottom\.0\.weight', 'head\.bias'\], unexpected \['tail'\]"
    ):
        load_weights(stored({**changed, "tail": torch.zeros(1)}))


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("decoder.0.0.weight", (4, 8, 5, 5), r"decoder\.0\.0\.weight is \(4, 8, 5, 5\), expected"),
        ("head.bias", (), r"head\.bias is \(\), expected \(4,\)"),
        ("bottom.0.weight", (7, 4, 3, 3), r"\(7, 4, 3, 3\)|expected|is \("),
        ("encoder.0.0.weight", (2, 3, 3, 3), "returns 3 maps"),
    ],
)
def test_weights_of_wrong_shapes_are_named(stored, weights, name, shape, said):
    with pytest.raises(ModelError, match=said):
        load_weights(stored({**weights, name: torch.zeros(shape)}))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_counted_and_named(stored, tmp_path, weights, checkpoint, number):
    broken = {**weights, "head.bias": torch.full((4,), number)}
    save_checkpoint(tmp_path / "own.pth", checkpoint)
    own = torch.load(tmp_path / "own.pth", weights_only=True)
    own["state_dict"]["head.bias"].fill_(number)
    for content in (broken, own):
        with pytest.raises(ModelError, match=r"NaN or infinite numbers in 1 weights \(head\.bias first\)"):
            load_weights(stored(content))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds no weights but a list"),
        ({}, r"holds no weights but keys \[\]"),
        ({"epoch": 3}, r"holds no weights but keys \['epoch'\]"),
        ({"state_dict": {}}, "holds no weights"),
    ],
)
def test_a_file_without_weights_says_what_it_holds(stored, content, said):
    with pytest.raises(ModelError, match=said):
        load_weights(stored(content))


STRANGE = {
    "complex": torch.ones(1, dtype=torch.complex64),
    "sparse": torch.ones(1).to_sparse(),
    "on no device": torch.ones(1, device="meta"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_checkpoint_of_this_project_with_tensors_of_another_kind_is_refused(tmp_path, checkpoint, kind):
    path = tmp_path / "model.pth"
    weights = {**checkpoint.state_dict, "head.bias": STRANGE[kind]}
    save_checkpoint(path, replace(checkpoint, state_dict=weights))
    with pytest.raises(ModelError, match=r"head\.bias is of another kind .*, expected a dense tensor"):
        load_weights(path)


@pytest.mark.parametrize(
    "strange", [3, "text", torch.ones(2, dtype=torch.int8), torch.eye(2).to_sparse(), *STRANGE.values()]
)
def test_what_is_no_floating_point_tensor_is_named(stored, weights, strange):
    with pytest.raises(ModelError, match=r"no tensors of floating-point numbers are \['head\.bias'\]"):
        load_weights(stored({**weights, "head.bias": strange}))
