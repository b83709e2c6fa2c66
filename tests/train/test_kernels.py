"""Kernels are compiled whether or not numba finds a place for its cache."""

import numba
from numba.core import caching

from isbi_train.scores.kernels import compiled


def double(number):
    return 2 * number


def test_without_a_place_for_the_cache_a_kernel_is_compiled_and_not_kept(monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    kernel = compiled()(double)
    assert isinstance(kernel, numba.core.dispatcher.Dispatcher)
    assert kernel(21) == 42
    assert not kernel.stats.cache_path
