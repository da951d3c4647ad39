"""CuPy twin of :mod:`atlasnmf.kernels.cpu.rows`: same names, arrays on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasnmf.kernels.cpu.rows import CountProblems
from atlasnmf.kernels.gpu._compile import launch, read_as

__all__ = [
    "CountProblems",
    "check_rows",
    "row_nnz",
    "row_of_values",
    "row_sums",
    "select_columns",
    "take_rows",
    "validate_counts",
]

Parts = tuple[Any, Any, Any]

#: One block per row: strided partial sums, then a tree. The same launch gives the same bits.
SOURCE = r"""
extern "C" __global__ void row_sums(
    const long long* indptr, const double* data, long long n_rows, double* sums)
{
    __shared__ double partial[BLOCK];
    for (long long row = blockIdx.x; row < n_rows; row += gridDim.x) {
        double sum = 0.0;
        for (long long j = indptr[row] + threadIdx.x; j < indptr[row + 1]; j += blockDim.x)
            sum += data[j];
        partial[threadIdx.x] = sum;
        __syncthreads();
        for (int half = blockDim.x / 2; half > 0; half /= 2) {
            if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
            __syncthreads();
        }
        if (threadIdx.x == 0) sums[row] = partial[0];
        __syncthreads();
    }
}
"""


def row_of_values(indptr: Any) -> Any:
    """Return the row of each stored value, shape (nnz,); see the CPU twin."""
    import cupy as cp

    return cp.searchsorted(indptr[1:], cp.arange(int(indptr[-1])), side="right")


def take_rows(indptr: Any, indices: Any, data: Any, rows: Any) -> Parts:
    """Copy the given rows, in the given order; see the CPU twin."""
    import cupy as cp

    starts, wanted = cp.asarray(indptr).astype(np.int64), cp.asarray(rows).astype(np.int64)
    if wanted.size and (int(wanted.min()) < 0 or int(wanted.max()) >= len(starts) - 1):
        raise IndexError(f"row numbers must lie in [0, {len(starts) - 1})")
    out_indptr = cp.zeros(len(wanted) + 1, dtype=np.int64)
    out_indptr[1:] = cp.cumsum(starts[wanted + 1] - starts[wanted])
    row = row_of_values(out_indptr)
    source = starts[wanted][row] + cp.arange(len(row)) - out_indptr[row]
    return out_indptr, cp.asarray(indices)[source], cp.asarray(data)[source]


def row_sums(indptr: Any, data: Any) -> Any:
    """Sum each row in float64; the order of the terms, hence the last bit, differs from the CPU's."""
    import cupy as cp

    sums = cp.zeros(len(indptr) - 1, dtype=np.float64)
    values, starts = read_as(np.float64, data), read_as(np.int64, indptr)
    launch(SOURCE, "row_sums", len(sums), (starts, values, len(sums), sums))
    return sums


def row_nnz(indptr: Any, data: Any) -> Any:
    """Count the values of each row that are not zero, int64."""
    import cupy as cp

    return row_sums(indptr, cp.asarray(data) != 0).astype(np.int64)


def select_columns(indptr: Any, indices: Any, data: Any, lut: Any) -> Parts:
    """Keep some columns under new numbers, in any new order; see the CPU twin."""
    import cupy as cp

    table = cp.asarray(lut).astype(np.int64)
    kept = table[table >= 0]
    n_new = int(kept.max()) + 1 if kept.size else 0
    if len(cp.unique(kept)) != len(kept):
        raise ValueError("two columns are given the same new number")
    columns = cp.asarray(indices)
    kind = columns.dtype if n_new - 1 <= np.iinfo(columns.dtype).max else np.dtype(np.int32)
    starts = cp.asarray(indptr)
    new = table[columns]
    found = cp.flatnonzero(new >= 0)
    row, new = row_of_values(starts)[found], new[found]
    order = cp.argsort(row * max(n_new, 1) + new, kind="stable")
    out_indptr = cp.searchsorted(row, cp.arange(len(starts)), side="left").astype(np.int64)
    return out_indptr, new[order].astype(kind), cp.asarray(data)[found[order]]


def validate_counts(data: Any) -> CountProblems:
    """Look for values that cannot be counts; see the CPU twin."""
    import cupy as cp

    values = cp.asarray(data)
    if values.size == 0:
        return CountProblems(0, 0, 0, 0.0)
    finite = values[cp.isfinite(values)]
    return CountProblems(
        int((finite < 0).sum()),
        int(values.size - finite.size),
        int((finite != cp.floor(finite)).sum()),
        float(finite.max()) if finite.size else 0.0,
    )


def check_rows(indptr: Any, indices: Any, n_cols: int) -> tuple[int, int]:
    """Look for columns no kernel may touch; see the CPU twin."""
    import cupy as cp

    columns = cp.asarray(indices).astype(np.int64)
    row = row_of_values(cp.asarray(indptr))
    outside = int(((columns < 0) | (columns >= n_cols)).sum())
    descends = (columns[1:] <= columns[:-1]) & (row[1:] == row[:-1])
    return outside, len(cp.unique(row[1:][descends]))
