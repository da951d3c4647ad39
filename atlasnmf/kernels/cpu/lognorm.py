"""Log-normalisation of counts: log1p(scale * y / total of the spot)."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["log_normalise"]

#: Counts below this are looked up: most counts of a spot are 1, 2 or 3, and log1p is the whole cost.
_REMEMBERED = 64


def log_normalise(indptr: np.ndarray, data: np.ndarray, totals: np.ndarray, scale: float) -> np.ndarray:
    """Log-normalise the stored values of each row.

    Parameters
    ----------
    indptr, data
        CSR row starts and counts y, non-negative, any real type.
    totals
        Counts of each spot over all kept genes, shape (n_rows,); spots with total 0 get zeros.
    scale
        Counts per spot after normalisation, 1e4 as a rule.

    Returns
    -------
    values
        log1p(scale * y / total), computed in float64 and rounded to float32, shape (nnz,).
    """
    if len(totals) != len(indptr) - 1:
        raise ValueError(f"{len(indptr) - 1} rows need as many totals, got {len(totals)}")
    out = np.empty(int(indptr[-1]) - int(indptr[0]), dtype=np.float32)
    _log_normalise(indptr, data, np.ascontiguousarray(totals, dtype=np.float64), float(scale), out)
    return out


@njit(nogil=True, cache=True)
def _log_normalise(indptr, data, totals, scale, out):  # type: ignore[no-untyped-def]
    known = np.empty(_REMEMBERED, dtype=np.float32)
    first = indptr[0]
    for i in range(len(totals)):
        factor = scale / totals[i] if totals[i] > 0.0 else 0.0
        known[:] = -1.0
        for j in range(indptr[i], indptr[i + 1]):
            value = np.float64(data[j])
            count = np.int64(value) if value < _REMEMBERED else _REMEMBERED
            if 0 <= count < _REMEMBERED and np.float64(count) == value:
                if known[count] < 0.0:
                    known[count] = np.log1p(factor * value)
                out[j - first] = known[count]
            else:
                out[j - first] = np.log1p(factor * value)
