"""Compilation of the kernels, kept on disk where there is a place for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

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
