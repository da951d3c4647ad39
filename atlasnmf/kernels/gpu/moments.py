"""CuPy twin of :mod:`atlasnmf.kernels.cpu.moments`: same names, arrays on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasnmf.kernels.gpu.rows import row_sums

__all__ = ["by_column", "clipped_moments", "gene_moments"]


def by_column(indices: Any, data: Any, n_cols: int) -> tuple[Any, Any]:
    """Return where each column starts and its values, float64: then sums need no atomic additions."""
    import cupy as cp

    columns = cp.asarray(indices).astype(np.int32)
    order = cp.argsort(columns, kind="stable")
    starts = cp.searchsorted(columns[order], cp.arange(n_cols + 1), side="left").astype(np.int64)
    return starts, cp.asarray(data)[order].astype(np.float64)


def gene_moments(indptr: Any, indices: Any, data: Any, n_cols: int) -> tuple[Any, Any, Any]:
    """Sum every column, its squares and its non-zeros; see the CPU twin."""
    starts, values = by_column(indices, data, n_cols)
    return row_sums(starts, values), row_sums(starts, values * values), row_sums(starts, values != 0)


def clipped_moments(indptr: Any, indices: Any, data: Any, n_cols: int, clip: Any) -> tuple[Any, Any]:
    """Sum min(x, clip of the gene) and its square for every column; see the CPU twin."""
    import cupy as cp

    limit = cp.asarray(clip).astype(np.float64)
    if limit.shape != (n_cols,):
        raise ValueError(f"clip must have shape ({n_cols},), got {limit.shape}")
    columns = cp.asarray(indices).astype(np.int32)
    values = cp.minimum(cp.asarray(data).astype(np.float64), limit[columns])
    starts, values = by_column(columns, values, n_cols)
    return row_sums(starts, values), row_sums(starts, values * values)
