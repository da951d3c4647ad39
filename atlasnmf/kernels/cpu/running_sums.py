"""Running sums over ranked genes: where the genes of a set lie in a ranking."""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["draw_positions", "equal_running_sums", "running_sums"]


@numba.njit(nogil=True, cache=True)
def _extreme(weights, positions):  # type: ignore[no-untyped-def]
    n_genes, n_hits = len(weights), len(positions)
    total = 0.0
    for p in positions:
        total += weights[p]
    up = 1.0 / total if total > 0 else 0.0
    flat = 1.0 / n_hits
    down = 1.0 / (n_genes - n_hits) if n_genes > n_hits else 0.0
    risen, highest, lowest = 0.0, 0.0, 0.0
    for i in range(n_hits):
        fallen = (positions[i] - i) * down
        if risen - fallen < lowest:
            lowest = risen - fallen
        risen += weights[positions[i]] * up if total > 0 else flat
        if risen - fallen > highest:
            highest = risen - fallen
    return highest if highest >= -lowest else lowest


@numba.njit(nogil=True, cache=True)
def _running_sums(weights, positions, starts, out):  # type: ignore[no-untyped-def]
    for s in range(len(starts) - 1):
        out[s] = _extreme(weights, positions[starts[s] : starts[s + 1]])


def running_sums(weights: np.ndarray, positions: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the enrichment score of sets of genes in one ranking.

    Parameters
    ----------
    weights
        Weight of the gene at each place, the first place first, non-negative, float64, shape (G,).
    positions
        Places of the genes of all sets, ascending within a set, shape (total,).
    starts
        Where each set starts, shape (n_sets + 1,); no set is empty.

    Returns
    -------
    numpy.ndarray
        float64, shape (n_sets,), in [-1, 1]: the largest departure from zero of the sum that rises at genes
        of the set by their share of its weights and falls elsewhere by equal steps.

    Notes
    -----
    O(total). Subramanian et al., PNAS 102 (2005).
    """
    out = np.empty(len(starts) - 1)
    _running_sums(np.asarray(weights, np.float64), positions, starts, out)
    return out


# maxima need no order of NaN, of which there are none: so the loops over rankings run in lanes
@numba.njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})
def _equal_running_sums(weights, positions, out):  # type: ignore[no-untyped-def]
    n_genes, n_rankings = weights.shape
    n_sets, n_hits = positions.shape
    down = 1.0 / (n_genes - n_hits) if n_genes > n_hits else 0.0
    up, rise = np.empty(n_rankings), np.empty(n_rankings)
    highest, lowest = np.empty(n_rankings), np.empty(n_rankings)
    for n in range(n_sets):
        up[:] = 0.0
        for i in range(n_hits):
            row = weights[positions[n, i]]
            for k in range(n_rankings):
                up[k] += row[k]
        for k in range(n_rankings):
            up[k] = 1.0 / up[k] if up[k] > 0.0 else 0.0
        rise[:], highest[:], lowest[:] = 0.0, 0.0, 0.0
        for i in range(n_hits):
            row = weights[positions[n, i]]
            fallen = (positions[n, i] - i) * down
            for k in range(n_rankings):
                lowest[k] = min(lowest[k], rise[k] - fallen)
                rise[k] += row[k] * up[k]
                highest[k] = max(highest[k], rise[k] - fallen)
        for k in range(n_rankings):
            out[k, n] = highest[k] if highest[k] >= -lowest[k] else lowest[k]


def equal_running_sums(weights: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return the enrichment scores of sets of one size in several rankings.

    Parameters
    ----------
    weights
        As in :func:`running_sums`, one column a ranking, shape (G, K).
    positions
        Places of the genes of each set, ascending, the same in every ranking, shape (n_sets, m).

    Returns
    -------
    numpy.ndarray
        float64, shape (K, n_sets).
    """
    out = np.empty((weights.shape[1], len(positions)))
    _equal_running_sums(np.ascontiguousarray(weights, np.float64), positions, out)
    return out


@numba.njit(nogil=True, cache=True)
def _draw(uniform, n_genes, out):  # type: ignore[no-untyped-def]
    deck = np.arange(n_genes).astype(np.int32)
    for row in range(len(uniform)):
        # swapped back afterwards, so that a draw costs its own size, not the number of genes
        swapped = np.empty(uniform.shape[1], np.int32)
        for i in range(uniform.shape[1]):
            j = i + np.int32(uniform[row, i] * (n_genes - i))
            swapped[i] = j
            deck[i], deck[j] = deck[j], deck[i]
            out[row, i] = deck[i]
        for i in range(uniform.shape[1] - 1, -1, -1):
            deck[i], deck[swapped[i]] = deck[swapped[i]], deck[i]


def draw_positions(uniform: np.ndarray, n_genes: int) -> np.ndarray:
    """Turn uniform numbers into random sets of places.

    Parameters
    ----------
    uniform
        In [0, 1), one row per set, shape (n_sets, m), m at most ``n_genes``.
    n_genes
        Places.

    Returns
    -------
    numpy.ndarray
        Distinct places, ascending, int32, shape (n_sets, m).
    """
    out = np.empty(uniform.shape, np.int32)
    _draw(uniform, n_genes, out)
    out.sort(axis=1)
    return out
