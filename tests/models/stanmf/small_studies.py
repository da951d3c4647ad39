"""Small data with planted patterns, as passes and as a plain matrix."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import scipy.sparse

from atlasnmf.batches.passes import Passes
from atlasnmf.batches.sources import HeldCsr, SpotSource
from atlasnmf.models.stanmf.method import build
from atlasnmf.models.stanmf.params import Params
from atlasnmf.schema import AtlasFacts, Csr
from atlasnmf.tiles.plan import plan_tiles
from atlasnmf.train import loop

OFFSETS = np.array([0, 110, 180])


def counts_of(n_genes=50, n_patterns=4, seed=0, depth=3.0):
    rng = np.random.default_rng(seed)
    patterns = rng.gamma(0.3, 1.0, (OFFSETS[-1], n_patterns))
    programmes = rng.gamma(0.3, depth, (n_patterns, n_genes))
    return rng.poisson(patterns @ programmes + 0.2).astype(np.uint16)


def log_values(counts):
    totals = counts.sum(axis=1, keepdims=True).astype(np.float32).astype(float)
    return np.log1p(1e4 * counts / totals).astype(np.float32).astype(np.float64)


def passes_of(counts, tile_spots=40, n_workers=1, client=None):
    rows = Csr.from_scipy(scipy.sparse.csr_matrix(counts))
    totals = counts.sum(axis=1).astype(np.float32)
    source = SpotSource(OFFSETS, HeldCsr(rows), totals)
    return Passes(source, plan_tiles(OFFSETS, tile_spots), n_workers=n_workers, client=client)


def facts_of(counts):
    n_genes = counts.shape[1]
    sums = np.stack([counts[a:b].sum(axis=0) for a, b in pairwise(OFFSETS)])
    return AtlasFacts(
        ("a", "b"),
        np.diff(OFFSETS),
        tuple(f"g{g}" for g in range(n_genes)),
        np.ones((2, n_genes), dtype=bool),
        sums.astype(float),
        float((counts > 0).sum() / len(counts)),
    )


def study(counts, *, tile_spots=40, n_workers=1, seed=0, client=None, **params):
    passes = passes_of(counts, tile_spots, n_workers, client)
    model = build(Params(**params), facts_of(counts), "cpu", seed)
    source = passes.source
    sample = [source.batch(s, source.read(OFFSETS[s], OFFSETS[s] + 9)) for s in range(2)]
    return model, loop.run(model.method, passes, sample=lambda: sample)
