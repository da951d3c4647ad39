"""A small source whose rows can be told apart, in memory or behind a store that counts its reads."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import scipy.sparse

from atlasnmf.batches.sources import HeldCsr, HeldDense, SpotSource
from atlasnmf.schema import Csr
from atlasnmf.tiles.plan import Tile


def tiles_of(offsets, n_rows):
    tiles = []
    for s, (start, stop) in enumerate(pairwise(offsets)):
        for at in range(start, stop, n_rows):
            tiles.append(Tile(len(tiles), s, at, min(at + n_rows, stop)))
    return tiles


class CountingCsr:
    """Rows that are only lent, as from a disk; remembers what was read."""

    def __init__(self, rows: Csr) -> None:
        self._rows, self.n_rows, self.n_cols, self.nnz = rows, rows.n_rows, rows.n_cols, rows.nnz
        self.dtype = rows.data.dtype
        self.reads = []

    def read(self, start, stop):
        self.reads.append(np.arange(start, stop))
        rows = self._rows.rows(start, stop)
        return Csr(rows.indptr, rows.indices.copy(), rows.data.copy(), rows.n_cols)

    def read_rows(self, rows):
        self.reads.append(np.asarray(rows))
        return HeldCsr(self._rows).read_rows(rows)


class LentDense:
    def __init__(self, rows):
        self._rows, self.n_rows, self.row_shape, self.dtype = rows, len(rows), rows.shape[1:], rows.dtype

    def read(self, start, stop):
        return self._rows[start:stop].copy()

    def read_rows(self, rows):
        return self._rows[rows]


def random_csr(n_rows, n_cols, rng, dtype, density=0.3):
    matrix = scipy.sparse.random(n_rows, n_cols, density, "csr", rng=rng)
    matrix.data = (rng.integers(1, 60000, matrix.nnz)).astype(dtype)
    rows = Csr.from_scipy(matrix)
    return Csr(rows.indptr, rows.indices.astype(np.uint16), rows.data, n_cols)


def graph_of(offsets, rng, n_dims=2, radius=0.12):
    """Return a radius graph within each slice, itself included, and its degrees."""
    blocks = []
    for start, stop in pairwise(offsets):
        xy = rng.random((stop - start, n_dims))
        near = ((xy[:, None] - xy[None]) ** 2).sum(-1) < radius**2
        blocks.append(scipy.sparse.csr_matrix(near.astype(np.uint8)))
    matrix = scipy.sparse.block_diag(blocks, "csr")
    graph = Csr.from_scipy(matrix)
    return graph, np.diff(graph.indptr)


def small_source(sizes=(37, 9, 64), n_genes=30, *, lent=False, full=True, seed=0) -> SpotSource:
    rng = np.random.default_rng(seed)
    offsets = np.r_[0, np.cumsum(sizes)].astype(np.int64)
    n = int(offsets[-1])
    counts = random_csr(n, n_genes, rng, np.uint16)
    smoothed = tuple(random_csr(n, n_genes, rng, np.float32, 0.6) for _ in range(2))
    scores = rng.normal(size=(n, 3, 4)).astype(np.float32)
    graph, degrees = graph_of(offsets, rng, radius=0.25)
    totals = rng.random(n).astype(np.float32)
    sparse, dense = (CountingCsr, LentDense) if lent else (HeldCsr, HeldDense)
    if not full:
        return SpotSource(offsets, sparse(counts), totals)
    return SpotSource(
        offsets, sparse(counts), totals, dense(scores), tuple(map(sparse, smoothed)), sparse(graph), degrees
    )


def assert_same_csr(left, right):
    assert left.n_cols == right.n_cols
    for name in ("indptr", "indices", "data"):
        a, b = getattr(left, name), getattr(right, name)
        assert a.dtype == b.dtype, name
        assert np.array_equal(a, b), name


def assert_same_batch(left, right):
    assert (left.slice_index, left.rings) == (right.slice_index, right.rings)
    assert np.array_equal(left.rows, right.rows)
    assert_same_csr(left.counts, right.counts)
    assert left.totals.dtype == right.totals.dtype
    assert np.array_equal(left.totals, right.totals)
    assert (left.scores is None) == (right.scores is None)
    if left.scores is not None:
        assert left.scores.dtype == right.scores.dtype
        assert np.array_equal(left.scores, right.scores)
    assert len(left.smoothed) == len(right.smoothed)
    for a, b in zip(left.smoothed, right.smoothed, strict=True):
        assert_same_csr(a, b)
    assert (left.graph is None) == (right.graph is None)
    if left.graph is not None:
        assert_same_csr(left.graph, right.graph)


def assert_same_units(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same_batch(x, y)
