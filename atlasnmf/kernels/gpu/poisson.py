"""CuPy twin of :mod:`atlasnmf.kernels.cpu.poisson`: same names, arrays on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasnmf.kernels.gpu.moments import by_column
from atlasnmf.kernels.gpu.pairs import pair_dots
from atlasnmf.kernels.gpu.products import csr_dot, csr_t_dot
from atlasnmf.kernels.gpu.rows import row_of_values, row_sums

__all__ = ["column_sums", "log_likelihood"]


def column_sums(indices: Any, data: Any, n_cols: int) -> Any:
    """Return the sum of every column of sparse rows, in the dtype of ``data``; see the CPU twin."""
    return row_sums(*by_column(indices, data, n_cols)).astype(data.dtype)


def log_likelihood(
    indptr: Any, indices: Any, data: Any, weights: Any, loadings: Any, floor: float
) -> tuple[float, Any, Any]:
    """Return ``sum_ig y_ig log(w_i . m_g + floor)`` over the non-zeros of y, and its gradients.

    See the CPU twin. Every sum has one owner; scratch is a few numbers for every non-zero.
    """
    import cupy as cp

    counts = cp.asarray(data).astype(weights.dtype)
    rates = pair_dots(row_of_values(indptr), indices, weights, loadings) + weights.dtype.type(floor)
    value = float((counts * cp.log(rates)).sum(dtype=np.float64))
    ratios = counts / rates
    of_loadings = csr_t_dot(indptr, indices, ratios, weights, len(loadings), accumulate=weights.dtype)
    return value, csr_dot(indptr, indices, ratios, loadings), of_loadings
