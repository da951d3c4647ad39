"""Weighted sums over graph neighbours: A~X for sparse X, A z for dense z, and the transpose."""

from __future__ import annotations

import numpy as np
from numba import njit

from atlasnmf.kernels.cpu._bits import count_bits, lowest_bit
from atlasnmf.kernels.cpu.products import csr_dot, csr_t_dot

__all__ = ["smooth_dense", "smooth_dense_transposed", "smooth_rows"]


def smooth_rows(
    graph_indptr: np.ndarray,
    graph_indices: np.ndarray,
    graph_weights: np.ndarray,
    x_indptr: np.ndarray,
    x_indices: np.ndarray,
    x_data: np.ndarray,
    n_cols: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Multiply a sparse graph with sparse rows.

    Parameters
    ----------
    graph_indptr, graph_indices, graph_weights
        CSR parts of the graph, n rows; columns are rows of X.
    x_indptr, x_indices, x_data
        CSR parts of X, m rows.
    n_cols
        Number of columns G of X.

    Returns
    -------
    indptr, indices, data
        CSR parts of the product, shape (n, G); indptr int64, indices of X's type and ascending, data
        float32. A value is stored where any neighbour stores one.

    Notes
    -----
    Gustavson's row-by-row product. The pattern of every row of X is held as a bit set (G/8 bytes a row),
    so the pattern of a sum is a handful of word-wise ORs, its size is known before it is filled, and
    reading the bits in order sorts the columns; the sums go to one dense float32 scratch row.
    Neighbours are added in the order in which the graph lists them: the same order, the same bits.
    """
    words = (n_cols + 63) // 64
    patterns = np.zeros((len(x_indptr) - 1, words), dtype=np.uint64)
    _fill_patterns(x_indptr, x_indices, patterns)
    indptr = np.zeros(len(graph_indptr), dtype=np.int64)
    _count(graph_indptr, graph_indices, patterns, indptr)
    np.cumsum(indptr, out=indptr)
    indices = np.empty(indptr[-1], dtype=x_indices.dtype)
    data = np.empty(indptr[-1], dtype=np.float32)
    graph = (graph_indptr, graph_indices, np.ascontiguousarray(graph_weights, dtype=np.float32))
    _smooth(graph, (x_indptr, x_indices, x_data), n_cols, patterns, (indptr, indices, data))
    return indptr, indices, data


@njit(nogil=True, cache=True)
def _fill_patterns(indptr, indices, patterns):  # type: ignore[no-untyped-def]
    one = np.uint64(1)
    for i in range(len(patterns)):
        for j in range(indptr[i], indptr[i + 1]):
            column = np.int64(indices[j])
            patterns[i, column >> 6] |= one << np.uint64(column & 63)


@njit(nogil=True, cache=True)
def _union(neighbours, patterns, union):  # type: ignore[no-untyped-def]
    union[:] = 0
    for neighbour in neighbours:
        pattern = patterns[neighbour]
        for word in range(len(union)):
            union[word] |= pattern[word]


@njit(nogil=True, cache=True)
def _count(graph_indptr, graph_indices, patterns, counts):  # type: ignore[no-untyped-def]
    union = np.empty(patterns.shape[1], dtype=np.uint64)
    for i in range(len(graph_indptr) - 1):
        _union(graph_indices[graph_indptr[i] : graph_indptr[i + 1]], patterns, union)
        for word in range(len(union)):
            counts[i + 1] += count_bits(union[word])


@njit(nogil=True, cache=True)
def _smooth(graph, x, n_cols, patterns, out):  # type: ignore[no-untyped-def]
    graph_indptr, graph_indices, weights = graph
    x_indptr, x_indices, x_data = x
    indptr, indices, data = out
    sums = np.zeros(n_cols, dtype=np.float32)
    union = np.empty(patterns.shape[1], dtype=np.uint64)
    one = np.uint64(1)
    for i in range(len(graph_indptr) - 1):
        lo, hi = graph_indptr[i], graph_indptr[i + 1]
        _union(graph_indices[lo:hi], patterns, union)
        for edge in range(lo, hi):
            weight = weights[edge]
            row = graph_indices[edge]
            for j in range(x_indptr[row], x_indptr[row + 1]):
                sums[x_indices[j]] += weight * np.float32(x_data[j])
        at = indptr[i]
        for word in range(len(union)):
            bits = union[word]
            while bits:
                column = (word << 6) + lowest_bit(bits)
                bits &= bits - one
                indices[at] = column
                data[at] = sums[column]
                sums[column] = 0.0
                at += 1


def smooth_dense(
    graph_indptr: np.ndarray, graph_indices: np.ndarray, graph_weights: np.ndarray, dense: np.ndarray
) -> np.ndarray:
    """Multiply a sparse graph with dense rows.

    Parameters
    ----------
    graph_indptr, graph_indices, graph_weights
        CSR parts of the graph, n rows; columns are rows of ``dense``.
    dense
        float32 or float64, shape (m, p).

    Returns
    -------
    smoothed
        Of the type of ``dense``, shape (n, p).
    """
    return csr_dot(graph_indptr, graph_indices, graph_weights, dense)


def smooth_dense_transposed(
    graph_indptr: np.ndarray,
    graph_indices: np.ndarray,
    graph_weights: np.ndarray,
    dense: np.ndarray,
    n_cols: int,
) -> np.ndarray:
    """Multiply the transpose of a sparse graph with dense rows: the gradient of :func:`smooth_dense`.

    Parameters
    ----------
    graph_indptr, graph_indices, graph_weights
        CSR parts of the graph, n rows.
    dense
        float32 or float64, shape (n, p).
    n_cols
        Number of columns m of the graph.

    Returns
    -------
    gathered
        Of the type of ``dense``, shape (m, p).
    """
    return csr_t_dot(graph_indptr, graph_indices, graph_weights, dense, n_cols, accumulate=dense.dtype)
