"""Checkpoints: they come back whole, they run no code, and damage is an error that says what it is."""

import importlib.util
import io
import os
import pickle
import re
import resource
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isbi_infer.errors import ModelError, OutputError
from isbi_train.config import NetworkConfig
from isbi_train.networks.checkpoint import file_sha256, load_checkpoint, save_checkpoint
from isbi_train.networks.network import UNet


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.fixture
def stored(tmp_path, checkpoint):
    save_checkpoint(tmp_path / "model.pth", checkpoint)
    return tmp_path / "model.pth"


@pytest.fixture
def rewritten(stored):
    """Store the same checkpoint with some of its plain parts changed, as a newer or a foreign program might."""

    def rewrite(change):
        plain = torch.load(stored, weights_only=True)
        change(plain)
        torch.save(plain, stored)
        return stored

    return rewrite


def test_a_checkpoint_comes_back_as_it_was_saved(stored, checkpoint):
    loaded = load_checkpoint(stored)
    assert loaded.state_dict.keys() == checkpoint.state_dict.keys()
    for name, weight in checkpoint.state_dict.items():
        assert torch.equal(loaded.state_dict[name], weight)
        assert loaded.state_dict[name].dtype == weight.dtype
    plain = {**asdict(replace(loaded, state_dict={})), "slots": None}
    assert plain == {**asdict(replace(checkpoint, state_dict={})), "slots": None}


def test_the_loaded_network_computes_what_the_saved_one_did(stored, checkpoint):
    network = UNet(checkpoint.network)
    network.load_state_dict(checkpoint.state_dict)
    image_NCYX = torch.randn(1, 1, 16, 24)
    loaded = load_checkpoint(stored).load_network()
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(image_NCYX), network.eval()(image_NCYX))


def test_everything_in_a_training_checkpoint_is_plain(trained):
    paths = sorted(trained.glob("*.pth"))
    assert {"model.pth", "best.pth", "progress.pth"} <= {path.name for path in paths}
    for path in paths:
        assert isinstance(torch.load(path, weights_only=True), dict)


def test_a_pickle_with_a_payload_is_refused_and_not_run(tmp_path):
    path, target = tmp_path / "model.pth", tmp_path / "pwned"
    path.write_bytes(pickle.dumps({"format": "isbi-unet", "version": 1, "data": Payload(target)}))
    with pytest.raises(ModelError, match=r"model\.pth"):
        load_checkpoint(path)
    assert not target.exists()


def test_a_checkpoint_with_a_payload_is_refused_and_not_run(stored, tmp_path):
    target = tmp_path / "pwned"
    plain = torch.load(stored, weights_only=True)
    torch.save({**plain, "scores": Payload(target)}, stored)
    with pytest.raises(ModelError, match="could run code"):
        load_checkpoint(stored)
    assert not target.exists()


@given(kept=st.floats(0, 1, exclude_max=True))
def test_a_truncated_checkpoint_is_a_model_error(trained, tmp_path_factory, kept):
    whole = (trained / "model.pth").read_bytes()
    path = tmp_path_factory.getbasetemp() / "truncated.pth"
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ModelError, match=r"truncated\.pth: not a readable checkpoint"):
        load_checkpoint(path)


@settings(max_examples=settings().max_examples // 2)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_never_passes_for_a_weight(trained, tmp_path_factory, where, bit):
    damaged = bytearray((trained / "model.pth").read_bytes())
    expected = load_checkpoint(trained / "model.pth").state_dict
    damaged[int(where * len(damaged))] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped.pth"
    path.write_bytes(damaged)
    try:
        found = load_checkpoint(path).state_dict
    except ModelError:
        return
    assert found.keys() == expected.keys()  # what was hit is padding between the records
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_flipped_bit_in_a_weight_is_found(stored):
    with zipfile.ZipFile(stored) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size * ("/data/" in record.filename))
        with archive.open(largest) as record:
            weight = record.read()
    damaged = bytearray(stored.read_bytes())
    damaged[damaged.index(weight) + 5] ^= 1
    stored.write_bytes(damaged)
    with pytest.raises(ModelError, match="another checksum"):
        load_checkpoint(stored)


