"""Sums per gene over the rows of a CSR matrix: the pieces of means, variances and seurat_v3."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["clipped_moments", "gene_moments"]


def gene_moments(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, n_cols: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum every column.

    Parameters
    ----------
    indptr, indices, data
        CSR parts, any integer indices, any real data.
    n_cols
        Number of genes G.

    Returns
    -------
    sums, sums_of_squares, n_nonzero
        float64, shape (G,); exact for counts (whole numbers below 2^53).
    """
    sums = np.zeros((3, n_cols), dtype=np.float64)
    _moments(int(indptr[0]), int(indptr[-1]), indices, data, sums[0], sums[1], sums[2])
    return sums[0], sums[1], sums[2]


@njit(nogil=True, cache=True)
def _moments(start, stop, indices, data, sums, squares, nonzero):  # type: ignore[no-untyped-def]
    for j in range(start, stop):
        gene = indices[j]
        value = np.float64(data[j])
        sums[gene] += value
        squares[gene] += value * value
        nonzero[gene] += value != 0.0


def clipped_moments(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, n_cols: int, clip: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sum min(x, clip of the gene) and its square for every column.

    Parameters
    ----------
    indptr, indices, data
        CSR parts.
    n_cols
        Number of genes G.
    clip
        Largest value of each gene, non-negative (so zeros stay zeros), float64, shape (G,).

    Returns
    -------
    sums, sums_of_squares
        float64, shape (G,).

    Notes
    -----
    The second pass of seurat_v3 (Stuart et al. 2019, *Cell* 177:1888): counts clipped at
    mean + sqrt(N) times the regularised standard deviation.
    """
    sums = np.zeros((2, n_cols), dtype=np.float64)
    limit = np.ascontiguousarray(clip, dtype=np.float64)
    if limit.shape != (n_cols,):
        raise ValueError(f"clip must have shape ({n_cols},), got {limit.shape}")
    _clipped(int(indptr[0]), int(indptr[-1]), indices, data, limit, sums[0], sums[1])
    return sums[0], sums[1]


@njit(nogil=True, cache=True)
def _clipped(start, stop, indices, data, clip, sums, squares):  # type: ignore[no-untyped-def]
    for j in range(start, stop):
        gene = indices[j]
        value = min(np.float64(data[j]), clip[gene])
        sums[gene] += value
        squares[gene] += value * value
