"""Run work over tiles: in threads of this process, or as Dask tasks on a cluster; same bits either way.

Both engines take tiles in order, keep a bounded window of them in flight and hand results back in
order. Locally this is a plain thread pool: Dask's threaded scheduler has no such window (it would
hold the parts of all tiles that ran ahead) and costs several times more a tile. On a cluster every
tile is an ordinary, retryable Dask task.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from atlasnmf.errors import Interrupted
from atlasnmf.events import SILENT, Events
from atlasnmf.reduce.reduction import Reduction
from atlasnmf.threads import blas_threads

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["map_tiles", "run_reduction", "stream_tiles"]

#: Tiles submitted ahead of the one whose result is awaited, for each thread that works.
_AHEAD = 2
#: How often a tile is run again after its worker died or its read failed.
_RETRIES = 3
#: Waits before a task is sent anew to workers of which one has died: the scheduler soon knows that it has.
_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)


def stream_tiles(
    task: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    client: Client | None = None,
    n_workers: int = 1,
) -> Iterator[Any]:
    """Run a task on every item and yield the results in the order of the items.

    Parameters
    ----------
    task
        A function of one item; it must release the GIL to gain from threads (numba, zarr, BLAS do) and
        be picklable for a cluster. It may be run again after a failure, so it must be pure, or write
        whole pieces under final names.
    items
        Tiles, ranges, numbers: small things.
    client
        A ``distributed.Client``; ``None`` works in this process.
    n_workers
        Threads of this process; ignored with a client.

    Yields
    ------
    result
        One result an item, in order.

    Raises
    ------
    Interrupted
        The scheduler is gone, or a worker cannot read or write; the caller adds the resume command.

    Notes
    -----
    At most ``2 * n_workers`` items are in flight, of which ``n_workers`` hold their tile in memory.
    BLAS is held to one thread meanwhile: the tiles are the parallelism, and the bits of a product
    then do not depend on how many workers there are. About 30 µs a tile locally, 1 ms on a cluster.
    """
    with blas_threads(1):
        if client is not None:
            yield from _on_cluster(task, items, client)
        elif n_workers > 1 and len(items) > 1:
            yield from _on_threads(task, items, n_workers)
        else:
            for item in items:
                yield task(item)


def map_tiles(
    task: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    client: Client | None = None,
    n_workers: int = 1,
    on_done: Callable[[Any, Any], None] | None = None,
    events: Events = SILENT,
    stage: str | None = None,
) -> list[Any]:
    """Run a task on every item and return the results in the order of the items.

    Parameters
    ----------
    task, items, client, n_workers
        As in :func:`stream_tiles`.
    on_done
        Called here as ``on_done(item, result)`` when an item is done, in the order of the items.
    events, stage
        With a ``stage`` name, tell ``events`` how many spots (items with ``start`` and ``stop``) or
        items are done.

    Returns
    -------
    results
        List of what the task returned; return little, or nothing, from a task that writes.
    """
    results = []
    with _progress(events, stage, items) as advance:
        stream = stream_tiles(task, items, client=client, n_workers=n_workers)
        for item, result in zip(items, stream, strict=True):
            results.append(result)
            if on_done is not None:
                on_done(item, result)
            advance(_spots(item))
    return results


def run_reduction(
    reduction: Reduction,
    tiles: Sequence[Any],
    read: Callable[[Any], Any],
    *,
    client: Client | None = None,
    n_workers: int = 1,
    events: Events = SILENT,
    stage: str | None = None,
) -> Any:
    """Read every tile once and reduce, with the same bits for any number of workers.

    Parameters
    ----------
    reduction
        Chunk, combine and finalize; ``chunk(tile, read(tile))`` runs where the tile is read,
        ``combine`` and ``finalize`` run here.
    tiles
        The tiles, at least one, in the order in which their parts are merged.
    read
        ``read(tile) -> data``.
    client, n_workers
        As in :func:`stream_tiles`.
    events, stage
        As in :func:`map_tiles`.

    Returns
    -------
    result
        ``finalize(combine(... combine(combine(part 0, part 1), part 2) ...))``.

    Raises
    ------
    ValueError
        There is no tile.
    """
    if not tiles:
        raise ValueError("there is no tile to reduce")
    task = partial(_read_and_chunk, reduction.chunk, read)
    total: Any = None
    with _progress(events, stage, tiles) as advance:
        stream = stream_tiles(task, tiles, client=client, n_workers=n_workers)
        for index, (tile, part) in enumerate(zip(tiles, stream, strict=True)):
            total = part if index == 0 else reduction.combine(total, part)
            advance(_spots(tile))
    return reduction.finalize(total)


def _read_and_chunk(chunk: Callable[[Any, Any], Any], read: Callable[[Any], Any], tile: Any) -> Any:
    return chunk(tile, read(tile))


def _on_threads(task: Callable[[Any], Any], items: Sequence[Any], n_workers: int) -> Iterator[Any]:
    waiting: deque[Any] = deque()
    with ThreadPoolExecutor(n_workers, thread_name_prefix="atlasnmf-tile") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(task, item))
                while waiting and (len(waiting) >= _AHEAD * n_workers or waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _on_cluster(task: Callable[[Any], Any], items: Sequence[Any], client: Client) -> Iterator[Any]:
    from distributed.comm import CommClosedError

    try:
        yield from _in_order(task, items, client)
    except CommClosedError:
        raise Interrupted("the Dask scheduler is gone", "") from None
    except OSError as problem:  # a full disk, a file system that went away: what is done is kept
        raise Interrupted(f"{problem}; mend it there", "") from problem


def _in_order(task: Callable[[Any], Any], items: Sequence[Any], client: Client) -> Iterator[Any]:
    shared = _shared(task, client)
    window = _AHEAD * max(sum(client.nthreads().values()), 1)
    waiting: deque[tuple[Any, Any, Any]] = deque()

    def submit(item: Any) -> tuple[Any, Any, Any]:
        return item, client.submit(_apply, shared, item, pure=False, retries=_RETRIES), shared

    def result(item: Any, future: Any, used: Any) -> Any:
        nonlocal shared
        from distributed.client import FutureCancelledError

        for _ in range(_RETRIES):
            try:
                return future.result()
            except FutureCancelledError:  # every worker that held the shared task is gone
                if used is shared:
                    shared = _shared(task, client)
                _, future, used = submit(item)
        return future.result()

    try:
        for item in items:
            waiting.append(submit(item))
            while waiting and (len(waiting) >= window or waiting[0][1].done()):
                yield result(*waiting.popleft())
        while waiting:
            yield result(*waiting.popleft())
    finally:
        if client.status == "running":
            client.cancel([future for _, future, _ in waiting])


def _shared(task: Callable[[Any], Any], client: Client) -> Any:
    """Send a task, with whatever matrices it carries, to a worker once and not with every tile.

    The others get it from one another. Sent to all at once, Dask waits for ever for one that dies meanwhile;
    and sent to one that dies, it looks from here as if the scheduler had gone: whether it has is told by the
    connection a moment later.
    """
    from distributed.comm import CommClosedError

    for pause_s in _PAUSES_S:
        if client.status != "running":
            raise CommClosedError
        try:
            return client.scatter(task, hash=False)
        except (OSError, KeyError):  # the connection to a worker broke, or its address is no longer known
            time.sleep(pause_s)
    return client.scatter(task, hash=False)


def _apply(task: Callable[[Any], Any], item: Any) -> Any:
    from distributed import get_worker

    try:
        return task(item)
    except OSError as problem:
        raise OSError(f"worker {get_worker().address}: {problem}") from None


def _spots(item: Any) -> int:
    return int(item.stop - item.start) if hasattr(item, "stop") else 1


def _progress(
    events: Events, stage: str | None, items: Sequence[Any]
) -> AbstractContextManager[Callable[[int], None]]:
    if stage is None:
        return SILENT.stage("")
    unit = "spots" if items and hasattr(items[0], "stop") else "tiles"
    return events.stage(stage, total=sum(map(_spots, items)), unit=unit)
