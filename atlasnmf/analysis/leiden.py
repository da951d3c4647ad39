"""Leiden communities of an embedding's neighbour graph, carried over to spots outside the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlasnmf.analysis.nearest import faiss_index, need
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.seeds import seed_for

__all__ = ["Communities", "fit_communities"]

#: Cells searched of an inverted file for votes, which tell the same by fewer than the graph needs.
_CELLS_VOTE = 4
_OTHERWISE = " or use method='mixture'"
_TRIES = 14


def _edges(index: Any, rows: np.ndarray, n_neighbors: int) -> list[tuple[str, str, float]]:
    """Return the undirected edges of the neighbour graph; those found from both ends weigh double."""
    _, near = index.search(rows, n_neighbors + 1)
    source = np.repeat(np.arange(len(rows)), near.shape[1])
    target = near.ravel()
    kept = (target >= 0) & (target != source)
    low, high = np.minimum(source, target)[kept], np.maximum(source, target)[kept]
    pairs, times = np.unique(low * np.int64(len(rows)) + high, return_counts=True)
    first, second = (pairs // len(rows)).astype(str).tolist(), (pairs % len(rows)).astype(str).tolist()
    return list(zip(first, second, times.astype(float).tolist(), strict=True))


@dataclass(frozen=True)
class Communities:
    """Communities of some spots, and how to name those of others.

    Parameters
    ----------
    groups
        Community of each row the graph was made of, int32, shape (n,).
    resolution
        The resolution they were found at.
    index
        Nearest-neighbour index of those rows.
    n_neighbors
        Neighbours that vote on another row.
    """

    groups: np.ndarray
    resolution: float
    index: Any
    n_neighbors: int

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Return the commonest community among the nearest rows of the graph, int32, shape (n,)."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        options = {}
        if hasattr(self.index, "nprobe"):
            options["params"] = need("faiss", "Leiden", _OTHERWISE).SearchParametersIVF(nprobe=_CELLS_VOTE)
        _, near = self.index.search(rows, min(self.n_neighbors, len(self.groups)), **options)
        votes = np.zeros((len(rows), int(self.groups.max()) + 1), np.int32)
        place = np.repeat(np.arange(len(rows)), near.shape[1])
        found = near.ravel() >= 0
        np.add.at(votes, (place[found], self.groups[near.ravel()[found]]), 1)
        return votes.argmax(axis=1).astype(np.int32)


def fit_communities(
    rows: np.ndarray,
    n_groups: int | None = None,
    *,
    resolution: float | None = None,
    n_neighbors: int = 15,
    random_state: int = 0,
) -> Communities:
    """Find Leiden communities by modularity, at a resolution or as near as can be to a number of them.

    Parameters
    ----------
    rows
        Shape (n, p), finite.
    n_groups
        Communities wanted; the resolution is searched for. Ignored when ``resolution`` is given.
    resolution
        Resolution of the modularity; more gives more communities.
    n_neighbors
        Neighbours of each row in the graph.
    random_state
        Seed.

    Raises
    ------
    BadInput
        Fewer rows than ``n_neighbors + 1``.
    BadOption
        Neither a number nor a positive resolution is given, or a package of the extra is missing.

    Notes
    -----
    Exact neighbours up to 5,000 rows, beyond by an inverted file of about ``4 sqrt(n)`` cells of which 16 are
    searched. Traag, Waltman and van Eck, "From Louvain to Leiden", Sci. Rep. 9 (2019), as in
    graspologic-native.
    """
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if len(rows) <= n_neighbors:
        raise BadInput(f"{len(rows)} spots are too few for {n_neighbors} neighbours each; ask for fewer")
    leiden = need("graspologic_native", "Leiden", _OTHERWISE).leiden
    index = faiss_index(rows, "Leiden", _OTHERWISE)
    edges = _edges(index, rows, n_neighbors)

    def at(value: float) -> np.ndarray:
        _, found = leiden(edges, resolution=value, seed=seed_for(random_state, "leiden") % 2**32)
        names = np.array([found[str(row)] for row in range(len(rows))])
        return np.unique(names, return_inverse=True)[1].astype(np.int32)

    if resolution is not None:
        if resolution <= 0:
            raise BadOption(f"the resolution must be positive, got {resolution}")
        return Communities(at(resolution), resolution, index, n_neighbors)
    if n_groups is None or n_groups < 1:
        raise BadOption("Leiden needs a number of domains or a resolution")
    groups, resolution = _search(at, n_groups)
    return Communities(groups, resolution, index, n_neighbors)


def _search(at: Callable[[float], np.ndarray], n_groups: int) -> tuple[np.ndarray, float]:
    """Halve the interval of resolutions, on a log scale, until the number of communities is right."""
    low, high = 0.01, 16.0
    best: tuple[int, np.ndarray, float] | None = None
    value = 1.0
    for _ in range(_TRIES):
        groups = at(value)
        n_found = int(groups.max()) + 1
        if best is None or abs(n_found - n_groups) < best[0]:
            best = abs(n_found - n_groups), groups, value
        if n_found == n_groups:
            break
        low, high = (value, high) if n_found < n_groups else (low, value)
        value = float(np.sqrt(low * high))
    assert best is not None  # at least one try was made
    return best[1], best[2]
