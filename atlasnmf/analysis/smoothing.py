"""Domains smoothed in space: a spot takes the commonest domain around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlasnmf.graph.build import slice_graph, slice_index
from atlasnmf.store.runs import RUN_SPOTS

if TYPE_CHECKING:
    from atlasnmf.analysis.spots import StoredRows

__all__ = ["majority", "smoothed_domains"]


def majority(codes: np.ndarray, positions: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Give each spot of a slice the commonest code among itself and its nearest others.

    Parameters
    ----------
    codes
        int32, shape (n,); spots at -1 have no vote and stay so.
    positions
        Shape (n, 2 or 3).
    n_neighbors
        Nearest others that vote. Of equally common codes a spot keeps its own.

    Returns
    -------
    numpy.ndarray
        int32, shape (n,).

    Examples
    --------
    >>> majority(np.array([0, 0, 1, 0, 0], np.int32), np.arange(5.0)[:, None] * [1, 0], 2).tolist()
    [0, 0, 0, 0, 0]
    """
    out = codes.copy()
    n_codes = int(codes.max(initial=-1)) + 1
    if len(codes) < 2 or n_codes == 0:
        return out
    index = slice_index(positions, n_neighbors=n_neighbors)
    for start in range(0, len(codes), RUN_SPOTS):
        stop = min(start + RUN_SPOTS, len(codes))
        graph = slice_graph(positions, n_neighbors=n_neighbors, start=start, stop=stop, index=index)
        owner = np.repeat(np.arange(stop - start), np.diff(graph.indptr))
        voted = codes[graph.indices]
        known = voted >= 0
        votes = np.bincount(owner[known] * n_codes + voted[known], minlength=(stop - start) * n_codes)
        votes = votes.reshape(-1, n_codes).astype(np.float64)
        own = np.flatnonzero(codes[start:stop] >= 0)
        votes[own, codes[start:stop][own]] += 0.5
        out[start:stop][own] = votes[own].argmax(axis=1)
    return out


def smoothed_domains(rows: StoredRows, codes: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Smooth domains slice by slice; see :func:`majority`.

    Parameters
    ----------
    rows
        The spots the codes are of.
    codes
        int32, shape (n,).
    n_neighbors
        Nearest others that vote.
    """
    out, first = codes.copy(), 0
    for table in rows.tables:
        here = slice(first, first + table.n_spots)
        first += table.n_spots
        slices, positions = rows.slice_codes[here], rows.atlas.coordinates_of(table)
        for code in np.unique(slices):
            own = np.flatnonzero(slices == code)
            out[here][own] = majority(codes[here][own], positions[own], n_neighbors)
    return out
