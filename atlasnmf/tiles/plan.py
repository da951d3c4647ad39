"""Which spots are worked on together: runs of the working order, and the rows around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from atlasnmf.errors import BadOption

__all__ = ["Tile", "expected_halo", "plan_tiles"]

#: Largest halo of a run of the Hilbert order against that of a square or cube of as many spots, by dimension:
#: at most 1.48 and .65 on points at random, grids and clusters, 256 to 8192 spots, 1 to 4 hops.
_RAGGED = {1: 1.0, 2: 1.6, 3: 0.75}


@dataclass(frozen=True)
class Tile:
    """A run of the working order within one slice.

    Parameters
    ----------
    index
        Number of the tile.
    slice_index
        Slice its spots belong to.
    start, stop
        First working row and end.
    """

    index: int
    slice_index: int
    start: int
    stop: int

    @property
    def n_spots(self) -> int:
        """Spots of the tile, halo not counted."""
        return self.stop - self.start


def plan_tiles(offsets: Sequence[int] | np.ndarray, tile_spots: int) -> tuple[Tile, ...]:
    """Cut slices into tiles of nearly equal size, none larger than asked, none across slices.

    Parameters
    ----------
    offsets
        First working row of each slice and the total, shape (S + 1,).
    tile_spots
        Most spots of a tile.

    Raises
    ------
    BadOption
        The tile size is not positive.

    Examples
    --------
    >>> [(tile.slice_index, tile.start, tile.stop) for tile in plan_tiles([0, 5, 7], 3)]
    [(0, 0, 2), (0, 2, 5), (1, 5, 7)]
    """
    if tile_spots < 1:
        raise BadOption(
            f"a tile needs at least 1 spot, got {tile_spots}; leave the tile size out to choose it"
        )
    tiles: list[Tile] = []
    for slice_index, (first, end) in enumerate(pairwise(int(offset) for offset in offsets)):
        n = end - first
        n_tiles = -(-n // tile_spots)
        cuts = [first + n * t // n_tiles for t in range(n_tiles + 1)] if n_tiles else []
        for start, stop in pairwise(cuts):
            tiles.append(Tile(len(tiles), slice_index, start, stop))
    return tuple(tiles)


def expected_halo(tile_spots: int, hops: int, *, mean_degree: float = 7.0, n_dims: int = 2) -> int:
    """Estimate the rows of a tile with its halo before there is a graph.

    Parameters
    ----------
    tile_spots
        Spots of the core.
    hops
        Rings around it.
    mean_degree
        Mean neighbours of a spot, itself included.
    n_dims
        2 or 3.

    Returns
    -------
    n_rows
        Rows of core and halo, an upper estimate: those of a square or cube grown on every side by the
        reach of ``hops`` hops, the growth weighed by what runs of a Hilbert curve were measured to need.

    Examples
    --------
    >>> expected_halo(8192, 0), expected_halo(8192, 2)
    (8192, 9978)
    """
    ball = {1: 2.0, 2: np.pi, 3: 4 / 3 * np.pi}[n_dims]
    reach = (mean_degree / ball) ** (1 / n_dims)
    grown = (tile_spots ** (1 / n_dims) + 2 * hops * reach) ** n_dims
    return round(tile_spots + _RAGGED[n_dims] * (grown - tile_spots))
