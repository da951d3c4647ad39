"""The working order: spots sorted by slice, and within a slice along a Hilbert curve."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from atlasnmf.kernels.cpu.curve import hilbert_keys

__all__ = ["hilbert_index", "spatial_order"]

#: Refinements by dimension: cells of a 16-millionth of a slice in the plane, of a millionth in space.
_BITS = {1: 32, 2: 24, 3: 20}


def hilbert_index(coords: np.ndarray, bits: int | None = None) -> np.ndarray:
    """Place points along a Hilbert curve over their bounding square or cube.

    Parameters
    ----------
    coords
        Finite, shape (n, d) with d of 1, 2 or 3; any unit, the same on all axes.
    bits
        Refinements of the curve, at most 64 / d; 24 in the plane and 20 in space by default.

    Returns
    -------
    index
        uint64, shape (n,).

    Examples
    --------
    >>> hilbert_index(np.array([[0, 0], [1, 0], [1, 1], [0, 1]]), bits=1)
    array([0, 3, 2, 1], dtype=uint64)
    """
    points = np.asarray(coords, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] not in _BITS:
        raise ValueError(f"coordinates must have shape (n, 2) or (n, 3), got {points.shape}")
    bits = _BITS[points.shape[1]] if bits is None else bits
    if len(points) == 0:
        return np.zeros(0, dtype=np.uint64)
    lowest = points.min(axis=0)
    extent = float((points.max(axis=0) - lowest).max())
    last = 2**bits - 1
    scale = last / extent if extent > 0 else 0.0
    return hilbert_keys(np.minimum((points - lowest) * scale, last).astype(np.uint64), bits)


def spatial_order(coords: np.ndarray, slice_codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort spots by slice and, within a slice, along the Hilbert curve.

    Parameters
    ----------
    coords
        Shape (n, d) with d of 2 or 3; finite for the spots kept.
    slice_codes
        Slice of each spot, -1 for spots that are left out, integer, shape (n,).

    Returns
    -------
    order
        Rows of the kept spots in working order, int64, shape (n_kept,). Spots in one cell of the curve
        (duplicated coordinates among them) stay in the order in which they came.
    offsets
        First working row of each slice and the total, int64, shape (S + 1,) with S the largest code + 1.

    Examples
    --------
    >>> coords = np.array([[1.0, 1.0], [0.0, 0.0], [5.0, 5.0], [9.0, 9.0]])
    >>> spatial_order(coords, np.array([0, 0, -1, 1]))
    (array([1, 0, 3]), array([0, 2, 3]))
    """
    codes = np.asarray(slice_codes)
    n_slices = int(codes.max()) + 1 if codes.size else 0
    order = np.argsort(codes, kind="stable")
    order = order[np.count_nonzero(codes < 0) :]
    sizes = np.bincount(codes[order], minlength=n_slices)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    for start, stop in pairwise(offsets):
        rows = order[start:stop]
        order[start:stop] = rows[np.argsort(hilbert_index(coords[rows]), kind="stable")]
    return order.astype(np.int64), offsets
