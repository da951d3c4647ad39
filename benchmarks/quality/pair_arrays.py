"""A fine and a coarse slice as arrays, and a fit of SIID to them without a store."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from atlasnmf.batches.passes import Pass
from atlasnmf.batches.sources import HeldCsr, SpotSource
from atlasnmf.features.pairing import link_spots
from atlasnmf.models.siid.method import Model, build
from atlasnmf.models.siid.params import Params
from atlasnmf.schema import AtlasFacts, Csr
from atlasnmf.tiles.plan import plan_tiles

TILE_SPOTS = 4096


@dataclass(frozen=True)
class PairArrays:
    """Counts over the genes of both slices, those that both have first."""

    fine: sp.csr_matrix
    coarse: sp.csr_matrix
    genes: tuple[str, ...]
    n_panel: int
    fine_positions: np.ndarray
    coarse_positions: np.ndarray
    max_distance: float

    def facts(self, n_links: int = 1) -> AtlasFacts:
        links = link_spots(self.fine_positions, self.coarse_positions, self.max_distance, n_spots=n_links)
        mask = np.ones((2, len(self.genes)), dtype=bool)
        mask[0, self.n_panel :] = False
        sums = [np.asarray(counts.sum(axis=0)).ravel() for counts in (self.fine, self.coarse)]
        return AtlasFacts(
            slices=("fine", "coarse"),
            n_spots=np.array([self.fine.shape[0], self.coarse.shape[0]]),
            genes=self.genes,
            gene_mask=mask,
            gene_sums=np.stack(sums).astype(np.float64),
            nnz_per_spot=self.fine.nnz / self.fine.shape[0],
            links=(links.spots, links.weights),
        )

    def source(self) -> SpotSource:
        rows = Csr.from_scipy(sp.vstack([self.fine, self.coarse]).tocsr())
        offsets = np.array([0, self.fine.shape[0], self.fine.shape[0] + self.coarse.shape[0]])
        return SpotSource(offsets, HeldCsr(rows), np.zeros(offsets[-1], np.float32))


def breast(*, coarse_only: bool = False, max_distance: float = 17.0) -> PairArrays:
    """Read the breast cancer pair."""
    import anndata

    folder = Path(os.environ.get("ATLASNMF_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    fine = anndata.read_h5ad(folder / "pair_breast_xenium.h5ad")
    coarse = anndata.read_h5ad(folder / "pair_breast_visium.h5ad")
    return pair_of(fine, coarse, coarse_only=coarse_only, max_distance=max_distance)


def pair_of(fine: Any, coarse: Any, *, coarse_only: bool, max_distance: float) -> PairArrays:
    """Bring two tables to one gene axis."""
    known = set(coarse.var_names)
    panel = [gene for gene in fine.var_names if gene in known]
    others = [gene for gene in coarse.var_names if gene not in set(panel)] if coarse_only else []
    of_panel = sp.csr_matrix(fine[:, panel].X)
    wide = sp.csr_matrix(
        (of_panel.data, of_panel.indices, of_panel.indptr), shape=(fine.n_obs, len(panel) + len(others))
    )
    return PairArrays(
        wide,
        sp.csr_matrix(coarse[:, panel + others].X),
        tuple(panel + others),
        len(panel),
        np.asarray(fine.obsm["spatial"], dtype=float),
        np.asarray(coarse.obsm["spatial"], dtype=float),
        max_distance,
    )


@dataclass
class ArrayFit:
    """A model fitted to arrays."""

    model: Model
    state: Any
    losses: np.ndarray
    seconds: np.ndarray

    def impute(self, genes: np.ndarray, lane: int = 0) -> np.ndarray:
        return self.model.impute(self.state, np.arange(self.model.method.n_fine), genes, lane)

    def proportions(self) -> np.ndarray:
        mixed = self.model._mixed(self.state)
        return mixed / mixed.sum(axis=1, keepdims=True)


def fit(
    pair: PairArrays, params: Params, *, seed: int = 0, n_workers: int = 1, until: float = -np.inf
) -> ArrayFit:
    """Fit to the end, or until the loss is below a figure; the seconds are those of all work but reading."""
    facts, source = pair.facts(params.links), pair.source()
    tiles = plan_tiles(source.offsets, TILE_SPOTS)
    start = time.perf_counter()
    model = build(params, facts, "cpu", seed)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(facts.n_spots[0], min(4096, facts.n_spots[0]), replace=False))
    sample = [source.batch(0, source.read_rows(chosen)), source.batch(1, source.read_rows(np.array([], int)))]
    state = model.method.init(sample)
    unit = Pass(source, tiles, n_workers=n_workers)
    losses, seconds = [], []
    while not model.method.done(state):
        state, figures = model.method.step(state, unit)
        losses.append(figures["loss"])
        seconds.append(time.perf_counter() - start)
        if losses[-1] < until:
            break
    return ArrayFit(model, state, np.array(losses), np.array(seconds))
