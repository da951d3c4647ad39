"""Kernels on sparse rows: what each costs a tile of spots with 250 genes each."""

from __future__ import annotations

import numpy as np

from atlasnmf.kernels.cpu import lognorm, moments, poisson, products, rows
from atlasnmf.seeds import rng_for

N_GENES, NNZ_PER_ROW = 2000, 250


def random_rows(n_rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return CSR parts as the working copy holds them: uint16 columns and counts."""
    rng = rng_for(0, "benchmark", "rows", n_rows)
    stride = N_GENES // NNZ_PER_ROW  # one column in every stride: ascending, no scratch of spots x genes
    steps = rng.integers(0, stride, (n_rows, NNZ_PER_ROW), dtype=np.uint16)
    indices = (steps + np.arange(0, N_GENES, stride, dtype=np.uint16)).ravel()
    data = (1 + rng.poisson(1.0, len(indices))).astype(np.uint16)
    return np.arange(n_rows + 1, dtype=np.int64) * NNZ_PER_ROW, indices, data


class _Tile:
    """One tile; ``setup`` runs the kernel once, so that compiling is not measured."""

    params = (1024, 8192)
    param_names = ("n_spots",)

    def setup(self, n_spots: int) -> None:
        self.indptr, self.indices, self.data = random_rows(n_spots)
        self.run()

    def run(self) -> object:
        raise NotImplementedError

    def time_tile(self, n_spots: int) -> None:
        self.run()

    def peakmem_tile(self, n_spots: int) -> None:
        self.run()


class RowSums(_Tile):
    def run(self) -> object:
        return rows.row_sums(self.indptr, self.data)


class SelectColumns(_Tile):
    """Keep every other gene."""

    lut = np.where(np.arange(N_GENES) % 2 == 0, np.arange(N_GENES) // 2, -1).astype(np.int32)

    def run(self) -> object:
        return rows.select_columns(self.indptr, self.indices, self.data, self.lut)


class TakeRows(_Tile):
    """Gather all rows in random order."""

    def setup(self, n_spots: int) -> None:
        self.order = rng_for(0, "benchmark", "order").permutation(n_spots)
        super().setup(n_spots)

    def run(self) -> object:
        return rows.take_rows(self.indptr, self.indices, self.data, self.order)


class GeneMoments(_Tile):
    def run(self) -> object:
        return moments.gene_moments(self.indptr, self.indices, self.data, N_GENES)


class LogNormalise(_Tile):
    def setup(self, n_spots: int) -> None:
        self.totals = np.full(n_spots, 500.0)
        super().setup(n_spots)

    def run(self) -> object:
        return lognorm.log_normalise(self.indptr, self.data, self.totals, 1e4)


class _Products(_Tile):
    """Products with 64 columns, in float32 as training takes them."""

    def setup(self, n_spots: int) -> None:
        self.values = np.ones(n_spots * NNZ_PER_ROW, np.float32)
        rng = rng_for(0, "benchmark", "dense")
        self.genes = rng.random((N_GENES, 64), dtype=np.float32)
        self.spots = rng.random((n_spots, 64), dtype=np.float32)
        super().setup(n_spots)


class RowsTimesDense(_Products):
    def run(self) -> object:
        return products.csr_dot(self.indptr, self.indices, self.values, self.genes)


class RowsTransposedTimesDense(_Products):
    def run(self) -> object:
        return products.csr_t_dot(self.indptr, self.indices, self.values, self.spots, N_GENES)


class PoissonLogLikelihood(_Products):
    """Value and both gradients at the non-zero counts, 64 factors."""

    def run(self) -> object:
        return poisson.log_likelihood(self.indptr, self.indices, self.values, self.spots, self.genes, 1e-6)
