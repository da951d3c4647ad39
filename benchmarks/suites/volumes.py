"""Kernels of voxel volumes: filling missing values, listing unions of regions."""

from __future__ import annotations

import numpy as np

from atlasnmf.kernels.cpu import fill, unions


class Fill:
    """A gene of a 40^3 grid, a tenth missing, from six neighbours."""

    def setup(self):
        rng = np.random.default_rng(0)
        voxels = np.argwhere(np.ones((40, 40, 40), bool)).astype(float)
        missing = rng.uniform(size=len(voxels)) < 0.1
        self.known, self.asked = voxels[~missing], voxels[missing]
        self.values = rng.gamma(1.0, size=len(self.known))
        fill.inverse_distance_mean(self.known[:50], self.values[:50], self.asked[:5], 6)

    def time_fill(self):
        fill.inverse_distance_mean(self.known, self.values, self.asked, 6)

    def peakmem_fill(self):
        fill.inverse_distance_mean(self.known, self.values, self.asked, 6)


class Unions:
    """All connected triples of 800 regions that touch 30 others each."""

    def setup(self):
        rng = np.random.default_rng(0)
        adjacent = rng.uniform(size=(800, 800)) < 15 / 800
        self.adjacent = (adjacent | adjacent.T) & ~np.eye(800, dtype=bool)
        self.disjoint = ~np.eye(800, dtype=bool)
        unions.connected_triples(self.adjacent, self.disjoint, 799)

    def time_triples(self):
        for first in range(800):
            unions.connected_triples(self.adjacent, self.disjoint, first)
