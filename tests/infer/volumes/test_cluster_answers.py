"""What a cluster answers, and what it fails to: in real processes, nothing is awaited for ever."""

import os
import queue
import sys
import threading
from functools import partial

import pytest

from isbi_infer.errors import DependencyError, IsbiError, OutputError, ResourceError
from isbi_infer.run import cluster as clusters

pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def local():
    with clusters.connected("local:1") as connected:
        yield connected


def falls(number=0):
    """Return a piece of work that ends in a recursion without end, which no traceback survives."""

    def fall(number):
        return fall(number)

    return fall


def raises(make):
    def work(number):
        raise make()

    return work


def with_a_lock():
    error = ValueError("holds a lock")
    error.lock = threading.Lock()
    return error


def of_two():
    class OfTwoError(Exception):
        def __init__(self, one, other):
            super().__init__(f"{one} and {other}")

    return OfTwoError("this", "that")


def fills_a_disk():
    def work(number):
        try:
            raise with_a_lock()
        except ValueError as error:
            raise OutputError("out: no space left") from error

    return work


def by_value(function):
    """Return a function made in another one, which workers need not import, for none of them sees the tests."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return function


@pytest.mark.parametrize(
    ("work", "kind", "what"),
    [
        (falls(), IsbiError, "RecursionError"),
        (raises(with_a_lock), IsbiError, "holds a lock"),
        (raises(of_two), IsbiError, "this and that"),
        (fills_a_disk(), OutputError, "out: no space left"),
        (raises(partial(MemoryError, "8 GiB")), ResourceError, "8 GiB"),
        (raises(partial(SystemExit, 3)), IsbiError, "SystemExit: 3"),
        (lambda number: threading.Lock(), IsbiError, "cannot pickle"),
    ],
    ids=["recursion", "lock", "two arguments", "cause with a lock", "memory", "exit", "answer with a lock"],
)
def test_whatever_a_worker_raises_comes_back_in_one_line_with_its_kind(local, work, kind, what):
    with pytest.raises(IsbiError) as caught:
        list(local.spread(by_value(work), 1))
    assert type(caught.value) is kind
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(local.spread(by_value(lambda number: number * 2), 2)) in ([(0, 0), (1, 2)], [(1, 2), (0, 0)])


def test_an_answer_that_is_lost_on_its_way_is_not_awaited_for_ever(local, monkeypatch):
    monkeypatch.setattr(clusters, "_PATIENCE_S", 3)
    done = queue.Queue()
    future = local.client.submit(by_value(falls()), 0, pure=False)  # whose traceback Dask cannot read here
    future.add_done_callback(done.put)
    with pytest.raises(DependencyError, match="an answer is missing, and no worker does anything"):
        local.awaited(partial(done.get, timeout=0.5), by_work=True)


def test_an_answer_that_cannot_be_read_here_is_a_fault_of_that_piece(local):
    here = os.getpid()

    def answer(number):
        class Elsewhere:
            def __reduce__(self):
                return (eval, (f"1 / (__import__('os').getpid() != {here})",))

        return Elsewhere()

    with pytest.raises(DependencyError, match="cannot be read here"):
        list(local.spread(by_value(answer), 1))
