"""One reading of all spots after another: the units of models that sum over the whole atlas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.batches.sources import SpotSource
from atlasnmf.reduce.reduction import add
from atlasnmf.reduce.tiles import stream_tiles
from atlasnmf.schema import SliceBatch
from atlasnmf.tiles.parts import sample_tiles
from atlasnmf.tiles.plan import Tile

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Pass", "Passes"]

#: Blocks of a sample at least, and their rows at most.
_BLOCKS, _BLOCK_ROWS = 8, 512
#: Tasks of a pass at least, where it has as many tiles, and rows that are enough for one.
_LEAST_TASKS, _TASK_ROWS = 16, 4096
#: What a model keeps of every spot: one array, or several.
Rows = np.ndarray | tuple[np.ndarray, ...]


@dataclass(frozen=True)
class _Item:
    """A tile, and the runs of what the model keeps of its spots; small enough to send to a worker."""

    tile: Tile
    rows: tuple[np.ndarray, ...]


class Pass:
    """One reading of every spot, tile by tile, in a fixed order.

    Parameters
    ----------
    source
        Where the rows are.
    tiles
        Runs of the working order that cover it.
    client
        A Dask client whose workers read and contract the tiles; None works in threads of this process.
    n_workers
        Threads of this process.
    held
        The same rows as this process has them, for what it does itself; ``source`` when not given.
    """

    def __init__(
        self,
        source: SpotSource,
        tiles: Sequence[Tile],
        *,
        client: Client | None = None,
        n_workers: int = 1,
        held: SpotSource | None = None,
    ) -> None:
        self._source, self.tiles = source, tuple(tiles)
        self._client, self._n_workers, self._held = client, n_workers, held

    @property
    def n_rows(self) -> int:
        """Spots of all slices."""
        return self._source.n_spots

    @property
    def n_read(self) -> int:
        """Spots of the tiles of this pass."""
        return sum(tile.stop - tile.start for tile in self.tiles)

    @property
    def offsets(self) -> np.ndarray:
        """First row of every slice and the total, shape (S + 1,)."""
        return self._source.offsets

    def only(self, slice_index: int) -> Pass:
        """Return a pass over the tiles of one slice; arrays of rows still have a row for every spot."""
        tiles = [tile for tile in self.tiles if tile.slice_index == slice_index]
        return self._over(tiles)

    def here(self) -> Pass:
        """Return the same pass in threads of this process alone, for spots whose values a model keeps.

        What is known of such a spot would have to travel to a worker and back in every pass, which takes more
        processor time than to go over it.
        """
        if self._client is None:
            return self
        return Pass(self._held or self._source, self.tiles, n_workers=self._n_workers)

    def sampled(self, n_spots: int) -> Pass:
        """Return a pass over about as many spots in evenly spaced blocks; this one when there are no more."""
        if self.n_rows <= n_spots:
            return self
        parts = sample_tiles(self.offsets, n_spots, min(max(n_spots // _BLOCKS, 1), _BLOCK_ROWS))
        tiles = [Tile(part.index, part.slice_index, part.start, part.stop) for part in parts]
        return self._over(tiles)

    def _over(self, tiles: Sequence[Tile]) -> Pass:
        return Pass(self._source, tiles, client=self._client, n_workers=self._n_workers, held=self._held)

    def reduce(
        self,
        chunk: Callable[..., Any],
        *,
        combine: Callable[[Any, Any], Any] = add,
        rows: Rows | None = None,
        beside: tuple[np.ndarray, ...] = (),
    ) -> Any:
        """Contract every tile once and merge the parts from left to right, first those of small tiles.

        Parameters
        ----------
        chunk
            ``chunk(batch, *beside) -> part``, or with ``rows`` ``chunk(batch, own, *beside) -> (part, new)``:
            pure, picklable for a cluster, may be run again.
        combine
            ``combine(left, right) -> part``; may overwrite ``left``.
        rows
            What the model keeps of every spot, first axis ``n_rows``, or of those of this pass alone, first
            axis ``n_read``: a tile sees its own run and returns the run that takes its place, in this array.
            Or a tuple of such arrays: ``chunk`` gets one after the other, and ``new`` is a tuple.
        beside
            More such arrays, of which a tile sees its own runs.

        Returns
        -------
        part
            The merged parts: the same bits for any number of workers, in threads or processes.
        """
        task = partial(_read_and_contract, self._source, chunk)
        return self._merged(task, combine, rows, beside)

    def sweep(
        self,
        chunk: Callable[..., Any],
        rows: Rows,
        *beside: np.ndarray,
        combine: Callable[[Any, Any], Any] = add,
    ) -> Any:
        """Go over what the model keeps of every spot, without reading the atlas.

        Parameters
        ----------
        chunk
            ``chunk(own, *beside) -> (part, new)`` of the runs of a tile; it may change ``own`` in place and
            return it.
        rows, beside
            Arrays of ``n_rows`` or ``n_read`` rows; ``rows`` is overwritten with what the chunks return as
            ``new``.
        combine
            As in :meth:`reduce`.

        Notes
        -----
        Always in threads of this process: what is kept is here, and to send it to a worker and back takes
        longer than what is done with it.
        """
        return self.here()._merged(partial(_contract, chunk), combine, rows, beside)

    def _merged(
        self,
        task: Callable[[_Item], Any],
        combine: Callable[[Any, Any], Any],
        rows: Rows | None,
        beside: tuple[np.ndarray, ...],
    ) -> Any:
        own = () if rows is None else rows if isinstance(rows, tuple) else (rows,)
        places = self._places()
        runs = [[array[place] for place in places[len(array)]] for array in (*own, *beside)]
        items = [_Item(tile, tuple(of_tile)) for tile, *of_tile in zip(self.tiles, *runs, strict=True)]
        together = partial(_together, task, combine, rows is not None)
        stream = stream_tiles(together, self._bundles(items), client=self._client, n_workers=self._n_workers)
        total, at = None, 0
        for index, (part, changed) in enumerate(stream):
            for new in changed:
                runs_of_tile = new if isinstance(rows, tuple) else (new,)
                for array, run, given in zip(own, runs_of_tile, items[at].rows[: len(own)], strict=True):
                    if run is not given:
                        array[places[len(array)][at]] = run
                at += 1
            total = part if index == 0 else combine(total, part)
        return total

    def _bundles(self, items: list[_Item]) -> list[list[_Item]]:
        """Put small tiles together, whoever works: their parts are larger than what they were read from."""
        enough = min(self.n_read // _LEAST_TASKS, _TASK_ROWS)
        bundles: list[list[_Item]] = []
        held = enough
        for item in items:
            if held >= enough:
                bundles.append([])
                held = 0
            bundles[-1].append(item)
            held += item.tile.stop - item.tile.start
        return bundles

    def _places(self) -> dict[int, list[slice]]:
        """Return the run of every tile in arrays of so many rows: those of this pass, or all."""
        ends = np.cumsum([tile.stop - tile.start for tile in self.tiles]).tolist()
        return {
            self.n_read: [slice(start, stop) for start, stop in pairwise([0, *ends])],
            self.n_rows: [slice(tile.start, tile.stop) for tile in self.tiles],
        }


def _together(
    task: Callable[[_Item], Any], combine: Callable[[Any, Any], Any], keeps_rows: bool, items: list[_Item]
) -> tuple[Any, list[Any]]:
    """Merge the parts of some tiles from left to right; return what takes the place of their rows beside."""
    total, changed = None, []
    for index, item in enumerate(items):
        part = task(item)
        if keeps_rows:
            part, new = part
            changed.append(new)
        total = part if index == 0 else combine(total, part)
    return total, changed


def _read_and_contract(source: SpotSource, chunk: Callable[..., Any], item: _Item) -> Any:
    tile = item.tile
    batch: SliceBatch = source.batch(tile.slice_index, source.read(tile.start, tile.stop))
    return chunk(batch, *item.rows)


def _contract(chunk: Callable[..., Any], item: _Item) -> Any:
    return chunk(*item.rows)


@dataclass(frozen=True)
class Passes:
    """Passes without end: the same tiles in the same order, whatever the position.

    Parameters
    ----------
    source, tiles, client, n_workers, held
        As in :class:`Pass`.
    """

    source: SpotSource
    tiles: tuple[Tile, ...]
    client: Client | None = None
    n_workers: int = 1
    held: SpotSource | None = None

    def whole(self) -> Pass:
        """Return one pass."""
        return Pass(self.source, self.tiles, client=self.client, n_workers=self.n_workers, held=self.held)

    def starting_at(self, step: int) -> Iterator[Pass]:
        """Return a pass for every step from ``step`` on."""
        while True:
            yield self.whole()
