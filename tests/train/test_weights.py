"""Weights from elsewhere: every wrapping comes off, settings are read off the shapes, and nothing is guessed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks_at_hand import CONFIG, fresh, same
from safetensors.torch import save_file
from torch import nn

from isbi_infer.errors import UsageError
from isbi_train.config import NetworkConfig
from isbi_train.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from isbi_train.networks.network import UNet
from isbi_train.networks.weights import load_weights

PREFIXES = ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.module."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_bare_state_dictionary_comes_back_with_any_prefix(tmp_path, weights, prefix, suffix):
    path = tmp_path / f"weights{suffix}"
    prefixed = {prefix + name: value for name, value in weights.items()}
    (save_file if suffix == ".safetensors" else torch.save)(prefixed, path)
    loaded = load_weights(path)
    assert loaded.network == CONFIG
    assert same(loaded.state_dict, weights)


@pytest.mark.parametrize("keys", [["state_dict"], ["model_state_dict"], ["model"], ["model", "state_dict"]])
def test_a_state_dictionary_is_found_where_trainers_keep_it(stored, weights, keys):
    content = {f"module.{name}": value for name, value in weights.items()}
    for key in reversed(keys):
        content = {"epoch": 3, "optimizer": {"state": {0: torch.zeros(1)}}, key: content}
    assert same(load_weights(stored(content)).state_dict, weights)


def test_real_wrappers_of_torch_are_taken_off(stored):
    network = fresh(CONFIG)
    averaged = torch.optim.swa_utils.AveragedModel(network)
    for wrapped in (nn.DataParallel(network), torch.compile(network, backend="eager"), averaged):
        assert same(load_weights(stored(wrapped.state_dict())).state_dict, network.state_dict())


def test_files_of_torch_before_1_6_are_read(stored, weights):
    path = stored(weights, _use_new_zipfile_serialization=False)
    assert same(load_weights(path).state_dict, weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_become_float32(stored, weights, dtype):
    narrow = {name: w.to(dtype) if w.is_floating_point() else w for name, w in weights.items()}
    found = load_weights(stored(narrow)).state_dict
    for name, weight in narrow.items():
        assert found[name].dtype in (torch.float32, torch.int64)
        assert torch.equal(found[name], weight.to(found[name].dtype))


def test_counters_that_old_files_lack_are_not_missed(stored, weights):
    lacking = {name: w for name, w in weights.items() if not name.endswith("num_batches_tracked")}
    assert load_weights(stored(lacking)).load_network().state_dict().keys() == weights.keys()


@st.composite
def configs(draw):
    base, depth = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    arch = draw(st.sampled_from(["unet", "valid-unet"]))
    limit = draw(st.integers(base, base * 2**depth))
    return NetworkConfig(
        base=base,
        depth=depth,
        unshuffle=draw(st.sampled_from([1, 2, 4])) if arch == "unet" else 1,
        arch=arch,
        # A limit that no level reaches leaves no trace.
        widest=limit if limit < base * 2**depth else 1024,
        batch_norm=draw(st.booleans()),
        separable=arch == "unet" and draw(st.booleans()),
        dropout=0.0,
    )


@settings(max_examples=settings().max_examples * 2 // 3)
@given(config=configs(), shuffled=st.randoms())
def test_the_settings_are_inferred_from_names_and_shapes_in_any_order(tmp_path_factory, config, shuffled):
    state = UNet(config).state_dict()
    names = list(state)
    shuffled.shuffle(names)
    path = tmp_path_factory.getbasetemp() / "inferred.pth"
    torch.save({name: state[name] for name in names}, path)
    traced = config.unshuffle > 1 or config.separable
    loaded = load_weights(path, None if traced else config.arch)
    assert loaded.network == config
    assert ("separable" in loaded.notes[0]) == config.separable
    assert same(loaded.state_dict, state)


def test_an_architecture_that_leaves_no_trace_must_be_said(stored):
    config = NetworkConfig.of("valid-unet", base=2, depth=2)
    path = stored(UNet(config).state_dict())
    with pytest.raises(UsageError, match=r"weights\.pth: its weights fit unet and valid-unet alike.*--arch"):
        load_weights(path)
    assert load_weights(path, "valid-unet").network == config
    assert load_weights(path, "unet").network.stride == 4


def test_an_architecture_that_cannot_be_is_refused(stored, weights, tmp_path, checkpoint):
    path = stored(weights)
    with pytest.raises(UsageError, match="pixels are folded"):
        load_weights(path, "valid-unet")
    with pytest.raises(UsageError, match="'resnet' is not one of unet, valid-unet"):
        load_weights(path, "resnet")
    save_checkpoint(tmp_path / "own.pth", checkpoint)
    with pytest.raises(UsageError, match="is a checkpoint of arch unet, not valid-unet"):
        load_weights(tmp_path / "own.pth", "valid-unet")


def test_bare_weights_say_that_nothing_else_is_known(stored, weights):
    loaded = load_weights(stored(weights))
    assert (loaded.train, loaded.augment, loaded.data, loaded.epoch) == (None,) * 4
    assert (loaded.scores, loaded.border) == ({}, 0)
    (note,) = loaded.notes
    assert "training data, pixel size, border and scores are not known" in note
    assert not isinstance(loaded, Checkpoint)


def test_a_checkpoint_of_this_project_is_loaded_whole(tmp_path, checkpoint):
    save_checkpoint(tmp_path / "own.pth", checkpoint)
    loaded, strict = load_weights(tmp_path / "own.pth"), load_checkpoint(tmp_path / "own.pth")
    assert isinstance(loaded, Checkpoint)
    assert same(loaded.state_dict, strict.state_dict)
    assert (loaded.train, loaded.data, loaded.scores, loaded.notes) == (
        strict.train,
        strict.data,
        strict.scores,
        (),
    )
