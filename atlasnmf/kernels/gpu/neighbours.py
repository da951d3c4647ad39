"""CuPy twin of :mod:`atlasnmf.kernels.cpu.neighbours`: same names, same answers, arrays on the device."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from atlasnmf.kernels._cells import CellGrid, as_points, build_cells, matching, row_range
from atlasnmf.kernels.gpu._compile import BLOCK, launch

__all__ = [
    "CellGrid",
    "Reach",
    "count_neighbours",
    "knn_distances",
    "knn_index",
    "knn_neighbours",
    "nearest",
    "radius_index",
    "radius_neighbours",
]

#: One thread per row over the sorted cells of :mod:`atlasnmf.kernels._cells`.
SOURCE = r"""
struct Grid {
    const long long *cells, *strides, *keys, *starts;
    const int* order;
    const double* points;
    long long n_keys;
    int d;
};

__device__ int n_runs(int d) { return d == 1 ? 1 : d == 2 ? 3 : 9; }

/* The sorted points of three cells in a row: run number `corner` of the 3^(d-1) around point i. */
__device__ void cells_in_a_row(const Grid& grid, long long i, int corner, long long* lo, long long* hi)
{
    long long key = -1;
    for (int a = 0; a < grid.d; ++a) key += grid.cells[i * grid.d + a] * grid.strides[a];
    for (int a = grid.d - 2; a >= 0; --a) {
        key += (corner % 3 - 1) * grid.strides[a];
        corner /= 3;
    }
    long long low = 0, high = grid.n_keys;
    while (low < high) {
        const long long middle = (low + high) >> 1;
        if (grid.keys[middle] < key) low = middle + 1; else high = middle;
    }
    while (high < grid.n_keys && grid.keys[high] <= key + 2) ++high;
    *lo = grid.starts[low];
    *hi = grid.starts[high];
}

__device__ double squared_distance(const Grid& grid, long long q, const double* coords, long long i)
{
    double total = 0.0;
    for (int a = 0; a < grid.d; ++a) {
        const double gap = grid.points[q * grid.d + a] - coords[i * grid.d + a];
        total += gap * gap;
    }
    return total;
}

#define GRID_PARAMETERS \
    const long long* cells, const long long* strides, const long long* keys, long long n_keys, \
    const long long* starts, const int* order, const double* points
#define THE_GRID {cells, strides, keys, starts, order, points, n_keys, (int)d}

extern "C" __global__ void count_within(
    const double* coords, long long d, double radius, const long long* rows, long long n_rows,
    GRID_PARAMETERS, long long* counts)
{
    const Grid grid = THE_GRID;
    const double limit = radius * radius;
    for (long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x; row < n_rows;
         row += (long long)gridDim.x * blockDim.x) {
        long long lo, hi, count = 0;
        for (int corner = 0; corner < n_runs(grid.d); ++corner) {
            cells_in_a_row(grid, rows[row], corner, &lo, &hi);
            for (long long q = lo; q < hi; ++q)
                count += squared_distance(grid, q, coords, rows[row]) < limit;
        }
        counts[row] = count;
    }
}

extern "C" __global__ void fill_within(
    const double* coords, long long d, double radius, const long long* rows, long long n_rows,
    GRID_PARAMETERS, const long long* indptr, int* indices)
{
    const Grid grid = THE_GRID;
    const double limit = radius * radius;
    for (long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x; row < n_rows;
         row += (long long)gridDim.x * blockDim.x) {
        long long lo, hi, at = indptr[row];
        for (int corner = 0; corner < n_runs(grid.d); ++corner) {
            cells_in_a_row(grid, rows[row], corner, &lo, &hi);
            for (long long q = lo; q < hi; ++q) {
                if (!(squared_distance(grid, q, coords, rows[row]) < limit)) continue;
                long long y = at++;
                while (y > indptr[row] && indices[y - 1] > order[q]) {
                    indices[y] = indices[y - 1];
                    --y;
                }
                indices[y] = order[q];
            }
        }
    }
}

