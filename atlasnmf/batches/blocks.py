"""Shuffle buffers filled from disk: each short run is read once and serves many steps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from atlasnmf.batches.samplers import Block, BlockSampler
from atlasnmf.batches.sources import Spots, SpotSource
from atlasnmf.schema import SliceBatch

__all__ = ["buffered_units"]


class _Piles:
    """The rows of one block, dealt to the steps that will take them and dropped as they are taken."""

    def __init__(self, source: SpotSource, block: Block, first_step: int, n_steps: int) -> None:
        self._source, self._block = source, block
        self._first_step, self._n_portions = first_step, len(block.rows)
        self._piles: list[list[Spots]] = [[] for _ in range(n_steps)]
        self._read = 0

    def fill(self, share: float) -> None:
        """Read portions until ``share`` of them is there."""
        while self._read < share * self._n_portions:
            rows, steps = self._block.rows[self._read], self._block.steps[self._read]
            self._read += 1
            wanted = steps >= self._first_step  # a resumed run skips what earlier steps took
            rows, steps = rows[wanted], steps[wanted]
            if not len(rows):
                continue
            order = np.argsort(steps, kind="stable")
            spots = self._source.read_rows(rows[order])
            edges = np.searchsorted(steps[order], np.arange(len(self._piles) + 1))
            for step, pile in enumerate(self._piles):
                if edges[step] < edges[step + 1]:
                    pile.append(spots.cut(edges[step], edges[step + 1]))

    def take(self, step: int) -> Spots:
        """Return the rows of a step and forget them."""
        pile, self._piles[step] = self._piles[step], []
        return Spots.stack(pile) if pile else self._source.read(0, 0)


def buffered_units(source: SpotSource, sampler: BlockSampler, step: int) -> Iterator[list[SliceBatch]]:
    """Read the units of a block sampler from ``step`` on, without end.

    While a block is used the next one is read, one portion after another; rows leave memory as steps take
    them. So about one block per slice is held and every step reads about as much as it uses.

    Parameters
    ----------
    source
        Where the rows are.
    sampler
        Which rows; the units are those of :meth:`BlockSampler.draw`.
    step
        The first step.
    """
    piles: dict[tuple[int, int], _Piles] = {}

    def piles_of(slice_index: int, block: int, first_step: int, n_steps: int) -> _Piles:
        key = slice_index, block
        if key not in piles:
            piles[key] = _Piles(source, sampler.block(slice_index, block), first_step, n_steps)
        return piles[key]

    while True:
        unit = []
        for slice_index in range(sampler.n_slices):
            place = sampler.place(slice_index, step)
            present = piles_of(slice_index, place.block, place.step, place.n_steps)
            present.fill(1.0)
            unit.append(source.batch(slice_index, present.take(place.step)))
            steps_left = place.n_steps - place.step
            after = sampler.place(slice_index, step + steps_left)
            coming = piles_of(slice_index, after.block, 0, after.n_steps)
            if steps_left == 1:
                del piles[slice_index, place.block]
            coming.fill((place.step + 1) / place.n_steps)
        yield unit
        step += 1
