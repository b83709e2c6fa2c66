"""Settings: defaults, recipe, file and flags in this order; what is wrong is named with its file and key."""

from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from isbi_infer.errors import UsageError
from isbi_models import released_models
from isbi_train.cli import app
from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.config.inputs import Inputs
from isbi_train.config.settings import (
    Settings,
    parse_assignment,
    read_layer,
    recipe_layer,
    recipe_names,
    resolve,
    write_settings,
)
from isbi_train.data.inputs import read_labelled
from isbi_train.networks.checkpoint import load_checkpoint


def test_later_settings_are_laid_over_earlier_ones():
    layers = [
        ("recipe", {"train": {"epochs": 10, "batch": 2, "seed": 1}}),
        ("file", {"train": {"epochs": 20, "batch": 3}, "augment": {"noise": 1}}),
        ("flags", {"train": {"epochs": 30}}),
    ]
    settings = resolve(layers)
    assert settings.train == TrainConfig(epochs=30, batch=3, seed=1)
    assert settings.augment == AugmentConfig(noise=1.0)
    assert type(settings.augment.noise) is float
    assert settings.network == NetworkConfig()


def test_an_architecture_brings_its_own_defaults():
    classic = resolve([("flags", {"network": {"arch": "valid-unet"}})]).network
    assert classic == NetworkConfig.of("valid-unet")
    assert (classic.base, classic.depth, classic.unshuffle, classic.dropout) == (64, 4, 1, 0.0)
    narrow = resolve(
        [("file", {"network": {"arch": "valid-unet", "base": 8}}), ("flags", {"network": {"depth": 3}})]
    )
    assert narrow.network == NetworkConfig.of("valid-unet", base=8, depth=3)
    back = resolve([("file", {"network": {"arch": "valid-unet"}}), ("flags", {"network": {"arch": "unet"}})])
    assert back.network == NetworkConfig()


@pytest.mark.parametrize(
    "layers",
    [
        [("flags", {"network": {"arch": "valid-unet", "unshuffle": 2}})],
        [("recipe", {"network": {"unshuffle": 2}}), ("flags", {"network": {"arch": "valid-unet"}})],
        [("recipe", {"network": {"arch": "valid-unet"}}), ("flags", {"network": {"unshuffle": 2}})],
    ],
)
def test_what_an_architecture_cannot_have_is_refused_and_not_dropped(layers):
    with pytest.raises(UsageError, match="unshuffle 2 does not go with arch valid-unet"):
        resolve(layers)


def test_the_shipped_recipes_are_those_promised():
    assert recipe_names() == (
        "em",
        "em-open",
        "original",
        "released",
        "released-gpu",
        "unet-64",
    )
    made = {name: resolve([(name, recipe_layer(name))]) for name in recipe_names()}
    assert made["released-gpu"].train.device == "cuda"
    classic = made["unet-64"].network
    assert (classic.base, classic.depth, classic.unshuffle, classic.widths[-1]) == (64, 4, 1, 1024)
    original = made["original"]
    assert original.network.arch == "valid-unet"
    assert original.train.crop % original.network.stride == 0
    assert original.train.training_sections(30) == "0:25"
    assert (original.augment.noise, original.augment.scale_min, original.augment.fold_probability) == (
        0,
        1,
        0,
    )


