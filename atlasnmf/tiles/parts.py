"""Runs of rows within slices: what is written, or read, as one piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

__all__ = ["PART_ROWS", "SAMPLE_SPOTS", "TILE_ROWS", "Part", "plan_parts", "sample_tiles", "share_of"]

#: The most rows a part may have.
PART_ROWS = 32768
#: Rows read at once by a pass: large enough that reading is sequential, small enough for any budget.
TILE_ROWS = 8192
#: Spots that components are estimated from: enough for any number of components one can look at.
SAMPLE_SPOTS = 32768
#: Rows of a block of the sample: two chunks on disk, and few enough that blocks reach every organ.
_BLOCK_ROWS = 512


@dataclass(frozen=True)
class Part:
    """A run of working rows within one slice.

    Parameters
    ----------
    index
        Position among the parts.
    slice_index
        The slice it lies in.
    start, stop
        Working rows.
    """

    index: int
    slice_index: int
    start: int
    stop: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


def share_of(n: int, rank: int, n_ranks: int) -> slice:
    """Return one rank's near-equal run of so many things; the runs of all ranks follow one another.

    Examples
    --------
    >>> [share_of(7, rank, 3) for rank in range(3)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """
    return slice(n * rank // n_ranks, n * (rank + 1) // n_ranks)


def plan_parts(offsets: Sequence[int] | np.ndarray, part_rows: int = PART_ROWS) -> tuple[Part, ...]:
    """Cut every slice into near-equal parts of at most ``part_rows`` rows.

    Parameters
    ----------
    offsets
        First working row of every slice and the total, shape (S + 1,).
    part_rows
        The most rows of a part.

    Examples
    --------
    >>> [(part.slice_index, part.start, part.stop) for part in plan_parts([0, 5, 7], part_rows=3)]
    [(0, 0, 2), (0, 2, 5), (1, 5, 7)]
    """
    if part_rows < 1:
        raise ValueError(f"a part must have at least one row, got part_rows={part_rows}")
    parts: list[Part] = []
    for slice_index, (start, stop) in enumerate(pairwise(offsets)):
        n_rows = int(stop) - int(start)
        n_parts = -(-n_rows // part_rows)
        edges = [int(start) + n_rows * i // n_parts for i in range(n_parts + 1)] if n_parts else []
        parts += [
            Part(len(parts) + i, slice_index, edges[i], edges[i + 1]) for i in range(max(len(edges) - 1, 0))
        ]
    return tuple(parts)


def sample_tiles(
    offsets: np.ndarray, n_spots: int = SAMPLE_SPOTS, block_rows: int = _BLOCK_ROWS
) -> tuple[Part, ...]:
    """Choose evenly spaced runs of spots, about as many in every slice.

    Parameters
    ----------
    offsets
        First working row of every slice and the total, shape (S + 1,).
    n_spots
        About how many spots to choose; an atlas with no more is taken whole, in larger tiles.
    block_rows
        Rows of a run.

    Returns
    -------
    tiles
        The runs, in order.
    """
    if int(offsets[-1]) <= n_spots:
        return plan_parts(offsets, TILE_ROWS)
    sizes = np.diff(offsets)
    quota = n_spots // max(int(np.sum(sizes > 0)), 1)
    chosen: list[Part] = []
    blocks = plan_parts(offsets, block_rows)
    for index in range(len(sizes)):
        own = [block for block in blocks if block.slice_index == index]
        n_chosen = min(len(own), max(quota // block_rows, 1))
        middles = (np.arange(n_chosen) + 0.5) * len(own) / max(n_chosen, 1)
        chosen += [own[int(middle)] for middle in middles]
    return tuple(chosen)
