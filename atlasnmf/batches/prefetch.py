"""Make the next units while the present one is used."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

__all__ = ["WaitClock", "prefetched"]

T = TypeVar("T")


@dataclass
class WaitClock:
    """How long a loop waited for its units.

    Parameters
    ----------
    start_s
        Waited for the first unit: buffers fill, kernels compile.
    waited_s, total_s
        Waited for all later units, and the time that passed from the first unit to the last.
    n_units
        Units handed out.
    """

    start_s: float = 0.0
    waited_s: float = 0.0
    total_s: float = 0.0
    n_units: int = 0

    @property
    def share(self) -> float:
        """Share of the loop's time spent waiting, after the first unit; 0 before there is any."""
        return self.waited_s / self.total_s if self.total_s > 0 else 0.0


@dataclass(frozen=True)
class _Made(Generic[T]):
    unit: T


@dataclass(frozen=True)
class _Ended:
    problem: BaseException | None


def prefetched(units: Iterator[T], depth: int, clock: WaitClock | None = None) -> Generator[T, None, None]:
    """Iterate in a thread that keeps at most ``depth`` units ready.

    Parameters
    ----------
    units
        Iterated, and closed, in the thread; an exception there is raised here, in its place.
    depth
        Units ready or being made; 0 makes each unit when it is asked for, without a thread.
    clock
        Told what was waited for.

    Yields
    ------
    T
        The units in order. Closing the generator, or dropping it, ends the thread and waits for it.
    """
    clock = WaitClock() if clock is None else clock
    source = units if depth < 1 else _threaded(units, depth)
    try:
        while True:
            asked = time.perf_counter()
            try:
                unit = next(source)
            except StopIteration:
                return
            got = time.perf_counter()
            if clock.n_units == 0:
                clock.start_s = got - asked
            else:
                clock.waited_s += got - asked
                clock.total_s += got - asked
            clock.n_units += 1
            yield unit
            del unit
            clock.total_s += time.perf_counter() - got
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()


def _threaded(units: Iterator[T], depth: int) -> Generator[T, None, None]:
    ready: SimpleQueue[_Made[T] | _Ended] = SimpleQueue()
    slots = threading.Semaphore(depth)
    stop = threading.Event()

    def work() -> None:
        problem: BaseException | None = None
        try:
            while True:
                slots.acquire()
                if stop.is_set():
                    break
                try:
                    unit = next(units)
                except StopIteration:
                    break
                ready.put(_Made(unit))
                del unit  # or the thread would hold one more unit than it says
        except BaseException as error:
            problem = error
        finally:
            close = getattr(units, "close", None)
            if close is not None:
                close()
            ready.put(_Ended(problem))

    thread = threading.Thread(target=work, name="atlasnmf-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            answer = ready.get()
            if isinstance(answer, _Ended):
                if answer.problem is not None:
                    raise answer.problem
                return
            slots.release()
            yield answer.unit
    finally:
        stop.set()
        slots.release()
        thread.join()
