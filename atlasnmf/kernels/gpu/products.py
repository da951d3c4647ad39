"""CuPy twin of :mod:`atlasnmf.kernels.cpu.products`: same names, arrays on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from atlasnmf.kernels.gpu._compile import BLOCK, REAL_NAMES, launch, read_as

__all__ = ["csr_dot", "csr_t_dot", "transpose"]

#: A block works on one row and as many columns as it has threads: rows of ``dense`` are read side by side,
#: and each sum has one owner, so no atomic additions and the same bits every time.
SOURCE = r"""
extern "C" __global__ void csr_dot(
    const long long* indptr, const int* indices, const REAL* data, const REAL* dense,
    long long n_rows, long long p, SUM* out)
{
    const long long pieces = (p + blockDim.x - 1) / blockDim.x;
    for (long long work = blockIdx.x; work < n_rows * pieces; work += gridDim.x) {
        const long long row = work / pieces;
        const long long column = (work % pieces) * blockDim.x + threadIdx.x;
        if (column < p) {
            SUM sum = 0;
            for (long long j = indptr[row]; j < indptr[row + 1]; ++j)
                sum += (SUM)data[j] * (SUM)dense[(long long)indices[j] * p + column];
            out[row * p + column] = sum;
        }
    }
}
"""


def csr_dot(indptr: Any, indices: Any, data: Any, dense: Any, *, out: Any = None) -> Any:
    """Multiply CSR rows with a dense matrix; see the CPU twin."""
    table = _floating(dense)
    product = _dot(indptr, indices, data, table, table.dtype)
    if out is None:
        return product
    if out.dtype != product.dtype or out.shape != product.shape:
        raise ValueError(f"the product cannot be added to {out.dtype} of shape {out.shape}")
    out += product
    return out


def csr_t_dot(
    indptr: Any, indices: Any, data: Any, dense: Any, n_cols: int, *, accumulate: npt.DTypeLike = np.float64
) -> Any:
    """Multiply transposed CSR rows with a dense matrix; see the CPU twin.

    The values are sorted by column first: every sum then has one owner.
    """
    rows = _floating(dense)
    if len(rows) != len(indptr) - 1:
        raise ValueError(f"{len(indptr) - 1} sparse rows need as many dense rows, got {len(rows)}")
    return _dot(*transpose(indptr, indices, data, n_cols), rows, np.dtype(accumulate))


def transpose(indptr: Any, indices: Any, data: Any, n_cols: int) -> tuple[Any, Any, Any]:
    """Return the CSR parts of the transpose, rows ascending within a column."""
    import cupy as cp

    from atlasnmf.kernels.gpu.rows import row_of_values

    columns = read_as(np.int32, indices)
    order = cp.argsort(columns, kind="stable")
    starts = cp.searchsorted(columns[order], cp.arange(n_cols + 1), side="left").astype(np.int64)
    return starts, row_of_values(cp.asarray(indptr))[order].astype(np.int32), cp.asarray(data)[order]


def _dot(indptr: Any, indices: Any, data: Any, dense: Any, accumulate: np.dtype) -> Any:
    import cupy as cp

    n_rows, p = len(indptr) - 1, dense.shape[1]
    out = cp.zeros((n_rows, p), dtype=accumulate)
    arguments = (
        read_as(np.int64, indptr),
        read_as(np.int32, indices),
        read_as(dense.dtype, data),
        dense,
        n_rows,
        p,
        out,
    )
    n_blocks = n_rows * -(-p // BLOCK)
    launch(
        SOURCE,
        "csr_dot",
        n_blocks,
        arguments,
        real=REAL_NAMES[dense.dtype],
        accumulator=REAL_NAMES[accumulate],
    )
    return out


def _floating(dense: Any) -> Any:
    import cupy as cp

    table = cp.ascontiguousarray(cp.asarray(dense))
    if table.ndim != 2 or table.dtype not in REAL_NAMES:
        raise ValueError(f"a two-dimensional float32 or float64 array is needed, got {table.dtype}")
    return table
