"""Sparse gene programmes and what a slice does to them."""

from __future__ import annotations

import numpy as np

from atlasnmf.seeds import rng_for

__all__ = ["gene_effects", "gene_names", "gene_programmes"]

#: Share of a programme's molecules that are housekeeping, alike in all programmes.
HOUSEKEEPING = 0.2


def gene_names(n_genes: int) -> list[str]:
    """Return ``GENE0001`` and so on; no mitochondrial names, so that no filter drops a simulated gene."""
    width = max(4, len(str(n_genes)))
    return [f"GENE{g + 1:0{width}d}" for g in range(n_genes)]


def gene_programmes(n_genes: int, n_factors: int, *, seed: int) -> np.ndarray:
    """Make loadings: own marker genes, some genes shared at random, a common housekeeping part.

    Three fifths of the genes are markers of one factor each, a fifth housekeeping; each factor also uses 3 %
    of all genes at random. Abundances are log-normal across genes, weights within a programme exponential.

    Returns
    -------
    numpy.ndarray
        float64, shape (G, K), columns sum to 1.
    """
    rng = rng_for(seed, "embryo", "programmes")
    abundance = rng.lognormal(0.0, 0.8, n_genes)
    order = rng.permutation(n_genes)
    n_markers = max(int(0.6 * n_genes) // n_factors, 1)
    housekeeping = np.zeros(n_genes)
    common = order[n_markers * n_factors :][: n_genes // 5]
    housekeeping[common] = abundance[common]
    loadings = np.zeros((n_genes, n_factors))
    for k in range(n_factors):
        used = np.zeros(n_genes, bool)
        used[order[k * n_markers : (k + 1) * n_markers]] = True
        used[rng.choice(n_genes, int(0.03 * n_genes), replace=False)] = True
        own = np.where(used, abundance * rng.exponential(size=n_genes), 0.0)
        loadings[:, k] = own / own.sum()
    if len(common):
        loadings = (1 - HOUSEKEEPING) * loadings + HOUSEKEEPING * (housekeeping / housekeeping.sum())[:, None]
    return loadings / loadings.sum(axis=0)


def gene_effects(n_genes: int, slice_index: int, *, seed: int) -> np.ndarray:
    """Return the log fold each gene is over- or under-counted by in a slice, float64, shape (G,), sd 0.25."""
    return rng_for(seed, "embryo", "gene effects", slice_index).normal(0.0, 0.25, n_genes)
