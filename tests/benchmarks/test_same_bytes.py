"""The comparison of two states of the code: equal code writes equal files, and a changed result is found and named."""

import json
import shutil
from pathlib import Path

import pytest
import tifffile

from benchmarks.same_bytes import (
    FP32,
    PAIRS,
    ROOT,
    Pair,
    Side,
    Stack,
    checked_out,
    compare,
    default_checkpoint,
    main,
)
from isbi_infer.errors import UsageError
from isbi_infer.model.contract import read_contract
from isbi_models import default_model

SMALL = Pair(Stack((2, 40, 50)))
TURNED = "\n_before = encode\ndef encode(*arguments):\n    return 1 - _before(*arguments)\n"


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    return Side.of(ROOT, tmp_path_factory.mktemp("sides") / "now")


@pytest.fixture
def models(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / FP32).symlink_to(default_model().path)
    return tmp_path / "models"


def changed(folder, module, addition):
    """A tree as this one, but for lines at the end of a module."""
    folder.mkdir()
    shutil.copytree(ROOT / "isbi_infer", folder / "isbi_infer")
    for name in ("isbi_train", "export", "models"):
        (folder / name).symlink_to(ROOT / name)
    path = folder / "isbi_infer" / module
    path.write_text(path.read_text() + addition)
    return Side.of(folder, folder.with_name("changed-side"))


def test_the_same_code_writes_the_same_bytes(now, models, tmp_path):
    outcome = compare(now, now, SMALL, models, tmp_path)
    assert outcome.same
    assert str(outcome) == "the same"
    assert outcome.files[0]  # or nothing was compared


def test_a_changed_result_is_found_with_its_size(now, models, tmp_path):
    other = changed(tmp_path / "changed", "pixels/probability.py", TURNED)
    outcome = compare(now, other, SMALL, models, tmp_path)
    assert not outcome.same
    assert str(outcome).startswith("DIFFERENT: pixels by up to ")


def test_a_side_that_fails_is_not_the_same_and_says_why(now, tmp_path):
    outcome = compare(now, now, SMALL, tmp_path / "nowhere", tmp_path)
    assert not outcome.same
    assert "exit code 5" in str(outcome)
    assert "nowhere" in str(outcome)


# Larger ones are drawn as these are.
@pytest.mark.parametrize("name", [name for name, pair in PAIRS.items() if max(pair.stack.shape) <= 400])
def test_every_stack_is_drawn_as_it_is_named(name, tmp_path):
    stack = PAIRS[name].stack
    stack.write(tmp_path / "one.tif")
    stack.write(tmp_path / "two.tif")
    with tifffile.TiffFile(tmp_path / "one.tif") as file:
        assert file.is_ome == (stack.kind == "OME")
        assert file.is_imagej == (stack.kind == "ImageJ")
        assert file.asarray().reshape(stack.shape).dtype == stack.dtype
        one_ZYX = file.asarray()
    assert (one_ZYX == tifffile.imread(tmp_path / "two.tif")).all()
    assert one_ZYX.size == 1 or one_ZYX.std() > 0


TILED = [name for name, pair in PAIRS.items() if "--tile" in pair.options]


@pytest.mark.parametrize("name", TILED)
def test_tiles_that_are_asked_for_are_some_of_the_default_model_and_several(name):
    contract = read_contract(default_model().path.read_bytes())
    pair = PAIRS[name]
    tile = int(pair.options[pair.options.index("--tile") + 1])
    assert tile % contract.stride == 0
    assert 2 * contract.halo < tile < max(pair.stack.shape)


def test_of_several_checkpoints_that_of_the_default_model_is_taken():
    assert default_checkpoint(ROOT) == default_model().checkpoint.path


def test_a_tree_whose_registry_names_no_checkpoint_has_the_one_of_its_name(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "registry.json").write_text(json.dumps([{"name": "older", "file": "older.onnx"}]))
    assert default_checkpoint(tmp_path) == tmp_path / "models" / "older.pth"


def test_a_tree_without_a_released_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match="has no released model"):
        default_checkpoint(tmp_path)


def test_the_files_of_a_commit_are_its_own_and_another_name_is_refused(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    tree = checked_out("HEAD", tmp_path / "tree")
    assert (tree / "isbi_infer" / "__init__.py").is_file()
    assert not (tree / ".git").exists()
    with pytest.raises(UsageError, match="no-such-commit: git cannot check it out"):
        checked_out("no-such-commit", tmp_path / "other")


def test_a_commit_that_is_not_there_is_one_line(capsys):
    if not Path(ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    with pytest.raises(SystemExit) as stopped:
        main(["no-such-commit"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
