"""Take, sum, check and re-label rows of a CSR matrix given as plain arrays.

Indices and data may be of any integer type, data also float32 or float64; columns ascend within a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from atlasnmf.kernels.cpu._bits import lowest_bit

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

Parts = tuple[np.ndarray, np.ndarray, np.ndarray]


class CountProblems(NamedTuple):
    """What :func:`validate_counts` found.

    Parameters
    ----------
    n_negative, n_nonfinite, n_fractional
        Numbers of negative, of NaN or infinite, and of finite but not whole values.
    maximum
        The largest finite value, 0.0 when there is none.
    """

    n_negative: int
    n_nonfinite: int
    n_fractional: int
    maximum: float


def take_rows(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, rows: np.ndarray) -> Parts:
    """Copy the given rows, in the given order, repeats allowed.

    Parameters
    ----------
    indptr, indices, data
        CSR parts.
    rows
        Row numbers, integer, shape (n,), each in [0, n_rows).

    Returns
    -------
    indptr, indices, data
        CSR parts of n rows; indptr int64, the others of the types given.

    Raises
    ------
    IndexError
        A row number is outside the matrix.
    """
    wanted = np.ascontiguousarray(rows, dtype=np.int64)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= len(indptr) - 1):
        raise IndexError(f"row numbers must lie in [0, {len(indptr) - 1})")
    starts = np.asarray(indptr, dtype=np.int64)
    out_indptr = np.zeros(len(wanted) + 1, dtype=np.int64)
    np.cumsum(starts[wanted + 1] - starts[wanted], out=out_indptr[1:])
    out_indices = np.empty(out_indptr[-1], dtype=indices.dtype)
    out_data = np.empty(out_indptr[-1], dtype=data.dtype)
    _take(starts, indices, data, wanted, out_indptr, out_indices, out_data)
    return out_indptr, out_indices, out_data


@njit(nogil=True, cache=True)
def _take(indptr, indices, data, rows, out_indptr, out_indices, out_data):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        lo, hi = indptr[rows[i]], indptr[rows[i] + 1]
        at = out_indptr[i]
        out_indices[at : at + hi - lo] = indices[lo:hi]
        out_data[at : at + hi - lo] = data[lo:hi]


def row_of_values(indptr: np.ndarray) -> np.ndarray:
    """Return the row of each stored value, int32 or int64, shape (nnz,)."""
    kind = np.int32 if len(indptr) <= 2**31 else np.int64
    return np.repeat(np.arange(len(indptr) - 1, dtype=kind), np.diff(indptr))


def row_sums(indptr: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Sum each row.

    Returns
    -------
    sums
        float64, shape (n_rows,); the terms are added in storage order, so the same bits on every run.
    """
    sums = np.empty(len(indptr) - 1, dtype=np.float64)
    _sum(indptr, data, sums)
    return sums


@njit(nogil=True, cache=True)
def _sum(indptr, data, sums):  # type: ignore[no-untyped-def]
    for i in range(len(sums)):
        total = 0.0
        for j in range(indptr[i], indptr[i + 1]):
            total += data[j]
        sums[i] = total


