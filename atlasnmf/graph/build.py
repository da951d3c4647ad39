"""The graph of a slice: neighbours within a radius or the k nearest, itself included, tile by tile."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasnmf.errors import BadOption
from atlasnmf.graph.scale import MOST_NEIGHBOURS
from atlasnmf.kernels.dispatch import kernel, to_host
from atlasnmf.schema import Csr

__all__ = [
    "count_duplicates",
    "slice_graph",
    "slice_index",
    "symmetric_union",
]


def slice_index(
    coords: np.ndarray, *, radius: float | None = None, n_neighbors: int | None = None, device: str = "cpu"
) -> Any:
    """Sort the spots of a slice once, so that :func:`slice_graph` can be asked tile by tile.

    Parameters
    ----------
    coords, radius, n_neighbors, device
        See :func:`slice_graph`.

    Returns
    -------
    index
        About 50 bytes per spot on the device.
    """
    neighbours = kernel("neighbours", device)
    if _by_radius(radius, n_neighbors):
        return neighbours.radius_index(coords, radius)
    return neighbours.knn_index(coords)


def slice_graph(
    coords: np.ndarray,
    *,
    radius: float | None = None,
    n_neighbors: int | None = None,
    start: int = 0,
    stop: int | None = None,
    index: Any = None,
    device: str = "cpu",
) -> Csr:
    """Find the neighbours of a run of spots of one slice.

    Parameters
    ----------
    coords
        All spots of the slice in working order, finite, shape (n, 2) or (n, 3).
    radius
        Spots closer than this are neighbours, in the unit of the coordinates: symmetric.
    n_neighbors
        Or: each spot's nearest others, this many: directed, for a spot may be near another that has
        nearer ones. :func:`symmetric_union` makes it undirected.
    start, stop
        The run, all spots by default.
    index
        From :func:`slice_index` with the same coordinates and options; made here when None.
    device
        ``cpu`` or ``cuda``.

    Returns
    -------
    graph
        Rows of the run; columns are spots of the slice, ascending, int32, each spot among its own
        neighbours; data are ones, uint8. Spots at the same place are neighbours.

    Raises
    ------
    BadOption
        Not exactly one of radius and number of neighbours is given, or it is not positive.

    Notes
    -----
    About 1 µs a spot on one core, whatever the density.
    """
    neighbours = kernel("neighbours", device)
    rows = (start, len(coords) if stop is None else stop)
    if _by_radius(radius, n_neighbors):
        parts = neighbours.radius_neighbours(coords, radius, rows, index=index)
    else:
        parts = neighbours.knn_neighbours(coords, n_neighbors, rows, index=index)
    indptr, indices = (to_host(part) for part in parts)
    return Csr(indptr, indices, np.ones(len(indices), dtype=np.uint8), len(coords))


def _by_radius(radius: float | None, n_neighbors: int | None) -> bool:
    if (radius is None) == (n_neighbors is None):
        raise BadOption("a graph needs either a radius or a number of neighbours; give one of the two")
    if radius is not None and not 0 < radius < np.inf:
        raise BadOption(f"the radius must be positive and finite, got {radius}; leave it out to choose it")
    if n_neighbors is not None and not 1 <= n_neighbors <= MOST_NEIGHBOURS:
        raise BadOption(
            f"the number of neighbours must be from 1 to {MOST_NEIGHBOURS:g}, got {n_neighbors}; 6 is usual"
        )
    return radius is not None


def symmetric_union(graph: Csr) -> Csr:
    """Make a graph undirected: two spots are neighbours when either has the other.

    Parameters
    ----------
    graph
        All rows of a slice, from :func:`slice_graph`; the data are not looked at.

    Returns
    -------
    graph
        Symmetric, columns ascending, int32, data ones, uint8. Degrees are no longer all the same.

    Notes
    -----
    Needs the graph of the whole slice: about 20 bytes an edge while it works.
    """
    pattern = Csr(graph.indptr, graph.indices, np.ones(graph.nnz, dtype=bool), graph.n_cols).to_scipy()
    union = (pattern + pattern.T).tocsr()
    union.sort_indices()
    indptr, indices = union.indptr.astype(np.int64), union.indices.astype(np.int32)
    return Csr(indptr, indices, np.ones(len(indices), dtype=np.uint8), graph.n_cols)


def count_duplicates(coords: np.ndarray) -> int:
    """Count the spots of a slice that share their coordinates with another spot.

    Examples
    --------
    >>> count_duplicates(np.array([[0, 0], [1, 0], [0, 0], [0, 0]]))
    3
    """
    if len(coords) < 2:
        return 0
    order = np.lexsort(np.asarray(coords).T)
    same = (coords[order[1:]] == coords[order[:-1]]).all(axis=1)
    return int(np.count_nonzero(np.append(same, False) | np.append(False, same)))
