"""Kernels of the paired factorisation: what each costs a tile of cells, 64 genes each of a panel of 512."""

from __future__ import annotations

import numpy as np

from atlasnmf.kernels.cpu import em
from atlasnmf.seeds import rng_for

N_PANEL, NNZ_PER_CELL, N_FACTORS, CELLS_PER_SPOT = 512, 64, 24, 24


class _Pair:
    """One tile of cells and the spots they lie in; ``setup`` compiles."""

    params = (1024, 8192)
    param_names = ("n_cells",)

    def setup(self, n_cells: int) -> None:
        rng = rng_for(0, "benchmark", "pair", n_cells)
        stride = N_PANEL // NNZ_PER_CELL
        steps = rng.integers(0, stride, (n_cells, NNZ_PER_CELL), dtype=np.uint16)
        self.indices = (steps + np.arange(0, N_PANEL, stride, dtype=np.uint16)).ravel()
        self.data = (1 + rng.poisson(0.5, len(self.indices))).astype(np.uint16)
        self.indptr = np.arange(n_cells + 1, dtype=np.int64) * NNZ_PER_CELL
        self.loadings = rng.dirichlet(np.ones(N_PANEL), (1, N_FACTORS)).transpose(0, 2, 1).astype(np.float32)
        self.loadings = np.ascontiguousarray(self.loadings)
        self.factors = rng.dirichlet(np.ones(N_FACTORS), (n_cells, 1)).astype(np.float32)
        self.depths = np.full((n_cells, 1), 100.0, np.float32)
        self.n_spots = -(-n_cells // CELLS_PER_SPOT)
        self.spots = (np.arange(n_cells) // CELLS_PER_SPOT).astype(np.int32)
        self.run()

    def run(self) -> object:
        raise NotImplementedError

    def time_tile(self, n_cells: int) -> None:
        self.run()

    def peakmem_tile(self, n_cells: int) -> None:
        self.run()


class FineSweeps(_Pair):
    entropy = 0.0

    def run(self) -> object:
        n_cells = len(self.spots)
        one = np.ones((1, N_FACTORS), np.float32)
        return em.fine_sweeps(
            self.indptr,
            self.indices,
            self.data,
            np.ones((1, N_PANEL), bool),
            self.loadings,
            self.factors,
            self.depths,
            self.depths,
            one.astype(np.float64),
            np.arange(n_cells + 1, dtype=np.int64),
            self.spots,
            np.ones(n_cells, np.float32),
            np.ones((self.n_spots, 1, N_FACTORS), np.float32),
            one[None],
            one,
            n_sweeps=1,
            entropy=self.entropy,
        )


class EntropicSweeps(FineSweeps):
    entropy = 10.0


class CoarseSums(_Pair):
    def run(self) -> object:
        mixtures = self.factors * self.depths[:, :, None]
        return em.coarse_sums(self.indptr, self.indices, self.data, mixtures, self.loadings)


class SpotMixtures(_Pair):
    def run(self) -> object:
        starts = np.minimum(np.arange(self.n_spots + 1) * CELLS_PER_SPOT, len(self.spots)).astype(np.int64)
        rows, weights = np.arange(len(self.spots)), np.ones(len(self.spots), np.float32)
        return em.spot_mixtures(starts, rows, weights, self.depths, self.factors)