/* The k nearest among the first points in adjacent cells; `done` where no point farther off can be nearer. */
extern "C" __global__ void nearest_within(
    const double* coords, long long d, double radius, const long long* rows, long long n_rows,
    GRID_PARAMETERS, long long k, long long n_points, int* all_found, double* all_distances, int* done)
{
    const Grid grid = THE_GRID;
    for (long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x; row < n_rows;
         row += (long long)gridDim.x * blockDim.x) {
        int* found = all_found + row * k;
        double* distances = all_distances + row * k;
        long long lo, hi, n_found = 0;
        for (int corner = 0; corner < n_runs(grid.d); ++corner) {
            cells_in_a_row(grid, rows[row], corner, &lo, &hi);
            for (long long q = lo; q < hi; ++q) {
                const int other = order[q];
                if (other == rows[row] || other >= n_points) continue;
                const double distance = squared_distance(grid, q, coords, rows[row]);
                long long y = n_found < k ? n_found++ : k;
                while (y > 0 && (distances[y - 1] > distance
                                 || (distances[y - 1] == distance && found[y - 1] > other))) {
                    if (y < k) {
                        distances[y] = distances[y - 1];
                        found[y] = found[y - 1];
                    }
                    --y;
                }
                if (y < k) {
                    distances[y] = distance;
                    found[y] = other;
                }
            }
        }
        done[row] = n_found == k && distances[k - 1] < radius * radius;
    }
}
"""


class Reach(NamedTuple):
    """Where a search for nearest neighbours begins: its ``radius``, and the ``extent`` of the points."""

    radius: float
    extent: float


def radius_index(coords: Any, radius: float) -> CellGrid:
    """Prepare :func:`radius_neighbours`; see the CPU twin."""
    import cupy as cp

    return build_cells(coords, radius, cp)


def knn_index(coords: Any) -> Reach:
    """Prepare :func:`knn_neighbours`: the side of a square (cube) that holds one point on average."""
    import cupy as cp

    points = as_points(coords, cp)
    if len(points) == 0:
        return Reach(1.0, 0.0)
    sides = cp.asnumpy(points.max(axis=0) - points.min(axis=0))
    wide = sides[sides > 0]
    if len(wide) == 0:
        return Reach(1.0, 0.0)
    return Reach(float((np.prod(wide) / len(points)) ** (1 / len(wide))), float(np.sqrt((wide**2).sum())))


def radius_neighbours(
    coords: Any, radius: float, rows: tuple[int, int] | None = None, *, index: CellGrid | None = None
) -> tuple[Any, Any]:
    """Find all points closer than a radius; see the CPU twin."""
    import cupy as cp

    points = as_points(coords, cp)
    start, stop = row_range(rows, len(points))
    asked = cp.arange(start, stop, dtype=np.int64)
    grid = matching(index, radius) or build_cells(points, radius, cp)
    indptr = cp.zeros(len(asked) + 1, dtype=np.int64)
    indptr[1:] = cp.cumsum(count_neighbours(points, radius, asked, index=grid))
    indices = cp.empty(int(indptr[-1]), dtype=np.int32)
    _over_rows("fill_within", points, radius, asked, grid, (indptr, indices))
    return indptr, indices


def count_neighbours(coords: Any, radius: float, rows: Any, *, index: CellGrid | None = None) -> Any:
    """Count the points closer than a radius without listing them; see the CPU twin."""
    import cupy as cp

    points, asked = as_points(coords, cp), cp.asarray(rows).astype(np.int64)
    grid = matching(index, radius) or build_cells(points, radius, cp)
    counts = cp.zeros(len(asked), dtype=np.int64)
    _over_rows("count_within", points, radius, asked, grid, (counts,))
    return counts


def knn_neighbours(
    coords: Any, k: int, rows: tuple[int, int] | None = None, *, index: Reach | None = None
) -> tuple[Any, Any]:
    """Find each point's k nearest others; see the CPU twin."""
    import cupy as cp

    points = as_points(coords, cp)
    start, stop = row_range(rows, len(points))
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    n_others = min(int(k), max(len(points) - 1, 0))
    asked = cp.arange(start, stop, dtype=np.int64)
    indptr = cp.arange(len(asked) + 1, dtype=np.int64) * (n_others + 1)
    indices = cp.empty((len(asked), n_others + 1), dtype=np.int32)
    indices[:, 0] = asked
    if n_others:
        indices[:, 1:] = nearest(points, n_others, asked, index)[0]
        indices = cp.sort(indices, axis=1)
    return indptr, indices.reshape(-1)


def knn_distances(coords: Any, k: int, rows: Any, *, index: Reach | None = None) -> Any:
    """Measure the distances from some points to their k nearest others; see the CPU twin."""
    import cupy as cp

    points, asked = as_points(coords, cp), cp.asarray(rows).astype(np.int64)
    n_others = min(int(k), max(len(points) - 1, 0))
    if n_others == 0:
        return cp.empty((len(asked), 0))
    return cp.sqrt(nearest(points, n_others, asked, index)[1])


def nearest(
    points: Any, k: int, rows: Any, reach: Reach | None = None, n_points: int | None = None
) -> tuple[Any, Any]:
    """Search within a radius, twice as far for the rows that have not found enough, and so on.

    Parameters
    ----------
    points
        From :func:`atlasnmf.kernels._cells.as_points`.
    k
        Neighbours wanted; as many there are.
    rows
        Points that ask, int64; they are not their own neighbours.
    reach
        From :func:`knn_index`.
    n_points
        Only the first points may be found; all by default.

    Returns
    -------
    found, squared
        int32 and float64, shape (len(rows), k), nearest first, ties by number.
    """
    import cupy as cp

    reach = knn_index(points) if reach is None else reach
    found = cp.empty((len(rows), k), dtype=np.int32)
    distances = cp.empty((len(rows), k), dtype=np.float64)
    waiting = cp.arange(len(rows), dtype=np.int64)
    # A square of side r holds a point, so a circle of radius r holds three and a ball four.
    radius = reach.radius * max(1.0, (k / 3) ** (1 / points.shape[1]))
    while len(waiting):
        some_found = cp.empty((len(waiting), k), dtype=np.int32)
        some_distances = cp.empty((len(waiting), k), dtype=np.float64)
        done = cp.zeros(len(waiting), dtype=np.int32)
        grid = build_cells(points, radius, cp)
        given = (int(k), len(points) if n_points is None else int(n_points))
        answers = (some_found, some_distances, done)
        _over_rows("nearest_within", points, radius, rows[waiting], grid, (*given, *answers))
        is_done = done > 0 if radius <= reach.extent else cp.ones(len(waiting), dtype=bool)
        found[waiting[is_done]] = some_found[is_done]
        distances[waiting[is_done]] = some_distances[is_done]
        waiting = waiting[~is_done]
        radius *= 2
    return found, distances


def _over_rows(
    name: str, points: Any, radius: float, rows: Any, grid: CellGrid, more: tuple[Any, ...]
) -> None:
    cells = (grid.cells, grid.strides, grid.keys, len(grid.keys), grid.starts, grid.order, grid.points)
    arguments = (points, points.shape[1], float(radius), rows, len(rows), *cells, *more)
    launch(SOURCE, name, -(-len(rows) // BLOCK), arguments)