def foreign_archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"<html>404</html>",
        pickle.dumps(3),
        pickle.dumps({"a": 1}, protocol=2),
        foreign_archive(),
    ],
    ids=["empty", "one byte", "html", "number", "pickle", "zip"],
)
def test_what_is_no_checkpoint_is_a_model_error(tmp_path, content):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.pth: .*") as raised:
        load_checkpoint(path)
    assert "\n" not in str(raised.value)


def test_a_git_lfs_pointer_says_what_to_run(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7749071\n")
    with pytest.raises(ModelError, match="git lfs pull"):
        load_checkpoint(path)


def test_a_missing_checkpoint_and_a_folder_are_model_errors(tmp_path):
    with pytest.raises(ModelError, match=r"model\.pth: no such checkpoint"):
        load_checkpoint(tmp_path / "model.pth")
    with pytest.raises(ModelError, match=re.escape(str(tmp_path))):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("foreign", [{"weight": torch.zeros(3)}, [1, 2], {"format": "other"}])
def test_a_checkpoint_of_another_program_is_refused(tmp_path, foreign):
    torch.save(foreign, tmp_path / "model.pth")
    with pytest.raises(ModelError, match="not a checkpoint written by isbi-train"):
        load_checkpoint(tmp_path / "model.pth")


def test_a_checkpoint_of_a_newer_version_asks_for_an_update(rewritten):
    with pytest.raises(ModelError, match=r"version 9, this program reads 1 to 8; update"):
        load_checkpoint(rewritten(lambda plain: plain.update(version=9)))


def test_an_unknown_normalisation_asks_for_an_update(rewritten):
    with pytest.raises(ModelError, match=r"unknown normalisation 'section-median'.*update isbi-infer"):
        load_checkpoint(rewritten(lambda plain: plain["data"].update(normalisation="section-median")))


VERSION_1 = {  # the settings that files of version 1 have
    "network": "base depth unshuffle dropout",
    "augment": "rotation_deg flip scale_min scale_max elastic_px elastic_spacing_px contrast brightness gamma blur_px "
    "noise",
    "train": "epochs crop batch learning_rate weight_decay warmup_steps average hold_out checkpoint_epochs border "
    "precision device seed",
}


def as_version_1(plain):
    plain["version"] = 1
    for part, names in VERSION_1.items():
        plain[part] = {name: plain[part][name] for name in names.split()}


def test_a_checkpoint_of_version_1_means_what_it_meant(rewritten, checkpoint):
    loaded = load_checkpoint(rewritten(as_version_1))
    assert loaded.network == checkpoint.network
    assert (loaded.network.arch, loaded.network.widest, loaded.network.batch_norm) == ("unet", 1024, True)
    for part, names in VERSION_1.items():
        for name in names.split():
            assert getattr(getattr(loaded, part), name) == getattr(getattr(checkpoint, part), name)


def test_a_checkpoint_of_version_1_had_no_limit_of_width(tmp_path, checkpoint):
    network = NetworkConfig(base=1, depth=1)
    wide = replace(network, base=512, depth=2, widest=2048)
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in UNet(wide).state_dict().items()}
    narrow = torch.float8_e4m3fn  # for little memory
    weights = {name: torch.zeros(shape, dtype=narrow) for name, shape in shapes.items()}
    save_checkpoint(tmp_path / "wide.pth", replace(checkpoint, network=wide, state_dict=weights))
    plain = torch.load(tmp_path / "wide.pth", weights_only=True)
    as_version_1(plain)
    torch.save(plain, tmp_path / "wide.pth")
    assert load_checkpoint(tmp_path / "wide.pth").network == wide


def as_version_2(plain):
    plain["version"] = 2
    del plain["network"]["separable"]


@pytest.mark.parametrize("older", [as_version_1, as_version_2])
def test_no_convolution_was_separable_before_version_3(rewritten, checkpoint, older):
    assert load_checkpoint(rewritten(older)).network == replace(checkpoint.network, separable=False)


def as_version_4(plain):
    plain["version"] = 4
    del plain["train"]["affinity_weight"]


def test_no_run_learnt_affinities_before_version_5(rewritten, checkpoint):
    assert load_checkpoint(rewritten(as_version_4)).train == replace(checkpoint.train, affinity_weight=0.0)


