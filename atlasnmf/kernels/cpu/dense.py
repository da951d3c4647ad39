"""Sparse rows of a batch written out, where a dense product is faster than a sparse one."""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["fill_dense"]


@numba.njit(nogil=True, cache=True)
def _fill(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, out: np.ndarray) -> None:
    for row in range(len(indptr) - 1):
        out[row, :] = 0
        for at in range(indptr[row], indptr[row + 1]):
            out[row, indices[at]] = data[at]


def fill_dense(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, out: np.ndarray) -> None:
    """Write sparse rows into ``out``, shape (n, G), whatever it held before.

    Parameters
    ----------
    indptr, indices, data
        CSR parts, n rows.
    out
        Changed in place.
    """
    _fill(indptr, indices, data, out)
