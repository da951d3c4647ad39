"""Hierarchical alternating least squares: one sweep of cyclic coordinate descent over a factor."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["hals_sweep"]

#: Rows swept together: two copies of them, transposed, stay in the nearer caches for any usual rank.
_BLOCK_ROWS = 128


def hals_sweep(factor: np.ndarray, gram: np.ndarray, cross: np.ndarray) -> tuple[np.ndarray, float]:
    """Sweep once over the columns of a non-negative factor.

    With X ~ D A' and A fixed, every row d of D minimises ||x - d A'||^2 one coordinate after the other:
    d_k <- max(0, d_k - (gram_k . d - cross_k) / gram_kk). The same sweep serves A with D fixed.

    Parameters
    ----------
    factor
        D, shape (n, K), float32 or float64; may be some columns of a wider array.
    gram
        A'A, shape (K, K).
    cross
        X A, shape (n, K).

    Returns
    -------
    swept
        The next D, shape (n, K).
    violation
        Sum of the projected gradient's absolute values before each update: scikit-learn's measure of how far
        the factor is from its optimum.

    Notes
    -----
    2·n·K^2 operations, vectorised over rows; a row's result depends on that row alone. A column whose
    ``gram`` diagonal is 0 stays as it is.

    Source: Cichocki & Phan 2009; equal to cyclic coordinate descent (scikit-learn's ``solver="cd"``).
    """
    if factor.shape != cross.shape or gram.shape != (factor.shape[1],) * 2:
        raise ValueError(f"shapes do not fit: {factor.shape}, {gram.shape}, {cross.shape}")
    kind = factor.dtype
    swept = np.empty(factor.shape, dtype=kind)
    violation = _sweep(factor, gram.astype(kind), cross.astype(kind, copy=False), swept)
    return swept, float(violation)


# Contraction to fused multiply-adds is the only liberty taken: the order of the sums is as written.
@njit(nogil=True, cache=True, fastmath={"contract"})
def _sweep(factor, gram, cross, swept):  # type: ignore[no-untyped-def]
    n, width = factor.shape
    real = factor.dtype.type
    zero = real(0)
    own = np.empty((width, _BLOCK_ROWS), dtype=factor.dtype)
    aim = np.empty((width, _BLOCK_ROWS), dtype=factor.dtype)
    slope = np.empty(_BLOCK_ROWS, dtype=factor.dtype)
    away = np.empty(_BLOCK_ROWS, dtype=factor.dtype)
    total = 0.0
    for start in range(0, n, _BLOCK_ROWS):
        size = min(_BLOCK_ROWS, n - start)
        for i in range(size):
            away[i] = zero
            for k in range(width):
                own[k, i] = factor[start + i, k]
                aim[k, i] = cross[start + i, k]
        for k in range(width):
            if gram[k, k] == zero:
                continue
            step = real(1) / gram[k, k]
            row = own[k]
            for i in range(size):
                slope[i] = -aim[k, i]
            j = 0
            while j + 4 <= width:
                w0, w1, w2, w3 = gram[k, j], gram[k, j + 1], gram[k, j + 2], gram[k, j + 3]
                r0, r1, r2, r3 = own[j], own[j + 1], own[j + 2], own[j + 3]
                for i in range(size):
                    slope[i] += (w0 * r0[i] + w1 * r1[i]) + (w2 * r2[i] + w3 * r3[i])
                j += 4
            while j < width:
                w0, r0 = gram[k, j], own[j]
                for i in range(size):
                    slope[i] += w0 * r0[i]
                j += 1
            for i in range(size):
                projected = slope[i] if row[i] > zero else min(slope[i], zero)
                away[i] += abs(projected)
                row[i] = max(row[i] - slope[i] * step, zero)
        for i in range(size):
            total += away[i]
            for k in range(width):
                swept[start + i, k] = own[k, i]
    return total
