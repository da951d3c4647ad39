"""Histograms of sparse rows by column and group."""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["add_histograms"]


@numba.njit(nogil=True, cache=True)
def _add(indptr, indices, data, groups, low, scale, out):  # type: ignore[no-untyped-def]
    n_bins = out.shape[2]
    for row in range(len(indptr) - 1):
        group = groups[row]
        if group < 0:
            continue
        for at in range(indptr[row], indptr[row + 1]):
            if data[at] == 0:
                continue
            column = indices[at]
            place = np.int64((data[at] - low[column]) * scale[column])
            out[column, group, min(max(place, 0), n_bins - 1)] += 1


def add_histograms(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    groups: np.ndarray,
    low: np.ndarray,
    scale: np.ndarray,
    out: np.ndarray,
) -> None:
    """Count the values of sparse rows other than zero by column, group and interval.

    Parameters
    ----------
    indptr, indices, data
        CSR parts, n rows, G columns.
    groups
        Group of each row, shape (n,); rows below 0 are left out.
    low, scale
        A value v of column g falls into interval ``(v - low[g]) * scale[g]``, shape (G,).
    out
        Counts, int32, shape (G, n_groups, n_bins); added to in place.

    Notes
    -----
    O(nnz).
    """
    _add(indptr, indices, data, groups, low, scale, out)
