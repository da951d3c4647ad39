"""Spots that are alike though far apart: mutual nearest neighbours in the embedding, beyond the graph."""

from __future__ import annotations

import numpy as np
import scipy.sparse

__all__ = ["far_neighbours"]


def far_neighbours(
    rows: np.ndarray, indptr: np.ndarray, indices: np.ndarray, n_neighbors: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return, of every spot, the spots that are each other's nearest by cosine outside the neighbourhood.

    Parameters
    ----------
    rows
        Embedding, float32, shape (n, d).
    indptr, indices
        Spatial neighbours, which are left out.
    n_neighbors
        Nearest spots looked at from each side.

    Returns
    -------
    indptr, indices
        int64; a spot may have none.

    Notes
    -----
    Inner products of unit rows by faiss: exact, O(n^2 d) in blocks, below 20 000 spots, by inverted lists
    above.
    """
    import faiss

    n_spots = len(rows)
    unit = np.ascontiguousarray(
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32
    )
    index: faiss.Index = faiss.IndexFlatIP(unit.shape[1])
    if n_spots > _EXACT:
        n_lists = int(np.sqrt(n_spots))
        index = faiss.IndexIVFFlat(index, unit.shape[1], n_lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = 1
        index.train(unit)
        index.nprobe = 16
    index.add(unit)
    degree = int(np.diff(indptr).max(initial=0))
    wanted = min(n_neighbors + degree, n_spots)
    _, found = index.search(unit, wanted)
    spots = np.repeat(np.arange(n_spots), wanted)
    known = found.ravel() >= 0
    shape = (n_spots, n_spots)
    order = np.tile(np.arange(1, wanted + 1), n_spots)
    near = scipy.sparse.csr_matrix((np.ones(len(indices), np.int32), indices, indptr), shape)
    ranked = scipy.sparse.csr_matrix((order[known], (spots[known], found.ravel()[known])), shape)
    outside = (ranked - ranked.multiply(near)).tocsr()
    outside.setdiag(0)
    outside.eliminate_zeros()
    outside = _closest(outside, n_neighbors)
    mutual = outside.multiply(outside.T).tocsr()
    mutual.sort_indices()
    return mutual.indptr.astype(np.int64), mutual.indices.astype(np.int64)


#: Spots up to which all pairs are compared.
_EXACT = 20_000


def _closest(rows: scipy.sparse.csr_matrix, n_neighbors: int) -> scipy.sparse.csr_matrix:
    """Keep the entries of smallest rank of every row."""
    lengths = np.diff(rows.indptr)
    row = np.repeat(np.arange(rows.shape[0]), lengths)
    order = np.lexsort((rows.data, row))
    place = np.arange(len(order)) - np.repeat(rows.indptr[:-1], lengths)
    kept = order[place < n_neighbors]
    ones = np.ones(len(kept), np.int32)
    return scipy.sparse.csr_matrix((ones, (row[kept], rows.indices[kept])), rows.shape)
