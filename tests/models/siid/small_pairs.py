"""A small pair in memory: counts of a known model, its facts, and passes over it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from atlasnmf.batches.passes import Pass
from atlasnmf.batches.sources import HeldCsr, SpotSource
from atlasnmf.models.siid.method import build
from atlasnmf.models.siid.params import Params
from atlasnmf.schema import AtlasFacts, Csr
from atlasnmf.tiles.plan import plan_tiles


@dataclass(frozen=True)
class SmallPair:
    fine: np.ndarray
    coarse: np.ndarray
    spots: np.ndarray
    weights: np.ndarray
    n_panel: int
    types: np.ndarray
    proportions: np.ndarray
    profiles: np.ndarray
    depths: np.ndarray

    @property
    def n_fine(self):
        return len(self.fine)

    def facts(self):
        mask = np.ones((2, self.coarse.shape[1]), bool)
        mask[0, self.n_panel :] = False
        return AtlasFacts(
            slices=("fine", "coarse"),
            n_spots=np.array([len(self.fine), len(self.coarse)]),
            genes=tuple(f"g{i}" for i in range(self.coarse.shape[1])),
            gene_mask=mask,
            gene_sums=np.stack([self.fine.sum(0), self.coarse.sum(0)]).astype(float),
            nnz_per_spot=float((self.fine > 0).sum(1).mean()),
            links=(self.spots, self.weights),
        )

    def source(self):
        counts = np.concatenate([self.fine, self.coarse]).astype(np.uint16)
        offsets = np.array([0, len(self.fine), len(counts)])
        return SpotSource(
            offsets, HeldCsr(Csr.from_scipy(sp.csr_matrix(counts))), np.zeros(len(counts), np.float32)
        )

    def unit(self, *, tile_spots=64, n_workers=1, client=None):
        source = self.source()
        tiles = plan_tiles(source.offsets, tile_spots)
        return Pass(source, tiles, n_workers=n_workers, client=client)

    def sample(self):
        source = self.source()
        rows = [np.arange(self.n_fine), self.n_fine + np.arange(len(self.coarse))]
        return [source.batch(s, source.read_rows(chosen)) for s, chosen in enumerate(rows)]

    def fit(self, *, seed=0, n_workers=1, client=None, **params):
        model = build(Params(**params), self.facts(), "cpu", seed)
        state, losses = model.method.init(self.sample()), []
        unit = self.unit(n_workers=n_workers, client=client)
        while not model.method.done(state):
            state, figures = model.method.step(state, unit)
            losses.append(figures["loss"])
        return model, state, np.array(losses)


def small_pair(seed=0, *, n_links=1, n_fine=300, n_coarse=14, n_genes=30, n_panel=20, n_types=3, depth=60.0):
    rng = np.random.default_rng(seed)
    profiles = rng.dirichlet(np.full(n_genes, 0.3), n_types)
    types = rng.integers(0, n_types, n_fine)
    spots = np.full((n_fine, n_links), -1, np.int32)
    weights = np.zeros((n_fine, n_links), np.float32)
    liking = rng.dirichlet(np.full(n_types, 0.4), n_coarse - 1) + 0.01  # spots hold their own mix of types
    liking /= liking.sum(0)
    for i in range(n_fine - 6):  # the last cells have no spot, and the last spot no cells
        spots[i] = rng.choice(n_coarse - 1, n_links, replace=False, p=liking[:, types[i]])
        weights[i] = 1 / n_links
    depths = rng.gamma(4.0, depth / 4.0, n_fine)
    fine = rng.poisson(depths[:, None] * profiles[types])
    fine[:, n_panel:] = 0
    mixtures = np.zeros((n_coarse, n_types))
    for i in range(n_fine):
        for v, w in zip(spots[i], weights[i], strict=True):
            if v >= 0:
                mixtures[v, types[i]] += w * depths[i]
    scaling = np.where(np.arange(n_genes) < n_panel, rng.lognormal(0, 0.4, n_genes), 1.0)
    coarse = rng.poisson((mixtures @ profiles) * scaling)
    coarse[-1] = rng.poisson(5.0, n_genes)
    with np.errstate(invalid="ignore"):
        proportions = mixtures / mixtures.sum(axis=1, keepdims=True)
    return SmallPair(fine, coarse, spots, weights, n_panel, types, proportions, profiles, depths)
