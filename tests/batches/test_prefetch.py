"""The reading thread: bounded, honest about errors, gone when it is no longer needed."""

from __future__ import annotations

import gc
import itertools
import threading
import time

import pytest

from atlasnmf.batches.prefetch import WaitClock, prefetched


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "atlasnmf-prefetch"]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    assert threads() == []
    yield
    assert threads() == []


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_units_come_in_order(depth):
    assert list(prefetched(iter(range(10)), depth)) == list(range(10))


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_is_raised_in_its_place(depth):
    def units():
        yield 1
        raise OSError("torn chunk")

    stream = prefetched(units(), depth)
    assert next(stream) == 1
    with pytest.raises(OSError, match="torn chunk"):
        next(stream)


def test_never_more_than_the_depth_ahead():
    made = []

    def units():
        for i in itertools.count():
            made.append(i)
            yield i

    stream = prefetched(units(), 2)
    for i in range(5):
        assert next(stream) == i
        time.sleep(0.02)
        assert len(made) <= i + 1 + 2
    stream.close()


@pytest.mark.parametrize("depth", [0, 2])
def test_closing_ends_the_thread_and_the_units(depth):
    closed = []

    def units():
        try:
            yield from itertools.count()
        finally:
            closed.append(threading.current_thread().name)

    stream = prefetched(units(), depth)
    next(stream)
    assert len(threads()) == (1 if depth else 0)
    stream.close()
    assert threads() == []
    assert len(closed) == 1


def test_dropping_ends_the_thread():
    stream = prefetched(itertools.count(), 2)
    next(stream)
    del stream
    gc.collect()
    assert threads() == []


def test_no_thread_before_the_first_unit():
    stream = prefetched(itertools.count(), 2)
    assert threads() == []
    stream.close()


def test_the_clock_tells_a_slow_reader_from_a_slow_loop():
    def slow(n, pause_s):
        for i in range(n):
            time.sleep(pause_s)
            yield i

    starved, fed = WaitClock(), WaitClock()
    list(prefetched(slow(8, 0.02), 2, starved))
    for _ in prefetched(slow(8, 0.002), 2, fed):
        time.sleep(0.02)
    assert starved.n_units == fed.n_units == 8
    assert starved.start_s >= 0.02
    assert starved.share > 0.8
    assert fed.share < 0.2
    assert WaitClock().share == 0.0
