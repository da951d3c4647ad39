"""CuPy twin of :mod:`atlasnmf.kernels.cpu.lognorm`: same names, arrays on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasnmf.kernels.gpu.rows import row_of_values

__all__ = ["log_normalise"]


def log_normalise(indptr: Any, data: Any, totals: Any, scale: float) -> Any:
    """Log-normalise the stored values of each row, float32; see the CPU twin."""
    import cupy as cp

    starts, of_row = cp.asarray(indptr), cp.asarray(totals).astype(np.float64)
    if len(of_row) != len(starts) - 1:
        raise ValueError(f"{len(starts) - 1} rows need as many totals, got {len(of_row)}")
    factor = cp.where(of_row > 0, scale / cp.maximum(of_row, 1e-300), 0.0)
    return cp.log1p(factor[row_of_values(starts)] * cp.asarray(data)).astype(np.float32)
