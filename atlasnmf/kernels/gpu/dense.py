"""CuPy twin of :mod:`atlasnmf.kernels.cpu.dense`: same names, arrays on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasnmf.kernels.gpu._compile import REAL_NAMES, launch, read_as

__all__ = ["fill_dense"]

#: A block per row: zeros first, then its values; every place has one owner.
SOURCE = r"""
extern "C" __global__ void fill_dense(
    const long long* indptr, const int* indices, const REAL* data, long long n_rows, long long n_cols,
    REAL* out)
{
    for (long long row = blockIdx.x; row < n_rows; row += gridDim.x) {
        for (long long column = threadIdx.x; column < n_cols; column += blockDim.x)
            out[row * n_cols + column] = 0;
        __syncthreads();
        for (long long j = indptr[row] + threadIdx.x; j < indptr[row + 1]; j += blockDim.x)
            out[row * n_cols + indices[j]] = data[j];
        __syncthreads();
    }
}
"""


def fill_dense(indptr: Any, indices: Any, data: Any, out: Any) -> None:
    """Write sparse rows into ``out``, C-ordered float32 or float64; see the CPU twin."""
    if out.ndim != 2 or out.dtype not in REAL_NAMES or not out.flags.c_contiguous:
        raise ValueError(f"rows are written into a C-ordered float32 or float64 table, got {out.dtype}")
    arguments = (
        read_as(np.int64, indptr),
        read_as(np.int32, indices),
        read_as(out.dtype, data),
        len(indptr) - 1,
        out.shape[1],
        out,
    )
    launch(SOURCE, "fill_dense", len(indptr) - 1, arguments, real=REAL_NAMES[out.dtype])
