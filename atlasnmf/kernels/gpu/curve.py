"""CuPy twin of :mod:`atlasnmf.kernels.cpu.curve`: same names, arrays on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasnmf.kernels.gpu._compile import BLOCK, launch

__all__ = ["hilbert_keys"]

#: A thread per cell. The bits are those of the CPU's unsigned words; arrays are passed as signed ones.
SOURCE = r"""
typedef unsigned long long word;

extern "C" __global__ void hilbert_keys(
    long long* axes, long long n, long long d, long long bits, long long* keys)
{
    const word one = 1, top = one << (bits - 1);
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n;
         i += gridDim.x * (long long)blockDim.x) {
        word* x = (word*)axes + i * d;
        for (word q = top; q > one; q >>= 1) {
            const word below = q - one;
            for (long long a = 0; a < d; ++a) {
                if (x[a] & q) {
                    x[0] ^= below;
                } else {
                    const word swapped = (x[0] ^ x[a]) & below;
                    x[0] ^= swapped;
                    x[a] ^= swapped;
                }
            }
        }
        for (long long a = 1; a < d; ++a) x[a] ^= x[a - 1];
        word turn = 0;
        for (word q = top; q > one; q >>= 1)
            if (x[d - 1] & q) turn ^= q - one;
        word key = 0;
        for (long long bit = bits - 1; bit >= 0; --bit)
            for (long long a = 0; a < d; ++a) key = (key << 1) | (((x[a] ^ turn) >> bit) & one);
        keys[i] = (long long)key;
    }
}
"""


def hilbert_keys(cells: Any, bits: int) -> Any:
    """Return the place of each cell along its Hilbert curve, uint64; see the CPU twin."""
    import cupy as cp

    axes = cp.ascontiguousarray(cp.asarray(cells).astype(np.uint64))  # a copy: worked on in place
    if axes.ndim != 2 or not 1 <= bits <= 64 // axes.shape[1]:
        raise ValueError(f"{bits} bits for cells of shape {axes.shape} do not make 64-bit keys")
    keys = cp.empty(len(axes), dtype=np.int64)
    arguments = (axes.view(np.int64), len(axes), axes.shape[1], int(bits), keys)
    launch(SOURCE, "hilbert_keys", -(-len(axes) // BLOCK), arguments)
    return keys.view(np.uint64)
