"""CuPy twin of :mod:`atlasnmf.kernels.cpu.hals`: same names, arrays on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasnmf.kernels.gpu._compile import BLOCK, REAL_NAMES, launch

__all__ = ["hals_sweep"]

#: A thread sweeps one row: rows do not depend on each other, columns follow one another.
SOURCE = r"""
extern "C" __global__ void hals_sweep(
    const REAL* factor, const REAL* gram, const REAL* cross, long long n_rows, long long width,
    REAL* swept, double* away)
{
    const long long first = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    for (long long row = first; row < n_rows; row += (long long)gridDim.x * blockDim.x) {
        REAL* own = swept + row * width;
        for (long long k = 0; k < width; ++k)
            own[k] = factor[row * width + k];
        double total = 0.0;
        for (long long k = 0; k < width; ++k) {
            const REAL curve = gram[k * width + k];
            if (curve == (REAL)0)
                continue;
            REAL slope = -cross[row * width + k];
            for (long long j = 0; j < width; ++j)
                slope += gram[k * width + j] * own[j];
            const REAL projected = own[k] > (REAL)0 || slope < (REAL)0 ? slope : (REAL)0;
            total += projected < (REAL)0 ? -projected : projected;
            const REAL moved = own[k] - slope / curve;
            own[k] = moved > (REAL)0 ? moved : (REAL)0;
        }
        away[row] = total;
    }
}
"""


def hals_sweep(factor: Any, gram: Any, cross: Any) -> tuple[Any, float]:
    """Sweep once over the columns of a non-negative factor; see the CPU twin."""
    import cupy as cp

    if factor.shape != cross.shape or gram.shape != (factor.shape[1],) * 2:
        raise ValueError(f"shapes do not fit: {factor.shape}, {gram.shape}, {cross.shape}")
    start = cp.ascontiguousarray(cp.asarray(factor))
    n_rows, width = start.shape
    swept, away = cp.empty(start.shape, dtype=start.dtype), cp.zeros(n_rows, dtype=np.float64)
    arguments = (
        start,
        cp.ascontiguousarray(cp.asarray(gram).astype(start.dtype)),
        cp.ascontiguousarray(cp.asarray(cross).astype(start.dtype)),
        n_rows,
        width,
        swept,
        away,
    )
    launch(SOURCE, "hals_sweep", -(-n_rows // BLOCK), arguments, real=REAL_NAMES[start.dtype])
    return swept, float(away.sum())
