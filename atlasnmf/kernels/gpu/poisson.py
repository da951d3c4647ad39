"""CuPy twin of :mod:`atlasnmf.kernels.cpu.poisson`."""

from __future__ import annotations

from typing import Any

__all__ = ["column_sums", "log_likelihood"]

#: Non-zeros gathered at once: bounds the scratch at 3 x CHUNK x K values.
CHUNK = 1 << 21


def column_sums(indices: Any, data: Any, n_cols: int) -> Any:
    """Return the sum of every column of sparse rows, in the dtype of ``data``, shape (n_cols,)."""
    import cupy as cp

    return cp.bincount(indices, weights=data, minlength=n_cols).astype(data.dtype)


def log_likelihood(
    indptr: Any, indices: Any, data: Any, weights: Any, loadings: Any, floor: float
) -> tuple[float, Any, Any]:
    """Return ``sum_ig y_ig log(w_i . m_g + floor)`` over the non-zeros of y, and its gradients.

    Arrays live on the device; see the CPU twin for shapes. Sums by ``cupyx.scatter_add``, so the last bits
    depend on the order in which threads finish.
    """
    import cupy as cp
    import cupyx

    grad_weights = cp.zeros_like(weights)
    grad_loadings = cp.zeros_like(loadings)
    rows = cp.searchsorted(indptr, cp.arange(len(data)), side="right") - 1
    value = 0.0
    for start in range(0, len(data), CHUNK):
        row = rows[start : start + CHUNK]
        gene = indices[start : start + CHUNK].astype(cp.int64)
        count = data[start : start + CHUNK]
        here, there = weights[row], loadings[gene]
        rate = (here * there).sum(axis=1) + floor
        value += float((count * cp.log(rate)).sum(dtype=cp.float64))
        ratio = (count / rate)[:, None]
        cupyx.scatter_add(grad_weights, row, ratio * there)
        cupyx.scatter_add(grad_loadings, gene, ratio * here)
    return value, grad_weights, grad_loadings
