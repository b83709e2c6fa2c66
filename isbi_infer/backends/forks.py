"""What becomes of an open model in a process that was forked off.

The child has all memory of a runtime and none of its threads. What holds such threads can neither compute there nor be
released: either waits for them for ever, or ends the process. So it is never released in a child, by no caller, by no
collection of garbage and not when the interpreter ends; a model that is wanted there is opened again.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any
from weakref import WeakSet

_with_threads: WeakSet[Any] = WeakSet()


def leave_to_this_process(holder: Any) -> None:
    """Keep an object, and what it holds, from being released in processes that will be forked off.

    Parameters
    ----------
    holder : object
        Holds what has threads of its own, now or later.
    """
    _with_threads.add(holder)


def _keep_for_ever() -> None:
    for holder in list(_with_threads):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(holder))  # a reference that nothing gives back


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_keep_for_ever)
