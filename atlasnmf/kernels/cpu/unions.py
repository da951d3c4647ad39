"""Listing connected unions of regions: all triples of a graph of regions, each once."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["connected_triples"]


def connected_triples(adjacent: np.ndarray, disjoint: np.ndarray, first: int) -> np.ndarray:
    """List the triples a < b < c of pairwise disjoint regions that hang together, with a given a.

    Parameters
    ----------
    adjacent
        Which regions touch, bool, symmetric, shape (R, R).
    disjoint
        Which have no spot in common, bool, symmetric, shape (R, R).
    first
        The smallest region, a.

    Returns
    -------
    numpy.ndarray
        int32, shape (m, 3), ascending. Two of the three sides touch at least.

    Notes
    -----
    O(R^2) for one a.

    Examples
    --------
    >>> chain = np.array([[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]], bool)
    >>> connected_triples(chain, ~np.eye(4, dtype=bool), 0).tolist()
    [[0, 1, 2]]
    """
    touching = np.ascontiguousarray(adjacent, dtype=np.bool_)
    apart = np.ascontiguousarray(disjoint, dtype=np.bool_)
    found = np.empty((_triples(touching, apart, first, np.empty((0, 3), np.int32)), 3), dtype=np.int32)
    _triples(touching, apart, first, found)
    return found


@njit(nogil=True, cache=True)
def _triples(adjacent, disjoint, a, found):  # type: ignore[no-untyped-def]
    """Count the triples when there is no room for them, else write them."""
    n = len(adjacent)
    count = 0
    for b in range(a + 1, n):
        if not disjoint[a, b]:
            continue
        linked = adjacent[a, b]
        for c in range(b + 1, n):
            sides = np.int64(linked) + np.int64(adjacent[a, c]) + np.int64(adjacent[b, c])
            if sides < 2 or not disjoint[a, c] or not disjoint[b, c]:
                continue
            if len(found):
                found[count, 0], found[count, 1], found[count, 2] = a, b, c
            count += 1
    return count