LATER = ("average_share", "deep_weight", "cldice_weight")


def as_version_5(plain):
    plain["version"] = 5
    del plain["augment"]["shot"]
    for name in LATER:
        del plain["train"][name]


def test_noise_was_the_same_everywhere_and_averages_had_a_fixed_decay_before_version_6(rewritten, checkpoint):
    loaded = load_checkpoint(rewritten(as_version_5))
    assert loaded.augment == replace(checkpoint.augment, shot=0.0)
    assert loaded.train == replace(checkpoint.train, **dict.fromkeys(LATER, 0.0))


def as_version_6(plain):
    plain["version"] = 6
    del plain["augment"]["slip_probability"], plain["augment"]["slip_px"]


def test_no_neighbours_slipped_before_version_7(rewritten, checkpoint):
    loaded = load_checkpoint(rewritten(as_version_6))
    assert loaded.augment == replace(checkpoint.augment, slip_probability=0.0)


def as_version_7(plain):
    plain["version"] = 7
    del plain["augment"]["tone"], plain["augment"]["sharpness"]


def test_no_crop_was_bent_or_sharpened_before_version_8(rewritten, checkpoint):
    assert load_checkpoint(rewritten(as_version_7)).augment == checkpoint.augment


def test_a_separable_checkpoint_comes_back(tmp_path, checkpoint):
    config = replace(checkpoint.network, separable=True)
    weights = UNet(config).state_dict()
    save_checkpoint(tmp_path / "model.pth", replace(checkpoint, network=config, state_dict=weights))
    loaded = load_checkpoint(tmp_path / "model.pth")
    assert loaded.network == config
    assert loaded.load_network().state_dict().keys() == weights.keys()


def test_new_settings_are_not_made_up_for_a_file_of_this_version(rewritten):
    with pytest.raises(ModelError, match=r"NetworkConfig settings missing \['arch'\]"):
        load_checkpoint(rewritten(lambda plain: plain["network"].pop("arch")))


@pytest.mark.parametrize("part", ["network", "augment", "train"])
def test_missing_and_unknown_settings_are_both_listed(rewritten, part):
    def change(plain):
        del plain[part][next(iter(plain[part]))]
        plain[part]["colour"] = "red"

    with pytest.raises(ModelError, match=r"settings missing \['\w+'\], unknown \['colour'\]"):
        load_checkpoint(rewritten(change))


def nested(depth):
    found = 1.0
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda plain: plain.pop("scores"), "scores missing"),
        (lambda plain: plain["data"].pop("sha256"), "data lacks sha256"),
        (lambda plain: plain.update(epoch="four"), "epoch is a str"),
        (lambda plain: plain.update(state_dict=[]), "state_dict is a list"),
        (lambda plain: plain["network"].update(depth=9), "depth 9"),
        (lambda plain: plain["network"].update(base="wide"), "damaged"),
        (lambda plain: plain["network"].update(arch="resnet"), "arch 'resnet'"),
        (lambda plain: plain.update(version=1, network={"depth": 10**9}), "settings missing"),
        (lambda plain: plain["train"].update(batch=0), "batch 0"),
        (lambda plain: plain["scores"].update(deep=nested(100)), "score deep is"),
        (
            lambda plain: plain["data"].update(seen=[{"name": "a"}]),
            "data seen is .* expected a list of stacks",
        ),
    ],
)
def test_parts_that_cannot_be_are_named(rewritten, change, named):
    with pytest.raises(ModelError, match=f"damaged checkpoint: .*{named}" if named != "damaged" else named):
        load_checkpoint(rewritten(change))


def test_missing_and_unexpected_weights_are_both_listed(rewritten):
    def change(plain):
        del plain["state_dict"]["head.bias"]
        del plain["state_dict"]["bottom.0.weight"]
        plain["state_dict"]["tail.weight"] = torch.zeros(1)

    with pytest.raises(ModelError) as raised:
        load_checkpoint(rewritten(change))
    assert "missing ['bottom.0.weight', 'head.bias'], unexpected ['tail.weight']" in str(raised.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda weights: weights.pop("head.bias"), r"missing \['head\.bias'\], unexpected \[\]"),
        (lambda weights: weights.update(tail=torch.zeros(1)), r"missing \[\], unexpected \['tail'\]"),
        (lambda weights: weights.clear(), r"missing \['bottom\.0\.weight', .*\], unexpected \[\]"),
    ],
)
def test_weights_that_are_only_missing_or_only_unexpected_are_refused(rewritten, change, named):
    with pytest.raises(ModelError, match=named):
        load_checkpoint(rewritten(lambda plain: change(plain["state_dict"])))


