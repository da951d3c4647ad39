"""CuPy twin of :mod:`atlasnmf.kernels.cpu.pairs`: same names, arrays on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasnmf.kernels.gpu._compile import BLOCK, REAL_NAMES, launch, read_as
from atlasnmf.kernels.gpu.products import transpose

__all__ = ["best_of_rows", "keep_tops", "mutual_tops", "pair_dots"]

#: A thread per pair, row, or column of the transposed block: each answer has one owner and the CPU's order.
SOURCE = r"""
#define STRIDE(i, n) \
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < (n); \
         i += gridDim.x * (long long)blockDim.x)

extern "C" __global__ void dots(
    const long long* rows, const long long* columns, long long n_pairs, const REAL* left, const REAL* right,
    long long width, REAL* products)
{
    STRIDE(m, n_pairs) {
        const REAL *x = left + rows[m] * width, *y = right + columns[m] * width;
        REAL a = 0, b = 0, c = 0, d = 0;
        long long k = 0;
        for (; k + 4 <= width; k += 4) {
            a += x[k] * y[k];
            b += x[k + 1] * y[k + 1];
            c += x[k + 2] * y[k + 2];
            d += x[k + 3] * y[k + 3];
        }
        for (; k < width; ++k) a += x[k] * y[k];
        products[m] = (a + b) + (c + d);
    }
}

extern "C" __global__ void best(
    const long long* indptr, const REAL* values, long long n_rows, long long* places)
{
    STRIDE(i, n_rows) {
        long long place = -1;
        for (long long e = indptr[i]; e < indptr[i + 1]; ++e)
            if (place < 0 || values[e] > values[place]) place = e;
        places[i] = place;
    }
}

/* Line i of the block is offered to list first_line + i; what is listed is counted from first_partner. */
extern "C" __global__ void keep(
    const long long* starts, const int* partners, const double* mass, long long n_lines, long long first_line,
    long long first_partner, long long k, int* all_best, double* all_masses)
{
    STRIDE(i, n_lines) {
        int* best = all_best + (first_line + i) * k;
        double* masses = all_masses + (first_line + i) * k;
        for (long long e = starts[i]; e < starts[i + 1]; ++e) {
            if (mass[e] <= masses[k - 1]) continue;
            long long at = k - 1;
            while (at > 0 && masses[at - 1] < mass[e]) {
                masses[at] = masses[at - 1];
                best[at] = best[at - 1];
                --at;
            }
            masses[at] = mass[e];
            best[at] = (int)(first_partner + partners[e]);
        }
    }
}

extern "C" __global__ void mutual(
    const int* row_tops, const int* column_tops, long long n, long long k, long long k_columns, char* marks)
{
    STRIDE(place, n * k) {
        const long long i = place / k, j = row_tops[place];
        char found = 0;
        for (long long s = 0; j >= 0 && s < k_columns; ++s) found |= column_tops[j * k_columns + s] == i;
        marks[place] = found;
    }
}
"""


def pair_dots(rows: Any, columns: Any, left: Any, right: Any) -> Any:
    """Multiply listed pairs of rows of two tables; see the CPU twin, whose bits these are."""
    import cupy as cp

    one = cp.ascontiguousarray(cp.asarray(left))
    other = read_as(one.dtype, right)
    products = cp.empty(len(rows), dtype=one.dtype)
    numbers = (read_as(np.int64, rows), read_as(np.int64, columns))
    arguments = (*numbers, len(products), one, other, one.shape[1], products)
    launch(SOURCE, "dots", -(-len(products) // BLOCK), arguments, real=REAL_NAMES[one.dtype])
    return products


def best_of_rows(indptr: Any, values: Any) -> Any:
    """Return where the largest value of each CSR row stands; see the CPU twin."""
    import cupy as cp

    n_rows, heights = len(indptr) - 1, cp.ascontiguousarray(cp.asarray(values))
    places = cp.empty(n_rows, dtype=np.int64)
    arguments = (read_as(np.int64, indptr), heights, n_rows, places)
    launch(SOURCE, "best", -(-n_rows // BLOCK), arguments, real=REAL_NAMES[heights.dtype])
    return places


def keep_tops(
    indptr: Any,
    indices: Any,
    mass: Any,
    first_row: int,
    row_tops: tuple[Any, Any],
    column_tops: tuple[Any, Any],
) -> None:
    """Take a block of rows into running lists of the largest entries; see the CPU twin."""
    starts, partners = read_as(np.int64, indptr), read_as(np.int32, indices)
    masses, n_columns = read_as(np.float64, mass), len(column_tops[0])
    _offer((starts, partners, masses), int(first_row), 0, row_tops)
    _offer(transpose(starts, partners, masses, n_columns), 0, int(first_row), column_tops)


def _offer(lines: tuple[Any, Any, Any], first_line: int, first_partner: int, tops: tuple[Any, Any]) -> None:
    n_lines = len(lines[0]) - 1
    arguments = (*lines, n_lines, first_line, first_partner, tops[0].shape[1], *tops)
    launch(SOURCE, "keep", -(-n_lines // BLOCK), arguments)


def mutual_tops(row_tops: Any, column_tops: Any) -> tuple[Any, Any]:
    """List the pairs in which either is among the k best of the other; see the CPU twin."""
    import cupy as cp

    own, others = (read_as(np.int32, tops) for tops in (row_tops, column_tops))
    (n, k), k_columns = own.shape, others.shape[1]
    marks = cp.zeros(n * k, dtype=np.int8)
    launch(SOURCE, "mutual", -(-n * k // BLOCK), (own, others, n, k, k_columns, marks))
    found = cp.flatnonzero(marks).astype(np.int64)
    return found // k, found % k
