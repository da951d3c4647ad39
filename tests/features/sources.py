"""Small atlases in memory for the tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from atlasnmf.schema import Csr


@dataclass
class InMemory:
    """A row source; counts how often rows are read."""

    rows: Csr
    n_read: int = 0

    def read(self, start: int, stop: int) -> Csr:
        self.n_read += stop - start
        return self.rows.rows(start, stop)


def source_of(matrix: np.ndarray | sp.csr_matrix) -> InMemory:
    return InMemory(Csr.from_scipy(sp.csr_matrix(matrix)))


def random_counts(n_spots: int, n_genes: int, seed: int = 0, depth: float = 1.0) -> np.ndarray:
    """Gamma-Poisson counts of genes of very different means, some with no count at all."""
    rng = np.random.default_rng(seed)
    means = depth * rng.lognormal(-1.0, 1.5, n_genes)
    means[rng.random(n_genes) < 0.05] = 0.0
    shape = rng.uniform(0.3, 3.0, n_genes)
    return rng.poisson(means * rng.gamma(shape, 1 / shape, (n_spots, n_genes))).astype(np.float32)


@dataclass
class AnyRows(InMemory):
    """A row source that also reads rows in any order."""

    def read_rows(self, rows: np.ndarray) -> Csr:
        self.n_read += len(rows)
        return Csr.from_scipy(self.rows.to_scipy()[rows])


def any_rows(matrix: np.ndarray | sp.csr_matrix) -> AnyRows:
    return AnyRows(Csr.from_scipy(sp.csr_matrix(matrix)))


def neighbour_graph(sizes: tuple[int, ...], n_neighbours: int = 6, seed: int = 0) -> sp.csr_matrix:
    """Self and nearest neighbours within each slice, directed, ones; spots along a curve."""
    from scipy.spatial import cKDTree

    blocks = []
    for index, size in enumerate(sizes):
        points = np.random.default_rng((seed, index)).random((size, 2))
        points = points[np.lexsort((points[:, 1], np.floor(points[:, 0] * 5)))]
        k = min(n_neighbours + 1, size)
        _, found = cKDTree(points).query(points, k)
        rows = np.repeat(np.arange(size), k)
        blocks.append(sp.csr_matrix((np.ones(size * k), (rows, found.ravel())), shape=(size, size)))
    return sp.csr_matrix(sp.block_diag(blocks))


def mean_matrix(graph: sp.csr_matrix) -> np.ndarray:
    """M = D^-1 A, dense."""
    dense = graph.toarray()
    return dense / dense.sum(axis=1, keepdims=True)