def test_weights_of_a_network_of_another_width_are_refused(rewritten):
    with pytest.raises(ModelError, match=r"encoder\.0\.0\.weight is \(2, 4, 3, 3\), expected \(3, 4, 3, 3\)"):
        load_checkpoint(rewritten(lambda plain: plain["network"].update(base=3)))


def test_a_weight_that_is_no_tensor_is_refused(rewritten):
    with pytest.raises(ModelError, match=r"head\.bias is \(\), expected \(4,\)"):
        load_checkpoint(rewritten(lambda plain: plain["state_dict"].update({"head.bias": 0.5})))


def test_names_as_data_parallel_gives_them_are_accepted(rewritten, checkpoint):
    def change(plain):
        plain["state_dict"] = {f"module.{name}": weight for name, weight in plain["state_dict"].items()}

    found = load_checkpoint(rewritten(change)).state_dict
    assert found.keys() == checkpoint.state_dict.keys()


def test_a_checkpoint_that_cannot_be_written_is_an_output_error(tmp_path, checkpoint):
    (tmp_path / "file").write_bytes(b"")
    for target in (tmp_path / "nowhere" / "model.pth", tmp_path / "file" / "model.pth", tmp_path):
        with pytest.raises(OutputError, match=re.escape(str(target))):
            save_checkpoint(target, checkpoint)


@pytest.mark.parametrize("room", [0.0, 0.01, 0.25, 0.4, 0.5, 0.6, 0.75, 1.0])
def test_a_full_disk_leaves_the_previous_checkpoint_as_it_was(stored, checkpoint, room):
    before = stored.read_bytes()
    wider = NetworkConfig(base=8, depth=2)
    larger = replace(checkpoint, network=wider, state_dict=UNet(wider).state_dict())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(len(before) * room), hard))
    try:
        with pytest.raises(OutputError, match=r"model\.pth: cannot be written"):
            save_checkpoint(stored, larger)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert stored.read_bytes() == before
    assert os.listdir(stored.parent) == ["model.pth"]


def test_a_checkpoint_that_cannot_be_pickled_leaves_the_previous_one(stored, checkpoint):
    before = stored.read_bytes()
    with pytest.raises(AttributeError):
        save_checkpoint(stored, replace(checkpoint, scores={"loss": lambda: 0}))
    assert stored.read_bytes() == before
    assert os.listdir(stored.parent) == ["model.pth"]


def test_the_same_checkpoint_is_the_same_file_under_any_name(tmp_path, checkpoint):
    (tmp_path / "elsewhere").mkdir()
    paths = tmp_path / "a.pth", tmp_path / "elsewhere" / "another.pth"
    for path in paths:
        save_checkpoint(path, checkpoint)
    assert file_sha256(paths[0]) == file_sha256(paths[1])


@pytest.mark.parametrize("package", ["isbi_infer", "isbi_train", "isbi_export", "isbi_models"])
def test_no_shipped_module_ever_unpickles_freely(package):
    (folder,) = importlib.util.find_spec(package).submodule_search_locations
    modules = list(Path(folder).rglob("*.py"))
    assert modules
    for module in modules:
        text = module.read_text(encoding="utf-8")
        assert not re.search(r"weights_only\s*=\s*False", text), module
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert re.search(r"weights_only\s*=\s*True", call), (module, call)
        found = re.findall(r"\b(?:c?pickle|joblib|dill)\.loads?\(|allow_pickle\s*=\s*True", text)
        # Workers of a cluster and who asks them trust each other (SECURITY.md); Dask unpickles what they say, too.
        answers = module.relative_to(folder).as_posix() == "run/cluster.py"
        assert found == (["pickle.loads("] if answers and package == "isbi_infer" else []), module
