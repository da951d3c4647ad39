"""One order of merging, few tiles at once, the same bits however many work."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlasnmf.errors import Interrupted
from atlasnmf.events import Silent
from atlasnmf.reduce import Reduction, add, map_tiles, run_reduction, stream_tiles
from atlasnmf.reduce.workers import threads_of

TILES = [range(start, start + 97) for start in range(0, 97 * 23, 97)]


def rough(tile: range) -> np.ndarray:
    """Values of very different sizes, so that any other order of adding shows in the bits."""
    rng = np.random.default_rng(tile.start)
    return rng.standard_normal((len(tile), 5)) * 10.0 ** rng.integers(-8, 8, (len(tile), 1))


def gram(tile: range, values: np.ndarray) -> np.ndarray:
    time.sleep(0.002 * ((tile.start * 7) % 5))  # finish out of order
    return values.T @ values


GRAM = Reduction(chunk=gram, combine=add)


@pytest.mark.parametrize("n_workers", [2, 4, 7])
def test_same_bits_for_any_number_of_workers(n_workers: int) -> None:
    alone = run_reduction(GRAM, TILES, rough)
    together = run_reduction(GRAM, TILES, rough, n_workers=n_workers)
    assert alone.tobytes() == together.tobytes()


def test_order_of_merging_shows_in_the_bits() -> None:
    """The test above would notice another order."""
    assert run_reduction(GRAM, TILES, rough).tobytes() != run_reduction(GRAM, TILES[::-1], rough).tobytes()


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40), st.integers(1, 5))
def test_merges_from_left_to_right(numbers: list[int], n_workers: int) -> None:
    words = Reduction(chunk=lambda item, data: f"{data}", combine=lambda a, b: f"({a}{b})", finalize=len)
    expected = f"{numbers[0]}"
    for number in numbers[1:]:
        expected = f"({expected}{number})"
    assert run_reduction(words, numbers, lambda item: item, n_workers=n_workers) == len(expected)
    assert map_tiles(str, numbers, n_workers=n_workers) == [str(n) for n in numbers]


def test_few_tiles_are_held_at_once() -> None:
    n_held, most = 0, 0
    lock = threading.Lock()

    def work(item: int) -> int:
        nonlocal n_held, most
        with lock:
            n_held += 1
            most = max(most, n_held)
        time.sleep(0.001)
        with lock:
            n_held -= 1
        return item

    started: list[int] = []
    stream = stream_tiles(lambda item: started.append(item) or work(item), range(50), n_workers=3)
    next(stream)
    time.sleep(0.05)
    assert len(started) <= 7  # the first and at most twice the workers
    assert list(stream) == list(range(1, 50))
    assert most <= 3


@pytest.mark.parametrize("n_workers", [1, 3])
def test_failure_stops_the_pass_and_is_shown_as_it_is(n_workers: int) -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 3:
            raise KeyError("tile 3")
        time.sleep(0.005)
        done.append(item)

    with pytest.raises(KeyError, match="tile 3"):
        map_tiles(work, range(100), n_workers=n_workers)
    assert len(done) < 15


def test_no_tile_is_an_error() -> None:
    with pytest.raises(ValueError, match="no tile"):
        run_reduction(GRAM, [], rough)


def test_progress_counts_spots() -> None:
    told: list[Any] = []

    class Listener(Silent):
        @contextmanager
        def stage(self, name: str, total: int | None = None, unit: str = "spots") -> Any:
            told.append((name, total, unit))
            yield told.append

    run_reduction(GRAM, TILES[:3], rough, events=Listener(), stage="gram")
    map_tiles(abs, [4, 5], events=Listener(), stage="abs")
    assert told == [("gram", 291, "spots"), 97, 97, 97, ("abs", 2, "tiles"), 1, 1]


def test_on_done_comes_in_order() -> None:
    seen: list[tuple[int, int]] = []
    map_tiles(abs, [-3, -2, -1], n_workers=2, on_done=lambda item, result: seen.append((item, result)))
    assert seen == [(-3, 3), (-2, 2), (-1, 1)]


def test_add_joins_all_kinds_of_parts() -> None:
    left = (np.ones(2), [1], {"a": np.ones(1)}, 2.5)
    out = add(left, (np.ones(2), [2], {"a": np.ones(1), "b": 1}, 1))
    assert out[0].tolist() == [2, 2]
    assert out[1:] == ([1, 2], {"a": np.array([2.0]), "b": 1}, 3.5)


def test_overhead_of_a_tile_is_small() -> None:
    start = time.perf_counter()
    map_tiles(abs, range(2000), n_workers=2)
    assert (time.perf_counter() - start) / 2000 < 1e-3


@contextmanager
def cluster(**options: Any) -> Any:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(dashboard_address="127.0.0.1:0", protocol="tcp", **options) as workers,
        Client(workers) as client,
    ):
        yield client


def die_once(mark: Path, tile: range) -> int:
    """Kill the process that works on the third tile, the first time."""
    if tile.start == TILES[2].start and not mark.exists():
        mark.touch()
        os._exit(1)
    return tile.start


def fail_once(mark: Path, tile: range) -> int:
    if tile.start == TILES[2].start and not mark.exists():
        mark.touch()
        raise OSError("the file system hiccuped")
    return tile.start


def always_fail(tile: range) -> int:
    raise KeyError(f"tile {tile.start}")


@pytest.mark.filterwarnings("ignore")
def test_client_gives_the_same_bits_and_retries(tmp_path: Path) -> None:
    alone = run_reduction(GRAM, TILES, rough)
    starts = [tile.start for tile in TILES]
    with cluster(n_workers=2, threads_per_worker=2) as client:
        assert run_reduction(GRAM, TILES, rough, client=client).tobytes() == alone.tobytes()
        assert map_tiles(partial(fail_once, tmp_path / "failed"), TILES, client=client) == starts
        with pytest.raises(KeyError, match="tile 0"):
            map_tiles(always_fail, TILES, client=client)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n_workers", [1, 2])
def test_worker_that_dies_is_replaced(tmp_path: Path, n_workers: int) -> None:
    work: Callable[[range], int] = partial(die_once, tmp_path / "died")
    with cluster(n_workers=n_workers, threads_per_worker=1) as client:
        assert map_tiles(work, TILES, client=client) == [tile.start for tile in TILES]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("time_will_tell", [0.0, 0.05, 0.3])
def test_worker_dies_while_the_task_is_sent(monkeypatch: pytest.MonkeyPatch, time_will_tell: float) -> None:
    """The scheduler still counts a worker that has just died, and fails, or hangs, on sending to it."""
    with cluster(n_workers=2, threads_per_worker=1) as client:
        send, alive = client.scatter, client.run(os.getpid)

        def send_to_the_dead(*args: Any, **options: Any) -> Any:
            if alive:
                os.kill(alive.popitem()[1], signal.SIGKILL)
                time.sleep(time_will_tell)
            return send(*args, **options)

        monkeypatch.setattr(client, "scatter", send_to_the_dead)
        for _ in range(2):
            assert map_tiles(abs, range(-5, 0), client=client) == [5, 4, 3, 2, 1]


@pytest.mark.filterwarnings("ignore")
def test_scheduler_that_is_gone_is_said_so() -> None:
    with cluster(n_workers=1, threads_per_worker=1) as client:
        assert threads_of(client) == 1
        client.cluster.close()
        assert threads_of(client) == 0
        with pytest.raises(Interrupted, match="scheduler is gone"):
            map_tiles(abs, range(3), client=client)
