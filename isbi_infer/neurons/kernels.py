"""Compilation of the kernels, kept on disk where there is a place for it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numba

from isbi_infer.errors import DependencyError
from isbi_infer.terminal import one_line

_COMPILER = ("numba", "llvmlite")
Kernel = TypeVar("Kernel", bound=Callable[..., object])


def compiled(**options: Any) -> Callable[[Kernel], Kernel]:
    """Return a decorator that compiles a kernel at its first call, without Python's global lock.

    numba keeps what it compiled beside the source file or in the user's cache folder. Where neither can be written,
    as in a read-only container, the kernel is compiled anew in each process.

    Parameters
    ----------
    **options
        Of `numba.njit`, beside ``cache`` and ``nogil``.

    Returns
    -------
    callable
        The decorator.
    """

    def decorate(function: Kernel) -> Kernel:
        try:
            kernel = numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # numba's error where no folder for the cache can be written
            kernel = numba.njit(nogil=True, **options)(function)
        return cast(Kernel, kernel)

    return decorate


@contextmanager
def compiling() -> Iterator[None]:
    """Call kernels: what fails in the compiler or its cache, rather than in a kernel, becomes a `DependencyError`.

    Raises
    ------
    DependencyError
        In one line, with what helps.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        modules = {frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)}
        if not any(module.partition(".")[0] in _COMPILER for module in modules):
            raise
        raise DependencyError(
            f"numba {numba.__version__} cannot compile the thinning of membranes ({one_line(error)}); empty its cache, "
            "set NUMBA_CACHE_DIR to another folder, or run: pip install --force-reinstall numba"
        ) from error
