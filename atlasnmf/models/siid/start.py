"""Where a fit starts: profiles of groups of cells in a sample, coarse genes at their mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atlasnmf.kernels.cpu.em import padded_width
from atlasnmf.models.siid.em import Shared
from atlasnmf.schema import Csr
from atlasnmf.seeds import rng_for

__all__ = ["first_shared"]

#: Rounds of grouping; more of them only fit the sample.
_ROUNDS = 8
#: Share of the mean profile in every first profile: no gene starts at zero.
_COMMON = 0.1
#: Counts added to every gene, so that none starts at zero.
_LEAST = 1e-3


def first_shared(
    sample: Csr,
    measured: np.ndarray,
    fine_sums: np.ndarray,
    coarse_sums: np.ndarray,
    *,
    n_factors: Sequence[int],
    starts: Sequence[int],
    seed: int,
) -> Shared:
    """Return the first loadings and scaling of every restart.

    Parameters
    ----------
    sample
        Counts of some fine rows, shape (n, G).
    measured
        Genes that count in the fine rows, bool, shape (R, G).
    fine_sums, coarse_sums
        Counts by gene of all rows of either platform, shape (G,).
    n_factors, starts
        Of every lane, length R: h, and the number of its draw. The same number with the same genes starts at
        the same place.
    seed
        The user's seed.

    Notes
    -----
    Cells of the sample are grouped by the cosine of the roots of their counts (spherical k-means, seeds far
    apart). A factor starts at the profile of a group; genes that only the coarse platform tells of start at
    their mean profile, the same for all factors. Holds the sample dense over the measured genes.
    """
    n_genes, width = len(fine_sums), padded_width(max(n_factors))
    loadings = np.zeros((len(measured), n_genes, width))
    scaling = np.ones((len(measured), n_genes))
    coarse = (coarse_sums + _LEAST) / (coarse_sums + _LEAST).sum()
    rows = sample.to_scipy()
    for r, (seen, h, start) in enumerate(zip(measured, n_factors, starts, strict=True)):
        genes = np.flatnonzero(seen)
        counts = rows[:, genes].astype(np.float64)
        counts = counts[np.asarray(counts.sum(axis=1)).ravel() > 0]
        fine = (fine_sums[genes] + _LEAST) / (fine_sums[genes] + _LEAST).sum()
        share = coarse[genes].sum()
        groups = _groups(counts, h, rng_for(seed, "siid", "start", start))
        totals = np.stack([np.asarray(counts[groups == k].sum(axis=0)).ravel() for k in range(h)])
        profiles = totals / np.maximum(totals.sum(axis=1, keepdims=True), 1.0)
        loadings[r, :, :h] = coarse[:, None]
        loadings[r, genes, :h] = share * ((1 - _COMMON) * profiles + _COMMON * fine).T
        loadings[r, :, :h] /= loadings[r, :, :h].sum(axis=0)
        scaling[r, genes] = coarse[genes] / share / fine
    return Shared(loadings, scaling, np.ones((len(measured), width)))


def _groups(counts: object, n_groups: int, rng: np.random.Generator) -> np.ndarray:
    """Group rows by cosine; returns the group of each row, shape (n,)."""
    roots = counts.sqrt()  # type: ignore[attr-defined]
    norms = np.sqrt(np.asarray(roots.multiply(roots).sum(axis=1)).ravel())
    n_rows = roots.shape[0]
    best = np.zeros(n_rows)
    centres = np.zeros((n_groups, roots.shape[1]))
    for k in range(n_groups):
        far = np.maximum(1 - best, 0.0) ** 2
        chosen = rng.choice(n_rows, p=far / far.sum()) if far.sum() > 0 else rng.integers(n_rows)
        centres[k] = np.asarray(roots[chosen].sum(axis=0)).ravel() / norms[chosen]
        best = np.maximum(best, roots @ centres[k] / norms)
    for _ in range(_ROUNDS):
        groups = np.asarray(roots @ centres.T).argmax(axis=1)
        for k in range(n_groups):
            mine = groups == k
            if mine.any():
                centre = (1 / norms[mine]) @ roots[mine]
                centres[k] = centre / np.linalg.norm(centre)
    return groups
