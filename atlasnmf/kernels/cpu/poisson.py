"""The data term of a Poisson factorisation at the non-zero counts, value and gradients in one pass."""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["column_sums", "log_likelihood"]

_FAST = {"contract", "reassoc", "nsz", "arcp"}


@numba.njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _log_likelihood(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    weights: np.ndarray,
    loadings: np.ndarray,
    floor: float,
    grad_weights: np.ndarray,
    grad_loadings: np.ndarray,
) -> float:
    n_rows, n_factors = weights.shape
    total = 0.0
    for row in range(n_rows):
        row_total = 0.0
        for at in range(indptr[row], indptr[row + 1]):
            gene = indices[at]
            rate = loadings.dtype.type(0.0)
            for k in range(n_factors):
                rate += weights[row, k] * loadings[gene, k]
            rate += floor
            row_total += data[at] * np.log(rate)
            ratio = data[at] / rate
            for k in range(n_factors):
                grad_weights[row, k] += ratio * loadings[gene, k]
                grad_loadings[gene, k] += ratio * weights[row, k]
        total += row_total
    return total


@numba.njit(nogil=True, cache=True)
def _column_sums(indices: np.ndarray, data: np.ndarray, sums: np.ndarray) -> None:
    for at in range(len(indices)):
        sums[indices[at]] += data[at]


def column_sums(indices: np.ndarray, data: np.ndarray, n_cols: int) -> np.ndarray:
    """Return the sum of every column of sparse rows, in the dtype of ``data``, shape (n_cols,)."""
    sums = np.zeros(n_cols, data.dtype)
    _column_sums(indices, data, sums)
    return sums


def log_likelihood(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    weights: np.ndarray,
    loadings: np.ndarray,
    floor: float,
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return ``sum_ig y_ig log(w_i . m_g + floor)`` over the non-zeros of y, and its gradients.

    Parameters
    ----------
    indptr, indices, data
        Counts y as sparse rows, shape (n, G); ``data`` in the dtype of ``weights``.
    weights
        Factor weights of the rows, float32 or float64, shape (n, K), C order.
    loadings
        Gene loadings, one row per gene, same dtype, shape (G, K), C order.
    floor
        Added to every rate before the logarithm.

    Returns
    -------
    value, grad_weights, grad_loadings
        The sum (accumulated in float64), and its gradients, shapes (n, K) and (G, K).

    Notes
    -----
    3 nnz K multiply-adds; no array of shape (n, G).
    """
    grad_weights = np.zeros_like(weights)
    grad_loadings = np.zeros_like(loadings)
    value = _log_likelihood(
        indptr, indices, data, weights, loadings, weights.dtype.type(floor), grad_weights, grad_loadings
    )
    return float(value), grad_weights, grad_loadings
