"""Places along a Hilbert curve: near on the curve is near in space."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["hilbert_keys"]


def hilbert_keys(cells: np.ndarray, bits: int) -> np.ndarray:
    """Return the place of each cell of a 2^bits-wide square or cube along its Hilbert curve.

    Parameters
    ----------
    cells
        Whole numbers in [0, 2^bits), shape (n, d).
    bits
        Refinements of the curve; at most 64 / d.

    Returns
    -------
    keys
        uint64, shape (n,), a bijection onto [0, 2^(bits d)); cells one step apart on the curve share a side.

    Notes
    -----
    J. Skilling, "Programming the Hilbert curve", AIP Conf. Proc. 707:381 (2004). O(bits d) a cell.
    """
    axes = np.array(cells, dtype=np.uint64, order="C")
    if axes.ndim != 2 or not 1 <= bits <= 64 // axes.shape[1]:
        raise ValueError(f"{bits} bits for cells of shape {axes.shape} do not make 64-bit keys")
    keys = np.empty(len(axes), dtype=np.uint64)
    _keys(axes, bits, keys)
    return keys


@njit(nogil=True, cache=True)
def _keys(axes, bits, keys):  # type: ignore[no-untyped-def]
    n, d = axes.shape
    one = np.uint64(1)
    top = one << np.uint64(bits - 1)
    for i in range(n):
        x = axes[i]
        q = top
        while q > one:
            below = q - one
            for a in range(d):
                if x[a] & q:
                    x[0] ^= below
                else:
                    swapped = (x[0] ^ x[a]) & below
                    x[0] ^= swapped
                    x[a] ^= swapped
            q >>= one
        for a in range(1, d):
            x[a] ^= x[a - 1]
        turn = np.uint64(0)
        q = top
        while q > one:
            if x[d - 1] & q:
                turn ^= q - one
            q >>= one
        key = np.uint64(0)
        for bit in range(bits - 1, -1, -1):
            for a in range(d):
                key = (key << one) | (((x[a] ^ turn) >> np.uint64(bit)) & one)
        keys[i] = key
