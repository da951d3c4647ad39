"""Which points are near which: within a radius, or the k nearest; 2-D and 3-D, exact, any density."""

from __future__ import annotations

import numpy as np
from numba import njit

from atlasnmf.kernels._cells import CellGrid, as_points, build_cells, matching, row_range
from atlasnmf.kernels.cpu._kdtree import KdTree, build_tree, nearest

__all__ = [
    "CellGrid",
    "KdTree",
    "count_neighbours",
    "knn_distances",
    "knn_index",
    "knn_neighbours",
    "radius_index",
    "radius_neighbours",
]


def radius_index(coords: np.ndarray, radius: float) -> CellGrid:
    """Prepare :func:`radius_neighbours` for being asked tile by tile (see :func:`build_cells`)."""
    return build_cells(as_points(coords), radius)


def knn_index(coords: np.ndarray) -> KdTree:
    """Prepare :func:`knn_neighbours` for being asked tile by tile (see :func:`build_tree`)."""
    return build_tree(as_points(coords))


def radius_neighbours(
    coords: np.ndarray,
    radius: float,
    rows: tuple[int, int] | None = None,
    *,
    index: CellGrid | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find all points closer than a radius.

    Parameters
    ----------
    coords
        Finite, shape (n, d) with d of 1, 2 or 3; computed with as float64.
    radius
        Distances strictly below it count, in the unit of the coordinates. The point itself and points at
        the same place always do.
    rows
        Ask for points ``start`` to ``stop`` only; all by default.
    index
        What :func:`radius_index` made of the same coordinates and radius.

    Returns
    -------
    indptr
        int64, shape (stop - start + 1,).
    indices
        Neighbours of each row, itself included, ascending, int32.

    Notes
    -----
    Cells as wide as the radius, sorted by key: a row looks at 3^(d-1) runs of three adjacent cells.
    """
    points = as_points(coords)
    start, stop = row_range(rows, len(points))
    grid = matching(index, radius) or build_cells(points, radius)
    return _within(points, float(radius), start, stop, *grid[1:])


def count_neighbours(
    coords: np.ndarray, radius: float, rows: np.ndarray, *, index: CellGrid | None = None
) -> np.ndarray:
    """Count the points closer than a radius without listing them.

    Parameters
    ----------
    coords, radius, index
        See :func:`radius_neighbours`.
    rows
        Points to count for, integer, shape (m,).

    Returns
    -------
    counts
        Neighbours of each, itself included, int64, shape (m,).
    """
    points = as_points(coords)
    grid = matching(index, radius) or build_cells(points, radius)
    return _count(points, float(radius), np.ascontiguousarray(rows, dtype=np.int64), *grid[1:])


def knn_neighbours(
    coords: np.ndarray, k: int, rows: tuple[int, int] | None = None, *, index: KdTree | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find each point's k nearest others.

    Parameters
    ----------
    coords
        Finite, shape (n, d) with d of 1, 2 or 3; computed with as float64.
    k
        Neighbours beside the point itself, at least 1; with fewer than k other points, all of them.
    rows
        Ask for points ``start`` to ``stop`` only; all by default.
    index
        What :func:`knn_index` made of the same coordinates.

    Returns
    -------
    indptr
        int64, shape (stop - start + 1,).
    indices
        The point itself and its k nearest others, ascending, int32. Among equally distant points those
        with the smaller number are taken, so the answer is unique. The graph is directed: a may be among
        the nearest of b without b being among those of a.
    """
    points = as_points(coords)
    start, stop = row_range(rows, len(points))
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    n_others = min(int(k), max(len(points) - 1, 0))
    indptr = np.arange(stop - start + 1, dtype=np.int64) * (n_others + 1)
    if n_others == 0:
        return indptr, np.arange(start, stop, dtype=np.int32)
    rows_asked = np.arange(start, stop, dtype=np.int64)
    tree = index if index is not None else build_tree(points)
    indices = np.empty((stop - start, n_others + 1), dtype=np.int32)
    indices[:, 0] = rows_asked
    indices[:, 1:], _ = nearest(points, n_others, rows_asked, tree)
    indices.sort(axis=1)
    return indptr, indices.reshape(-1)


def knn_distances(coords: np.ndarray, k: int, rows: np.ndarray, *, index: KdTree | None = None) -> np.ndarray:
    """Measure the distances from some points to their k nearest others.

    Parameters
    ----------
    coords, k, index
        See :func:`knn_neighbours`.
    rows
        Points to measure from, integer, shape (m,).

    Returns
    -------
    distances
        float64, ascending within a row, shape (m, min(k, n - 1)).
    """
    points = as_points(coords)
    n_others = min(int(k), max(len(points) - 1, 0))
    asked = np.ascontiguousarray(rows, dtype=np.int64)
    if n_others == 0:
        return np.empty((len(asked), 0))
    tree = index if index is not None else build_tree(points)
    return np.sqrt(nearest(points, n_others, asked, tree)[1])


@njit(nogil=True, cache=True, inline="always")
def _run(i, corner, cells, strides, keys, starts):  # type: ignore[no-untyped-def]
    """Return the sorted points of three cells in a row: run ``corner`` of the 3^(d-1) around point i."""
    d = cells.shape[1]
    key = np.int64(-1)
    for a in range(d):
        key += cells[i, a] * strides[a]
    for a in range(d - 2, -1, -1):
        key += (corner % 3 - 1) * strides[a]
        corner //= 3
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    while high < len(keys) and keys[high] <= key + 2:
        high += 1
    return starts[low], starts[high]


@njit(nogil=True, cache=True, inline="always")
def _squared_distance(points, q, coords, i):  # type: ignore[no-untyped-def]
    total = 0.0
    for a in range(points.shape[1]):
        gap = points[q, a] - coords[i, a]
        total += gap * gap
    return total


@njit(nogil=True, cache=True)
def _within(coords, radius, start, stop, cells, strides, keys, starts, order, points):  # type: ignore[no-untyped-def]
    n_runs = 3 ** (coords.shape[1] - 1)
    limit = radius * radius
    indptr = np.zeros(stop - start + 1, dtype=np.int64)
    indices = np.empty(16 * (stop - start) + 64, dtype=np.int32)
    at = 0
    for i in range(start, stop):
        first = at
        for corner in range(n_runs):
            lo, hi = _run(i, corner, cells, strides, keys, starts)
            if at + hi - lo > len(indices):
                larger = np.empty(2 * (at + hi - lo), dtype=np.int32)
                larger[:at] = indices[:at]
                indices = larger
            for q in range(lo, hi):
                indices[at] = order[q]
                at += _squared_distance(points, q, coords, i) < limit
        if at - first > 64:
            indices[first:at].sort()
        else:
            for x in range(first + 1, at):
                value, y = indices[x], x - 1
                while y >= first and indices[y] > value:
                    indices[y + 1] = indices[y]
                    y -= 1
                indices[y + 1] = value
        indptr[i - start + 1] = at
    return indptr, indices[:at].copy()


@njit(nogil=True, cache=True)
def _count(coords, radius, rows, cells, strides, keys, starts, order, points):  # type: ignore[no-untyped-def]
    n_runs = 3 ** (coords.shape[1] - 1)
    limit = radius * radius
    counts = np.zeros(len(rows), dtype=np.int64)
    for row in range(len(rows)):
        for corner in range(n_runs):
            lo, hi = _run(rows[row], corner, cells, strides, keys, starts)
            for q in range(lo, hi):
                counts[row] += _squared_distance(points, q, coords, rows[row]) < limit
    return counts
