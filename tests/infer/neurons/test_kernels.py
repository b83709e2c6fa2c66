"""Kernels are compiled whether or not numba finds a place for its cache."""

import importlib
import sys

import numba
import pytest
from numba.core import caching

from isbi_infer.errors import DependencyError
from isbi_infer.neurons.kernels import compiled, compiling
from isbi_train.scores.inputs import optional_module


def double(number):
    return 2 * number


def test_without_a_place_for_the_cache_a_kernel_is_compiled_and_not_kept(monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    kernel = compiled()(double)
    assert isinstance(kernel, numba.core.dispatcher.Dispatcher)
    assert kernel(21) == 42
    assert not kernel.stats.cache_path


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module with a kernel, its cache beside it."""
    (tmp_path / "doubling.py").write_text(
        "from isbi_infer.neurons.kernels import compiled\n\n@compiled()\ndef double(number):\n    return 2 * number\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def load():
        sys.modules.pop("doubling", None)
        return importlib.import_module("doubling")

    yield load
    sys.modules.pop("doubling", None)


def test_a_damaged_cache_is_one_line_that_says_what_to_do(module, tmp_path):
    assert module().double(21) == 42
    (index,) = tmp_path.rglob("*.nbi")
    index.write_bytes(index.read_bytes()[:-20])
    with (
        pytest.raises(DependencyError, match=r"numba .* cannot compile .*empty its cache") as caught,
        compiling(),
    ):
        module().double(21)
    assert "\n" not in str(caught.value)


def test_what_a_kernel_cannot_compile_is_one_line(module):
    with pytest.raises(DependencyError, match="TypingError") as caught, compiling():
        module().double(object())
    assert "\n" not in str(caught.value)


def test_what_is_wrong_with_the_numbers_is_not_blamed_on_the_compiler(module):
    with pytest.raises(ZeroDivisionError), compiling():
        compiled()(lambda number: 1 // number)(0)


@pytest.mark.parametrize("error", [ImportError("Numba needs NumPy 2.2 or less"), OSError("libllvmlite.so")])
def test_numba_that_does_not_load_is_one_line(monkeypatch, error):
    def fail(name):
        raise error

    monkeypatch.setattr("isbi_train.scores.inputs.import_module", fail)
    with pytest.raises(DependencyError, match=r"needs numba, which does not load .*pip install"):
        optional_module("numba")
