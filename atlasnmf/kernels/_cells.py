"""A grid of cells over points, as sorted keys: memory follows the points, not the area they cover.

Both sides build it with the same lines, numpy's or CuPy's arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = ["CellGrid", "as_points", "build_cells", "matching", "row_range"]

#: Cells a side at most, so that a key fits an int64 (2-D: 62 bits, 3-D: 63 bits).
_MOST_CELLS = {1: 2**30, 2: 2**30, 3: 2**20}


class CellGrid(NamedTuple):
    """Points sorted by the cell they lie in, ready for :func:`radius_neighbours`.

    Parameters
    ----------
    radius
        Distance the grid answers for; a cell is a trifle wider, so neighbours lie in adjacent cells.
    cells
        Cell of every point along each axis, int64, shape (n, d), counted from 1.
    strides
        What one step along each axis adds to a key, int64, shape (d,); the last is 1.
    keys
        Keys of the occupied cells, ascending int64, shape (c,).
    starts
        First sorted point of each occupied cell, int64, shape (c + 1,).
    order
        Points in sorted order, ascending within a cell, int32, shape (n,).
    points
        Coordinates in sorted order, float64, shape (n, d).
    """

    radius: float
    cells: Any
    strides: Any
    keys: Any
    starts: Any
    order: Any
    points: Any


def build_cells(coords: Any, radius: float, xp: Any = np) -> CellGrid:
    """Sort points into cells as wide as the radius.

    Parameters
    ----------
    coords
        float64, shape (n, d) with d of 1, 2 or 3, finite.
    radius
        Positive, in the unit of the coordinates.
    xp
        ``numpy``, or ``cupy`` for arrays on the device.

    Notes
    -----
    O(n log n) time (less for points along a space-filling curve) and about 8 (2 d + 2) bytes a point;
    one stray point far away costs nothing, unlike with a dense grid.
    """
    points = as_points(coords, xp)
    n, d = points.shape
    if not radius > 0:
        raise ValueError(f"the radius must be positive, got {radius}")
    lowest = points.min(axis=0) if n else xp.zeros(d)
    extent = float((points.max(axis=0) - lowest).max()) if n else 0.0
    # A millionth wider than the radius: rounding in the division must not part neighbours by two cells.
    width = max(radius * (1 + 1e-6), extent / (_MOST_CELLS[d] - 4))
    cells = ((points - lowest) / width).astype(np.int64) + 1
    steps = [1] * d
    for axis in range(d - 2, -1, -1):
        steps[axis] = steps[axis + 1] * ((int(cells[:, axis + 1].max()) if n else 0) + 2)
    key_of_point = sum((cells[:, axis] * steps[axis] for axis in range(1, d)), cells[:, 0] * steps[0])
    order = xp.argsort(key_of_point, kind="stable").astype(np.int32)
    sorted_keys = key_of_point[order]
    is_first = xp.ones(n, dtype=bool)
    is_first[1:] = sorted_keys[1:] != sorted_keys[:-1]
    first = xp.flatnonzero(is_first)
    starts = xp.empty(len(first) + 1, dtype=np.int64)
    starts[:-1], starts[-1] = first, n
    strides = xp.asarray(steps, dtype=np.int64)
    return CellGrid(float(radius), cells, strides, sorted_keys[first], starts, order, points[order])


def as_points(coords: Any, xp: Any = np) -> Any:
    """Return coordinates as contiguous float64; refuse shapes that are not points."""
    points = xp.ascontiguousarray(xp.asarray(coords), dtype=np.float64)
    if points.ndim != 2 or not 1 <= points.shape[1] <= 3:
        raise ValueError(f"coordinates must have shape (n, 2) or (n, 3), got {points.shape}")
    if len(points) > np.iinfo(np.int32).max:
        raise ValueError(f"a slice may have at most 2^31 - 1 points, got {len(points)}")
    return points


def row_range(rows: tuple[int, int] | None, n: int) -> tuple[int, int]:
    """Return the run of rows asked for, all by default; refuse rows that are not there."""
    start, stop = (0, n) if rows is None else (int(rows[0]), int(rows[1]))
    if not 0 <= start <= stop <= n:
        raise IndexError(f"rows {start} to {stop} are not within 0 to {n}")
    return start, stop


def matching(index: CellGrid | None, radius: float) -> CellGrid | None:
    """Return the index unless it was made for another radius."""
    if index is not None and index.radius != float(radius):
        raise ValueError(f"the index was made for radius {index.radius}, not {radius}")
    return index
