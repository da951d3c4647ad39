"""Which spots are worked on together: runs of the working order, and how many spots fit a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from atlasnmf.budget import format_bytes
from atlasnmf.errors import BadOption

__all__ = ["Tile", "expected_halo", "plan_tiles", "planned_bytes", "spots_that_fit"]

#: Chosen tiles hold a whole number of storage chunks of 256 rows, and no more rows than a part on disk.
_STEP = 256
_LARGEST = 32_768
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


def planned_bytes(
    tile_spots: int,
    bytes_per_spot: float,
    *,
    hops: int = 0,
    mean_degree: float = 7.0,
    n_dims: int = 2,
    n_tiles: int = 1,
    fixed_bytes: int = 0,
) -> int:
    """Plan the memory of tiles that are worked on at the same time.

    Parameters
    ----------
    tile_spots
        Spots of the core of a tile.
    bytes_per_spot
        Bytes held for each row of a tile, halo rows alike: inputs, results and scratch.
    hops, mean_degree, n_dims
        See :func:`expected_halo`.
    n_tiles
        Tiles in memory at once.
    fixed_bytes
        What is held whatever the tile: model, sums per gene, vectors over all spots.
    """
    rows = expected_halo(tile_spots, hops, mean_degree=mean_degree, n_dims=n_dims)
    return int(np.ceil(n_tiles * rows * bytes_per_spot)) + int(fixed_bytes)


def spots_that_fit(
    budget_bytes: int,
    bytes_per_spot: float,
    *,
    tile_spots: int | None = None,
    hops: int = 0,
    mean_degree: float = 7.0,
    n_dims: int = 2,
    n_tiles: int = 1,
    fixed_bytes: int = 0,
    largest: int = _LARGEST,
    option: str = "--tile-size",
) -> int:
    """Choose the tile size, or refuse the one asked for when it does not fit.

    Parameters
    ----------
    budget_bytes
        Memory there is for tiles and ``fixed_bytes``.
    bytes_per_spot, hops, mean_degree, n_dims, n_tiles, fixed_bytes
        See :func:`planned_bytes`.
    tile_spots
        The size asked for; None chooses.
    largest
        Never choose more spots than this.
    option
        How the user sets the tile size.

    Returns
    -------
    tile_spots
        The size asked for, or the largest multiple of 256 that fits.

    Raises
    ------
    BadOption
        The size asked for does not fit, naming one that does; or not even 256 spots fit, naming the
        smallest budget that works.

    Examples
    --------
    >>> spots_that_fit(4_000_000_000, 622_559, tile_spots=8192)
    Traceback (most recent call last):
    ...
    atlasnmf.errors.BadOption: a tile of 8192 spots needs 5.1 GB but the budget is 4.0 GB; ...
    """

    def needed(spots: int) -> int:
        return planned_bytes(
            spots,
            bytes_per_spot,
            hops=hops,
            mean_degree=mean_degree,
            n_dims=n_dims,
            n_tiles=n_tiles,
            fixed_bytes=fixed_bytes,
        )

    if tile_spots is not None and needed(tile_spots) <= budget_bytes:
        return tile_spots
    low, high = 0, max(largest if tile_spots is None else tile_spots, _STEP) // _STEP
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if needed(middle * _STEP) <= budget_bytes else (low, middle - 1)
    if low and tile_spots is None:
        return low * _STEP
    asked = tile_spots or _STEP
    at_once = f" with {n_tiles} of them at once" if n_tiles > 1 else ""
    smallest = format_bytes(1.01 * needed(min(asked, _STEP)))
    raise BadOption(
        f"a tile of {asked} {'spot' if asked == 1 else 'spots'}{at_once} needs {format_bytes(needed(asked))} "
        f"but the budget is {format_bytes(budget_bytes)}; "
        + (f"try {option} {low * _STEP}" if low else f"try a budget of {smallest}")
    )
