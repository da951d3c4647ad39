"""The rows around a tile that message passing needs, exactly, and the graph among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atlasnmf.schema import Csr
from atlasnmf.tiles.plan import Tile

__all__ = ["HaloTile", "halo_rings", "halo_tile", "local_graph"]


@dataclass(frozen=True)
class HaloTile:
    """A tile with the rows around it that a model passing messages needs.

    Parameters
    ----------
    tile
        The core.
    rings
        Rows first reached after 1, 2, … hops from the core, ascending within a ring, int64.
    """

    tile: Tile
    rings: tuple[np.ndarray, ...]

    @property
    def rows(self) -> np.ndarray:
        """All rows: core, first ring, second ring, …; int64."""
        return np.concatenate([np.arange(self.tile.start, self.tile.stop, dtype=np.int64), *self.rings])

    @property
    def ring_sizes(self) -> tuple[int, ...]:
        """Cumulative number of rows up to each ring, beginning with the core."""
        sizes = [self.tile.n_spots, *(len(ring) for ring in self.rings)]
        return tuple(np.cumsum(sizes).tolist())


def halo_rings(indptr: np.ndarray, indices: np.ndarray, start: int, stop: int, hops: int) -> list[np.ndarray]:
    """Find the rows first reached after 1, 2, … hops out of a run of rows.

    Parameters
    ----------
    indptr, indices
        Neighbours of every row, in the same numbering as ``start`` and ``stop``. In a directed graph hops
        follow the edges: the halo holds what the core's values are computed from.
    start, stop
        The core.
    hops
        Number of rings, possibly 0.

    Returns
    -------
    rings
        ``hops`` arrays of rows, ascending, int64; empty when nothing new is reached.

    Notes
    -----
    Exact: the breadth-first rings of the core. O(edges of the core and of the inner rings).
    """
    known = np.empty(0, dtype=np.int64)
    rings: list[np.ndarray] = []
    for hop in range(hops):
        if hop == 0:
            reached = indices[int(indptr[start]) : int(indptr[stop])]
        else:
            reached = indices[_edges_of(indptr, rings[-1])]
        outside = np.unique(reached[(reached < start) | (reached >= stop)]).astype(np.int64)
        rings.append(np.setdiff1d(outside, known, assume_unique=True))
        known = np.union1d(known, rings[-1])
    return rings


def halo_tile(indptr: np.ndarray, indices: np.ndarray, tile: Tile, hops: int) -> HaloTile:
    """Put the exact halo around a tile (see :func:`halo_rings`)."""
    return HaloTile(tile, tuple(halo_rings(indptr, indices, tile.start, tile.stop, hops)))


def local_graph(indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray | None, halo: HaloTile) -> Csr:
    """Cut out the graph of a tile by position within it.

    Parameters
    ----------
    indptr, indices
        Neighbours of every row of the atlas, in working order.
    weights
        Their weights, from whole-slice degrees; or None for ones.
    halo
        The tile; its rings must come from the same graph.

    Returns
    -------
    graph
        One row for each row of the tile but the outermost ring's (none when there is no ring), columns are
        positions in ``halo.rows``, int32, weights float32. A row's neighbours keep the order of the atlas,
        so sums over them have the same bits in every tiling; positions therefore do not ascend.
    """
    sizes = halo.ring_sizes
    rows = halo.rows
    inner = rows[: sizes[-2]] if len(sizes) > 1 else rows[:0]
    edges = _edges_of(indptr, inner)
    local_indptr = np.zeros(len(inner) + 1, dtype=np.int64)
    np.cumsum(indptr[inner + 1] - indptr[inner], out=local_indptr[1:])
    targets = indices[edges].astype(np.int64)
    positions = targets - halo.tile.start
    outside = (targets < halo.tile.start) | (targets >= halo.tile.stop)
    beyond = rows[sizes[0] :]
    ascending = np.argsort(beyond, kind="stable")
    found = ascending[np.searchsorted(beyond[ascending], targets[outside])]
    positions[outside] = found + sizes[0]
    values = np.ones(len(edges), np.float32) if weights is None else weights[edges].astype(np.float32)
    return Csr(local_indptr, positions.astype(np.int32), values, len(rows))


def _edges_of(indptr: np.ndarray, rows: np.ndarray) -> np.ndarray:
    lengths = indptr[rows + 1] - indptr[rows]
    ends = np.cumsum(lengths)
    return np.repeat(indptr[rows] - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