def row_nnz(indptr: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Count the values of each row that are not zero (stored zeros do not count).

    Returns
    -------
    counts
        int64, shape (n_rows,).
    """
    counts = np.empty(len(indptr) - 1, dtype=np.int64)
    _count_nonzero(indptr, data, counts)
    return counts


@njit(nogil=True, cache=True)
def _count_nonzero(indptr, data, counts):  # type: ignore[no-untyped-def]
    for i in range(len(counts)):
        n = 0
        for j in range(indptr[i], indptr[i + 1]):
            n += data[j] != 0
        counts[i] = n


def select_columns(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, lut: np.ndarray) -> Parts:
    """Keep some columns under new numbers, in any new order.

    Parameters
    ----------
    indptr, indices, data
        CSR parts, each column once in a row.
    lut
        New number of every column, -1 to drop it, integer, shape (n_cols,); no number twice.

    Returns
    -------
    indptr, indices, data
        CSR parts with ascending new columns. The indices keep their type where the new numbers fit it,
        else they become int32.

    Raises
    ------
    ValueError
        Two columns are given the same new number.

    Notes
    -----
    A row costs O(its nnz + new columns / 64): values go to a dense scratch row, a bit set remembers
    where, and reading the bits in order sorts them.
    """
    table = np.array(lut, dtype=np.int32)
    kept = table[table >= 0]
    n_new = int(kept.max()) + 1 if kept.size else 0
    if len(np.unique(kept)) != len(kept):
        raise ValueError("two columns are given the same new number")
    kind = indices.dtype if n_new - 1 <= np.iinfo(indices.dtype).max else np.dtype(np.int32)
    out_indptr = np.zeros(len(indptr), dtype=np.int64)
    _count_kept(indptr, indices, table, out_indptr)
    np.cumsum(out_indptr, out=out_indptr)
    # One place more than needed: dropped values are written there, which is cheaper than a branch.
    out_indices = np.empty(out_indptr[-1] + 1, dtype=kind)
    out_data = np.empty(out_indptr[-1] + 1, dtype=data.dtype)
    if np.all(np.diff(kept) > 0):
        _relabel_in_order(indptr, indices, data, table, out_indices, out_data)
    else:
        table[table < 0] = n_new
        _relabel(indptr, indices, data, table, n_new, out_indptr, out_indices, out_data)
    return out_indptr, out_indices[:-1], out_data[:-1]


@njit(nogil=True, cache=True)
def _count_kept(indptr, indices, lut, out_counts):  # type: ignore[no-untyped-def]
    for i in range(len(indptr) - 1):
        n = 0
        for j in range(indptr[i], indptr[i + 1]):
            n += lut[indices[j]] >= 0
        out_counts[i + 1] = n


@njit(nogil=True, cache=True)
def _relabel_in_order(indptr, indices, data, lut, out_indices, out_data):  # type: ignore[no-untyped-def]
    at = 0
    for j in range(indptr[0], indptr[-1]):
        column = lut[indices[j]]
        out_indices[at] = column
        out_data[at] = data[j]
        at += column >= 0


@njit(nogil=True, cache=True)
def _relabel(indptr, indices, data, lut, n_new, out_indptr, out_indices, out_data):  # type: ignore[no-untyped-def]
    row = np.empty(n_new + 1, dtype=out_data.dtype)
    seen = np.zeros(n_new // 64 + 1, dtype=np.uint64)
    one = np.uint64(1)
    for i in range(len(indptr) - 1):
        for j in range(indptr[i], indptr[i + 1]):
            new = np.int64(lut[indices[j]])
            row[new] = data[j]
            seen[new >> 6] |= one << np.uint64(new & 63)
        seen[n_new >> 6] &= ~(one << np.uint64(n_new & 63))
        at = out_indptr[i]
        for word in range(len(seen)):
            bits = seen[word]
            seen[word] = 0
            while bits:
                column = (word << 6) + lowest_bit(bits)
                bits &= bits - one
                out_indices[at] = column
                out_data[at] = row[column]
                at += 1


def validate_counts(data: np.ndarray) -> CountProblems:
    """Look for values that cannot be counts.

    Parameters
    ----------
    data
        Stored values, any real type, shape (nnz,).
    """
    if data.size == 0:
        return CountProblems(0, 0, 0, 0.0)
    if np.issubdtype(data.dtype, np.integer) or data.dtype == np.bool_:
        negative = 0 if data.dtype.kind in "ub" else int(np.count_nonzero(data < 0))
        return CountProblems(negative, 0, 0, float(data.max()))
    if data.dtype == np.float16:
        data = data.astype(np.float32)
    negative, nonfinite, fractional, maximum = _validate(data)
    return CountProblems(negative, nonfinite, fractional, maximum if np.isfinite(maximum) else 0.0)


@njit(nogil=True, cache=True)
def _validate(data):  # type: ignore[no-untyped-def]
    negative = 0
    nonfinite = 0
    fractional = 0
    maximum = -np.inf
    for j in range(len(data)):
        value = data[j]
        if value - value != 0:
            nonfinite += 1
        else:
            negative += value < 0
            fractional += value != np.floor(value)
            if value > maximum:
                maximum = value
    return negative, nonfinite, fractional, maximum


def check_rows(indptr: np.ndarray, indices: np.ndarray, n_cols: int) -> tuple[int, int]:
    """Look for columns no kernel may touch: the kernels themselves do not check.

    Returns
    -------
    n_outside
        Stored values whose column is outside [0, n_cols).
    n_disordered
        Rows whose columns do not strictly ascend (unsorted, or a column twice).
    """
    outside, disordered = _check(indptr, indices, n_cols)
    return int(outside), int(disordered)


@njit(nogil=True, cache=True)
def _check(indptr, indices, n_cols):  # type: ignore[no-untyped-def]
    outside = 0
    disordered = 0
    for i in range(len(indptr) - 1):
        broken = False
        for j in range(indptr[i], indptr[i + 1]):
            column = np.int64(indices[j])
            outside += (column < 0) | (column >= n_cols)
            if j > indptr[i]:
                broken |= bool(np.int64(indices[j - 1]) >= column)
        disordered += broken
    return outside, disordered