def test_the_released_recipe_is_what_the_released_checkpoint_was_trained_with():
    checkpoint = load_checkpoint(released_models()["isbi2012-unet-b32"].checkpoint.path)
    recipe = resolve([("released", recipe_layer("released"))])
    assert (checkpoint.network, checkpoint.augment) == (recipe.network, recipe.augment)
    sections = checkpoint.data["sections"]
    assert checkpoint.train == recipe.train.counted(sections)
    assert checkpoint.epoch == recipe.train.epochs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[trian]\nepochs = 1", r"unknown section \[trian\]"),
        ("train = 3", "train is no section"),
        ("[train]\nepoch = 1", r"unknown key train\.epoch; expected epochs"),
        ("[train]\nepochs = 1.5", r"train\.epochs is 1\.5; expected a whole number"),
        ("[train]\nepochs = true", r"train\.epochs is True; expected a whole number"),
        ("[train]\nepochs = '3'", r"train\.epochs is '3'; expected a whole number"),
        ("[train]\nhold_out_start = 'a'", r"train\.hold_out_start is 'a'; expected a whole number"),
        ("[train]\nlearning_rate = nan", r"train\.learning_rate is nan; expected a finite number"),
        ("[train]\nepochs = 0", r"\[train\] epochs 0 is below 1"),
        ("[train]\ncalibrate = 1", r"train\.calibrate is 1; expected true or false"),
        ("[augment]\nscale_min = 3", r"\[augment\] scale 3\.0\.\.1\.4 is empty"),
        ("[inputs]\nteachers = 'a'", r"inputs\.teachers is 'a'; expected a list of strings"),
        ("[inputs]\nlabels_are = 'x'", r"\[inputs\] labels_are 'x' is not one of"),
        ("[inputs.sha256]\nimages = 3", r"inputs\.sha256 is .*; expected a table of strings"),
        (
            "[augment]\nelastic_px = 1e30",
            r"augment\.elastic_px is 1e\+30; expected a finite number of at most 53",
        ),
        ("[augment]\ndefocus_px = 1e9", r"\[augment\] defocus_px 1e\+09 is larger than 10000"),
        ("[augment]\nscale_min = 1e-9", r"\[augment\] scale_min 1e-09 is not within \[0\.01, 100\]"),
        ("[train]\nborder_sigma_px = 1e12", r"\[train\] border_sigma_px 1e\+12 is larger than 10000"),
        ("[train]\ncrop = 4611686018427387", r"\[train\] crop .* is above 16384"),
        (
            "[train]\nsteps = 9007199254740993",
            r"train\.steps is .*; expected a whole number of at most 53 bits",
        ),
        ("[train", "not a TOML file"),
        ("[train]\nepochs = 1\nepochs = 2", "not a TOML file"),
    ],
)
def test_a_bad_settings_file_is_named_with_its_key(tmp_path, text, message):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=rf"^{path}: {message}") as raised:
        resolve([(str(path), read_layer(path))])
    assert "\n" not in str(raised.value)


