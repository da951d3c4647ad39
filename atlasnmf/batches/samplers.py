"""Which rows a step sees: a function of (seed, step, rank), with no reading and nothing to remember."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from atlasnmf.errors import BadOption
from atlasnmf.seeds import rng_for
from atlasnmf.tiles.parts import share_of
from atlasnmf.tiles.plan import Tile

__all__ = ["BUFFER_ROWS", "Block", "BlockSampler", "Place", "TileSampler", "spread_rows"]

#: Rows held for shuffling over all slices unless told otherwise: 180 MB at 200 genes a spot and 150 scores.
BUFFER_ROWS = 131_072


@dataclass(frozen=True)
class Place:
    """Where a step lies in the blocks of a slice.

    Parameters
    ----------
    block
        Number of the block since the first step.
    step
        Step within the block.
    n_steps
        Steps the block serves.
    """

    block: int
    step: int
    n_steps: int


@dataclass(frozen=True)
class Block:
    """A shuffle buffer of one slice: what to read, and which step takes which row.

    Parameters
    ----------
    rows
        Rows to read by portion, int64, ascending within a portion; portions are read one after the other.
    steps
        The step within the block that takes each of those rows, int32, same shapes.
    """

    rows: tuple[np.ndarray, ...]
    steps: tuple[np.ndarray, ...]

    def drawn(self, step: int) -> np.ndarray:
        """Return the rows one step takes, in the order of a batch: by portion, ascending within it."""
        return np.concatenate([rows[at == step] for rows, at in zip(self.rows, self.steps, strict=True)])


class BlockSampler:
    """Random rows of every slice in every step, drawn from short runs so that reading them is cheap.

    A slice's rows lie along a space-filling curve. Once an epoch its runs of ``run_rows`` neighbouring rows
    are put in random order and the resulting stream is cut into blocks of about ``buffer_rows``; the rows of
    a block are shuffled and its steps take ``rows_per_slice`` of them each. So within an epoch no row comes
    twice, every batch mixes as many runs as a block has, and rows are read in runs. A slice that fits one
    block is sampled uniformly. A slice smaller than ``rows_per_slice`` gives all its rows once in every step
    (losses are means per slice, so repeating rows would change nothing). The remainder of an epoch that
    does not fill a batch, other rows in every epoch, is left out. With more ranks than rows in a batch some
    ranks get none.

    Parameters
    ----------
    offsets
        First row of every slice and the total, int64, shape (S + 1,).
    rows_per_slice
        Rows of every slice in a step, over all ranks.
    seed
        The user's seed.
    run_rows
        Rows in a run: longer reads faster, shorter mixes better.
    buffer_rows
        Rows of one slice in a block; None shares :data:`BUFFER_ROWS` among the slices, but holds at least
        eight steps. It decides which rows meet in a batch, hence the bits of a fit.
    portions
        A block is read in this many pieces, spread over the steps of the block before it.
    rank, n_ranks
        Which share of the same global batch: every ``n_ranks``-th row from ``rank`` on.

    Raises
    ------
    BadOption
        A size that is not positive, a rank out of range, or a slice without spots.
    """

    def __init__(
        self,
        offsets: np.ndarray | Sequence[int],
        rows_per_slice: int,
        *,
        seed: int,
        run_rows: int = 64,
        buffer_rows: int | None = None,
        portions: int = 8,
        rank: int = 0,
        n_ranks: int = 1,
    ) -> None:
        self.offsets = np.asarray(offsets, dtype=np.int64)
        sizes = np.diff(self.offsets)
        if (sizes <= 0).any():
            raise BadOption(f"slice {int(np.argmax(sizes <= 0))} has no spots; leave it out (--slices)")
        if buffer_rows is None:
            buffer_rows = max(BUFFER_ROWS // len(sizes), 8 * rows_per_slice)
        named = {"rows per slice": rows_per_slice, "run rows": run_rows, "portions": portions}
        for name, value in {**named, "buffer rows": buffer_rows}.items():
            if value < 1:
                raise BadOption(f"{name} must be at least 1, got {value}")
        if not 0 <= rank < n_ranks:
            raise BadOption(f"rank {rank} is not one of {n_ranks} ranks")
        self.rows_per_slice, self.run_rows, self.portions = rows_per_slice, run_rows, portions
        self.buffer_rows, self.seed, self.rank, self.n_ranks = buffer_rows, seed, rank, n_ranks
        #: Rows a step takes of each slice over all ranks, shape (S,).
        self.batch_rows = np.minimum(sizes, rows_per_slice)
        #: Steps an epoch of each slice, shape (S,).
        self.epoch_steps = sizes // self.batch_rows
        #: Blocks an epoch of each slice, shape (S,).
        self.epoch_blocks = np.clip(np.round(sizes / buffer_rows).astype(np.int64), 1, self.epoch_steps)
        # An instance's own cache: blocks of the steps around the present one.
        self.block = lru_cache(maxsize=3 * len(sizes))(self._block)
        self._runs = lru_cache(maxsize=2 * len(sizes))(self._run_order)

    def step_rows(self, step: int) -> list[int]:
        """Return the rows a step takes of each slice, over all ranks."""
        return [int(rows) for rows in self.batch_rows]

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return len(self.offsets) - 1

    def place(self, slice_index: int, step: int) -> Place:
        """Return the block of a slice that serves a step."""
        n_steps, n_blocks = int(self.epoch_steps[slice_index]), int(self.epoch_blocks[slice_index])
        epoch, within = divmod(step, n_steps)
        number = ((within + 1) * n_blocks - 1) // n_steps
        first, last = self._edges(slice_index, number)
        return Place(epoch * n_blocks + number, within - first, last - first)

    def draw(self, step: int) -> list[np.ndarray]:
        """Return the rows of a step, one int64 array a slice."""
        places = [self.place(s, step) for s in range(self.n_slices)]
        return [self.block(s, place.block).drawn(place.step) for s, place in enumerate(places)]

    def _edges(self, slice_index: int, number: int) -> tuple[int, int]:
        n_steps, n_blocks = int(self.epoch_steps[slice_index]), int(self.epoch_blocks[slice_index])
        return number * n_steps // n_blocks, (number + 1) * n_steps // n_blocks

    def _run_order(self, slice_index: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the runs of an epoch in order, and where each ends in the stream of rows."""
        n_rows = int(self.offsets[slice_index + 1] - self.offsets[slice_index])
        n_runs = -(-n_rows // self.run_rows)
        order = rng_for(self.seed, "batches", "runs", slice_index, epoch).permutation(n_runs)
        lengths = np.minimum((order + 1) * self.run_rows, n_rows) - order * self.run_rows
        return order, np.cumsum(lengths)

    def _block(self, slice_index: int, block: int) -> Block:
        epoch, number = divmod(block, int(self.epoch_blocks[slice_index]))
        first, last = self._edges(slice_index, number)
        batch = int(self.batch_rows[slice_index])
        order, ends = self._runs(slice_index, epoch)
        start = first * batch
        stop = int(ends[-1]) if number + 1 == self.epoch_blocks[slice_index] else last * batch
        # Runs that meet [start, stop) of the stream; a run cut by an edge is shared by two blocks.
        lo, hi = np.searchsorted(ends, [start, stop - 1], side="right")
        runs = np.arange(lo, hi + 1)
        begins = ends - np.diff(ends, prepend=0)
        from_row = order[runs] * self.run_rows + np.maximum(start - begins[runs], 0)
        n_rows = np.minimum(ends[runs], stop) - np.maximum(begins[runs], start)

        # The shuffle deals the stream's rows to the steps; what is over belongs to no step.
        shuffled = rng_for(self.seed, "batches", "rows", slice_index, block).permutation(stop - start)
        steps = np.where(shuffled < (last - first) * batch, shuffled // batch, -1).astype(np.int32)
        cuts = np.cumsum(n_rows)
        rows = np.repeat(from_row - np.r_[0, cuts[:-1]], n_rows) + np.arange(stop - start)
        portion_of_run = np.arange(len(runs)) * self.portions // len(runs)
        order_read = np.lexsort((rows, np.repeat(portion_of_run, n_rows)))
        rows, steps = rows[order_read] + self.offsets[slice_index], steps[order_read]
        portion = np.repeat(portion_of_run, n_rows)[order_read]

        mine = np.zeros(len(rows), dtype=bool)
        by_step = np.argsort(steps, kind="stable")[np.count_nonzero(steps < 0) :]
        mine[by_step.reshape(-1, batch)[:, self.rank :: self.n_ranks]] = True
        rows, steps, portion = rows[mine], steps[mine], portion[mine]
        edges = np.searchsorted(portion, np.arange(1, self.portions))
        return Block(tuple(np.split(rows, edges)), tuple(np.split(steps, edges)))


class TileSampler:
    """One tile of every slice in every step, in an order shuffled anew each epoch of the slice.

    A slice with fewer tiles than another goes through its tiles more often.

    Parameters
    ----------
    tiles
        The tiles of all slices, every slice with at least one.
    seed
        The user's seed.
    rank, n_ranks
        Which share of the same global batch: a near-equal run of every tile's core.

    Raises
    ------
    BadOption
        A slice has no tile, or the rank is out of range.
    """

    def __init__(self, tiles: Sequence[Tile], *, seed: int, rank: int = 0, n_ranks: int = 1) -> None:
        if not 0 <= rank < n_ranks:
            raise BadOption(f"rank {rank} is not one of {n_ranks} ranks")
        n_slices = 1 + max((tile.slice_index for tile in tiles), default=-1)
        by_slice: list[list[Tile]] = [[] for _ in range(n_slices)]
        for tile in tiles:
            by_slice[tile.slice_index].append(tile)
        if not n_slices or not all(by_slice):
            empty = next((s for s, own in enumerate(by_slice) if not own), 0)
            raise BadOption(f"slice {empty} has no spots; leave it out (--slices)")
        self.tiles = tuple(tuple(own) for own in by_slice)
        self.seed, self.rank, self.n_ranks = seed, rank, n_ranks
        self._order = lru_cache(maxsize=2 * n_slices)(self._shuffled)

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return len(self.tiles)

    def draw(self, step: int) -> list[Tile]:
        """Return this rank's share of the tiles of a step, one a slice."""
        drawn = []
        for tile in self.whole(step):
            own = share_of(tile.stop - tile.start, self.rank, self.n_ranks)
            drawn.append(replace(tile, start=tile.start + own.start, stop=tile.start + own.stop))
        return drawn

    def whole(self, step: int) -> list[Tile]:
        """Return the tiles of a step that all ranks share, one a slice."""
        drawn = []
        for slice_index, own in enumerate(self.tiles):
            epoch, within = divmod(step, len(own))
            drawn.append(own[int(self._order(slice_index, epoch)[within])])
        return drawn

    def _shuffled(self, slice_index: int, epoch: int) -> np.ndarray:
        rng = rng_for(self.seed, "batches", "tiles", slice_index, epoch)
        return rng.permutation(len(self.tiles[slice_index]))


def spread_rows(
    offsets: np.ndarray | Sequence[int], rows_per_slice: int, *, seed: int, run_rows: int = 16
) -> list[np.ndarray]:
    """Choose rows that cover every slice evenly: one short run at a random place of each equal stretch.

    Parameters
    ----------
    offsets
        First row of every slice and the total, shape (S + 1,).
    rows_per_slice
        About how many rows of a slice; a smaller slice gives all.
    seed
        The user's seed.
    run_rows
        Rows in a run.

    Returns
    -------
    list of np.ndarray
        Ascending int64 rows of each slice, none twice.
    """
    chosen = []
    bounds = np.asarray(offsets, dtype=np.int64)
    for slice_index, (start, stop) in enumerate(pairwise(bounds)):
        n_rows = int(stop - start)
        if n_rows <= rows_per_slice:
            chosen.append(np.arange(start, stop))
            continue
        run = min(run_rows, rows_per_slice)
        n_runs = max(rows_per_slice // run, 1)
        edges = np.arange(n_runs + 1) * n_rows // n_runs
        free = np.diff(edges) - run  # never negative: n_rows > rows_per_slice >= n_runs * run
        at = rng_for(seed, "batches", "sample", slice_index).integers(0, free + 1)
        chosen.append((start + edges[:-1, None] + at[:, None] + np.arange(run)).ravel())
    return chosen
