"""Multi-head attention over the edges of a graph: weights, weighted sums, and their gradients.

A graph is given by its rows: ``indptr`` (n + 1,) and ``indices`` (E,), positions among m rows. Heads share
the edges; head h owns an equal block of columns. All is O(E (H + d)) in time and O(E H) in memory.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["aggregate", "aggregate_gradients", "cosine_shares", "edge_shares", "edge_shares_gradients"]


@njit(nogil=True, cache=True)
def edge_shares(
    indptr: np.ndarray, indices: np.ndarray, own: np.ndarray, other: np.ndarray, prior: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return softmax over the neighbours j of ``prior_ij * sigmoid(own_i + other_j)``.

    Parameters
    ----------
    indptr, indices
        The graph.
    own
        Share of the logit of the row itself, shape (n or more, H).
    other
        Share of the neighbour, shape (m, H).
    prior
        Similarity of the ends, shape (E, H); shape (0, H) for 1 everywhere.

    Returns
    -------
    shares, gates
        The softmax, and the sigmoid that the gradient needs, both (E, H).
    """
    heads, plain = own.shape[1], len(prior) == 0
    shares = np.empty((indptr[-1], heads), own.dtype)
    gates = np.empty((indptr[-1], heads), own.dtype)
    total = np.empty(heads, own.dtype)
    for i in range(len(indptr) - 1):
        total[:] = 0
        for e in range(indptr[i], indptr[i + 1]):
            j = indices[e]
            for h in range(heads):
                gate = 1 / (1 + np.exp(-(own[i, h] + other[j, h])))
                # logits lie within [-1, 1], so their exponentials need no shift
                weight = np.exp(gate if plain else prior[e, h] * gate)
                gates[e, h] = gate
                shares[e, h] = weight
                total[h] += weight
        for e in range(indptr[i], indptr[i + 1]):
            for h in range(heads):
                shares[e, h] /= total[h]
    return shares, gates


@njit(nogil=True, cache=True)
def edge_shares_gradients(
    indptr: np.ndarray,
    indices: np.ndarray,
    shares: np.ndarray,
    gates: np.ndarray,
    prior: np.ndarray,
    grad: np.ndarray,
    n_own: int,
    n_other: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of :func:`edge_shares` in ``own`` and ``other``, given that in the shares (E, H).

    Shapes (n_own, H) and (n_other, H).
    """
    heads, plain = shares.shape[1], len(prior) == 0
    own = np.zeros((n_own, heads), shares.dtype)
    other = np.zeros((n_other, heads), shares.dtype)
    mean = np.empty(heads, shares.dtype)
    for i in range(len(indptr) - 1):
        mean[:] = 0
        for e in range(indptr[i], indptr[i + 1]):
            for h in range(heads):
                mean[h] += shares[e, h] * grad[e, h]
        for e in range(indptr[i], indptr[i + 1]):
            j = indices[e]
            for h in range(heads):
                gate = gates[e, h]
                slope = shares[e, h] * (grad[e, h] - mean[h]) * gate * (1 - gate)
                if not plain:
                    slope *= prior[e, h]
                own[i, h] += slope
                other[j, h] += slope
    return own, other


@njit(nogil=True, cache=True)
def aggregate(indptr: np.ndarray, indices: np.ndarray, shares: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return ``sum_j shares_ij rows_j``, each head over its own columns, shape (n, d).

    Parameters
    ----------
    indptr, indices
        The graph.
    shares
        Weights, shape (E, H).
    rows
        Shape (m, d), d a multiple of H.
    """
    heads, width = shares.shape[1], rows.shape[1] // shares.shape[1]
    out = np.zeros((len(indptr) - 1, rows.shape[1]), rows.dtype)
    for i in range(len(indptr) - 1):
        for e in range(indptr[i], indptr[i + 1]):
            j = indices[e]
            for h in range(heads):
                share = shares[e, h]
                for c in range(h * width, (h + 1) * width):
                    out[i, c] += share * rows[j, c]
    return out


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def aggregate_gradients(
    indptr: np.ndarray, indices: np.ndarray, shares: np.ndarray, rows: np.ndarray, grad: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of :func:`aggregate` in the shares (E, H) and in the rows (m, d)."""
    heads, width = shares.shape[1], rows.shape[1] // shares.shape[1]
    of_shares = np.empty_like(shares)
    of_rows = np.zeros_like(rows)
    for i in range(len(indptr) - 1):
        for e in range(indptr[i], indptr[i + 1]):
            j = indices[e]
            for h in range(heads):
                share = shares[e, h]
                dot = rows.dtype.type(0)
                for c in range(h * width, (h + 1) * width):
                    dot += grad[i, c] * rows[j, c]
                    of_rows[j, c] += share * grad[i, c]
                of_shares[e, h] = dot
    return of_shares, of_rows


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def cosine_shares(indptr: np.ndarray, indices: np.ndarray, rows: np.ndarray, n_heads: int) -> np.ndarray:
    """Return the softmax over the neighbours of the cosine of the ends, each head over its own columns.

    Parameters
    ----------
    indptr, indices
        The graph.
    rows
        Shape (m, d), d a multiple of ``n_heads``; a row of zeros has cosine 0 with all others.
    n_heads
        H.

    Returns
    -------
    shares
        Shape (E, H).
    """
    width = rows.shape[1] // n_heads
    norms = np.empty((len(rows), n_heads), rows.dtype)
    for j in range(len(rows)):
        for h in range(n_heads):
            square = rows.dtype.type(0)
            for c in range(h * width, (h + 1) * width):
                square += rows[j, c] * rows[j, c]
            norms[j, h] = np.sqrt(square) if square > 0 else 1
    shares = np.empty((indptr[-1], n_heads), rows.dtype)
    total = np.empty(n_heads, rows.dtype)
    for i in range(len(indptr) - 1):
        total[:] = 0
        for e in range(indptr[i], indptr[i + 1]):
            j = indices[e]
            for h in range(n_heads):
                dot = rows.dtype.type(0)
                for c in range(h * width, (h + 1) * width):
                    dot += rows[i, c] * rows[j, c]
                weight = np.exp(dot / (norms[i, h] * norms[j, h]))
                shares[e, h] = weight
                total[h] += weight
        for e in range(indptr[i], indptr[i + 1]):
            for h in range(n_heads):
                shares[e, h] /= total[h]
    return shares