def test_a_settings_file_that_is_not_there_or_no_text_is_an_error(tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("none.toml", "binary.toml", "."):
        with pytest.raises(UsageError, match=str(tmp_path)):
            read_layer(tmp_path / name)


def test_an_unknown_recipe_is_an_error_that_names_those_there_are():
    with pytest.raises(UsageError, match="no recipe 'relased'; choose from em, em-open, original, released"):
        recipe_layer("relased")


def test_assignments_are_toml_values_and_bare_words():
    assert parse_assignment("augment.noise=0.2") == {"augment": {"noise": 0.2}}
    assert parse_assignment("augment.flip = false") == {"augment": {"flip": False}}
    assert parse_assignment("train.device=cpu") == {"train": {"device": "cpu"}}
    for text in ("noise=1", "augment.noise", ".noise=1", "augment.=1", "=1"):
        with pytest.raises(UsageError, match=r"expected SECTION\.KEY=VALUE"):
            parse_assignment(text)


UNREADABLE = [
    ("augment.noise", "1" * 400, "augment.noise is 111.*; expected a finite number"),
    ("augment.noise", "1" * 5000, "a number has more digits than can be read"),
    (
        "augment.noise",
        "0x" + "f" * 5000,
        "augment.noise is larger than can be shown; expected a finite number",
    ),
    ("train.epochs", "1" * 400, "train.epochs is 111.*; expected a whole number of at most 53 bits"),
    ("inputs.teachers", "[" * 5000 + "]" * 5000, "brackets are nested too deeply to be read"),
]


@pytest.mark.parametrize(("name", "value", "message"), UNREADABLE)
def test_numbers_and_lists_beyond_what_python_reads_are_one_line(tmp_path, name, value, message):
    section, _, key = name.partition(".")
    path = tmp_path / "run.toml"
    path.write_text(f"[{section}]\n{key} = {value}\n")
    for read in (lambda: read_layer(path), lambda: parse_assignment(f"{name}={value}")):
        with pytest.raises(UsageError, match=message) as raised:
            resolve([("settings", read())])
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 300


@pytest.mark.parametrize(("name", "value"), [row[:2] for row in UNREADABLE])
def test_the_command_line_leaves_with_2_on_such_a_setting(tmp_path, name, value):
    failed = CliRunner().invoke(app, ["fit", "--out", str(tmp_path / "run"), "--set", f"{name}={value}"])
    assert failed.exit_code == 2
    assert failed.output.count("\n") == 1


fractions = st.floats(0, 1, allow_subnormal=False)


@given(
    epochs=st.integers(1, 10**6),
    start=st.none() | st.integers(0, 100),
    rate=st.floats(1e-8, 1e3),
    probability=fractions,
    calibrate=st.booleans(),
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    teachers=st.lists(st.text(min_size=1, max_size=5), max_size=2),
)
def test_written_settings_give_the_same_ones_again(
    tmp_path_factory, epochs, start, rate, probability, calibrate, text, teachers
):
    settings = Settings(
        network=NetworkConfig(dropout=0.25),
        augment=AugmentConfig(fold_probability=probability),
        train=TrainConfig(epochs=epochs, hold_out_start=start, learning_rate=rate, calibrate=calibrate),
        inputs=Inputs(data=text, teachers=tuple(teachers), sha256={"images": "0", "teacher 0": "1"}),
    )
    path = tmp_path_factory.mktemp("settings") / "settings.toml"
    write_settings(path, settings)
    assert resolve([(str(path), read_layer(path))]) == settings


def test_written_settings_name_every_key_so_that_later_defaults_change_nothing(tmp_path):
    write_settings(tmp_path / "settings.toml", Settings(train=TrainConfig(hold_out_start=3).counted(30)))
    layer = read_layer(tmp_path / "settings.toml")
    for section in ("network", "augment", "train"):
        assert set(layer[section]) == set(asdict(getattr(Settings(), section)))


def test_other_inputs_are_not_held_to_the_contents_of_the_former_ones():
    settings = resolve([("file", {"inputs": {"data": "a", "sha256": {"images": "0"}}})])
    with pytest.raises(UsageError, match="sha256 of images"):
        settings.inputs.check_sha256({"images": "1"})
    settings.inputs.check_sha256({"images": "0", "labels": "2"})
    other = settings.overlaid({"inputs": {"data": "b"}}, "flags")
    assert other.inputs == Inputs(data="b")


def test_a_run_without_data_says_what_to_add():
    with pytest.raises(UsageError, match="add --data"):
        read_labelled(Inputs())


def test_inputs_are_read_with_their_labels_and_resampled(tmp_path, sample, write_labelled):
    write_labelled(tmp_path, sample[0], 255 - sample[1])
    inputs = Inputs(data=str(tmp_path), labels_are="membrane", pixel_size_nm=8.0)
    stack = read_labelled(inputs)
    assert stack.pixel_size_nm == 8.0
    assert (stack.cell_ZYX == (sample[1] > 0)).all()
    assert read_labelled(replace(inputs, resample_nm=4.0)).image_ZYX.shape == (4, 128, 128)


def test_precisions_of_earlier_runs_are_read_by_their_long_names():
    assert TrainConfig(precision="bfloat16") == TrainConfig(precision="bf16")
    with pytest.raises(UsageError, match="precision 'double' is not one of auto, fp32, bf16, fp16"):
        TrainConfig(precision="double")
