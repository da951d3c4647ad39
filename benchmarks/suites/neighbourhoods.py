"""Spatial kernels: neighbours and averages over them, on a jittered grid with about 12 neighbours a spot."""

from __future__ import annotations

import numpy as np

from atlasnmf.kernels.cpu import neighbours, smooth
from atlasnmf.seeds import rng_for

RADIUS = 2.05


def jittered_grid(n_spots: int) -> np.ndarray:
    """Return positions one unit apart, moved a little, shape (n_spots, 2)."""
    side = int(np.ceil(np.sqrt(n_spots)))
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2)
    return grid[:n_spots] + rng_for(0, "benchmark", "grid").normal(0, 0.02, (n_spots, 2))


class _Slice:
    params = (10_000, 100_000)
    param_names = ("n_spots",)

    def setup(self, n_spots: int) -> None:
        self.coordinates = jittered_grid(n_spots)
        self.run()

    def run(self) -> object:
        raise NotImplementedError

    def time_slice(self, n_spots: int) -> None:
        self.run()

    def peakmem_slice(self, n_spots: int) -> None:
        self.run()


class RadiusNeighbours(_Slice):
    def run(self) -> object:
        return neighbours.radius_neighbours(self.coordinates, RADIUS)


class KnnNeighbours(_Slice):
    def run(self) -> object:
        return neighbours.knn_neighbours(self.coordinates, 6)


class SmoothDense(_Slice):
    """One round of averaging of 32 components."""

    def setup(self, n_spots: int) -> None:
        positions = jittered_grid(n_spots)
        self.indptr, self.indices = neighbours.radius_neighbours(positions, RADIUS)
        self.weights = np.full(len(self.indices), 1 / 13, np.float32)
        self.dense = rng_for(0, "benchmark", "components").random((n_spots, 32), dtype=np.float32)
        super().setup(n_spots)

    def run(self) -> object:
        return smooth.smooth_dense(self.indptr, self.indices, self.weights, self.dense)
