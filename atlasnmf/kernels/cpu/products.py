"""Sparse times dense, and sparse transposed times dense: contiguous rows added with one weight each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["csr_dot", "csr_t_dot"]

#: From this many dense columns on, transposing a block of rows first pays for itself (measured).
_WIDE = 128
#: Rows of such a block: their dense rows stay in the second-level cache.
_BLOCK_ROWS = 512


def csr_dot(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    dense: np.ndarray,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Multiply CSR rows with a dense matrix.

    Parameters
    ----------
    indptr, indices, data
        CSR parts, n rows, G columns; any integer indices, any real data.
    dense
        float32 or float64, shape (G, p).
    out
        Add the product to this array, of the type of ``dense`` and shape (n, p), instead of making one.

    Returns
    -------
    product
        Of the type of ``dense``, which is also the accumulator's, shape (n, p). A row depends on its own
        values and their order only: cutting the rows into tiles changes no bit.

    Notes
    -----
    2·nnz·p operations, four stored values at a time so that a row of the product is loaded and stored
    once for four rows of ``dense``.
    """
    table = _floating(dense)
    fresh = out is None
    if out is None:
        out = np.empty((len(indptr) - 1, table.shape[1]), dtype=table.dtype)
    elif out.dtype != table.dtype or out.shape != (len(indptr) - 1, table.shape[1]):
        raise ValueError(f"the product cannot be added to {out.dtype} of shape {out.shape}")
    _dot(indptr, indices, data, table, out, fresh)
    return out


def csr_t_dot(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    dense: np.ndarray,
    n_cols: int,
    *,
    accumulate: npt.DTypeLike = np.float64,
) -> np.ndarray:
    """Multiply transposed CSR rows with a dense matrix.

    Parameters
    ----------
    indptr, indices, data
        CSR parts, n rows, G columns.
    dense
        float32 or float64, shape (n, p).
    n_cols
        Number of columns G.
    accumulate
        Type of the sums and of the result: float64 for statistics over many rows, float32 for gradients
        of a batch.

    Returns
    -------
    product
        Of the type ``accumulate``, shape (G, p).
    """
    rows = _floating(dense)
    if len(rows) != len(indptr) - 1:
        raise ValueError(f"{len(indptr) - 1} sparse rows need as many dense rows, got {len(rows)}")
    out = np.zeros((n_cols, rows.shape[1]), dtype=accumulate)
    if rows.shape[1] < _WIDE:
        _scatter(indptr, indices, data, rows, out)
        return out
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = indptr[start : start + _BLOCK_ROWS + 1]
        nnz = int(block[-1] - block[0])
        columns = np.zeros(n_cols + 1, dtype=np.int64)
        positions, values = np.empty(nnz, dtype=np.int32), np.empty(nnz, dtype=data.dtype)
        _transpose(block, indices, data, columns, positions, values)
        _dot(columns, positions, values, rows[start : start + _BLOCK_ROWS], out, False)
    return out


def _floating(dense: np.ndarray) -> np.ndarray:
    if dense.ndim != 2 or dense.dtype not in (np.float32, np.float64):
        raise ValueError(f"a two-dimensional float32 or float64 array is needed, got {dense.dtype}")
    return np.ascontiguousarray(dense)


# Contraction to fused multiply-adds is the only liberty taken: the order of the sums is as written.
@njit(nogil=True, cache=True, fastmath={"contract"})
def _dot(indptr, indices, data, dense, out, fresh):  # type: ignore[no-untyped-def]
    real = out.dtype.type
    for i in range(len(indptr) - 1):
        sums = out[i]
        if fresh:
            sums[:] = 0
        j, stop = indptr[i], indptr[i + 1]
        while j + 4 <= stop:
            v0, v1, v2, v3 = real(data[j]), real(data[j + 1]), real(data[j + 2]), real(data[j + 3])
            r0, r1 = dense[indices[j]], dense[indices[j + 1]]
            r2, r3 = dense[indices[j + 2]], dense[indices[j + 3]]
            for c in range(len(sums)):
                sums[c] += (v0 * r0[c] + v1 * r1[c]) + (v2 * r2[c] + v3 * r3[c])
            j += 4
        while j < stop:
            v0, r0 = real(data[j]), dense[indices[j]]
            for c in range(len(sums)):
                sums[c] += v0 * r0[c]
            j += 1


@njit(nogil=True, cache=True, fastmath={"contract"})
def _scatter(indptr, indices, data, dense, out):  # type: ignore[no-untyped-def]
    real = out.dtype.type
    for i in range(len(indptr) - 1):
        row = dense[i]
        for j in range(indptr[i], indptr[i + 1]):
            value, sums = real(data[j]), out[indices[j]]
            for c in range(len(row)):
                sums[c] += value * row[c]


@njit(nogil=True, cache=True)
def _transpose(indptr, indices, data, columns, positions, values):  # type: ignore[no-untyped-def]
    n_cols = len(columns) - 1
    for j in range(indptr[0], indptr[-1]):
        columns[np.int64(indices[j]) + 1] += 1
    for c in range(n_cols):
        columns[c + 1] += columns[c]
    at = columns[:-1].copy()
    for i in range(len(indptr) - 1):
        for j in range(indptr[i], indptr[i + 1]):
            c = indices[j]
            positions[at[c]] = i
            values[at[c]] = data[j]
            at[c] += 1
