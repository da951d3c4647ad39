"""Where a fit starts: profiles of groups of cells in a sample, coarse genes at their mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse

from atlasnmf.kernels.cpu.em import padded_width
from atlasnmf.models.siid.em import Shared
from atlasnmf.schema import Csr
from atlasnmf.seeds import rng_for

__all__ = ["first_shared"]

#: Groupings tried and rounds of each; the one with the largest cosines is taken, and gets more rounds.
_TRIES, _FIRST_ROUNDS, _ROUNDS = 10, 3, 6
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


def _groups(counts: Any, n_groups: int, rng: np.random.Generator) -> np.ndarray:
    """Group rows by cosine, the tightest of a few tries; returns the group of each row, shape (n,)."""
    roots = counts.sqrt()
    norms = np.sqrt(np.asarray(roots.multiply(roots).sum(axis=1)).ravel())
    rows = scipy.sparse.diags_array(1 / norms) @ roots
    tries = [_moved(rows, _first_centres(rows, n_groups, rng), _FIRST_ROUNDS) for _ in range(_TRIES)]
    _, centres, _ = max(tries, key=lambda found: found[0])
    return _moved(rows, centres, _ROUNDS)[2]


def _first_centres(rows: Any, n_groups: int, rng: np.random.Generator) -> np.ndarray:
    """Return rows that are far apart, shape (groups, G); rows have length 1.

    Each centre starts at a row drawn by its distance from those before, the best of a few draws (greedy
    k-means++, Arthur and Vassilvitskii, 2007).
    """
    n_rows = rows.shape[0]
    closest = np.zeros(n_rows)
    centres = np.zeros((n_groups, rows.shape[1]))
    n_draws = 2 + int(np.log(n_groups))
    for k in range(n_groups):
        far = np.maximum(1 - closest, 0.0)
        weights = far / far.sum() if far.sum() > 0 else None
        drawn = rng.choice(n_rows, n_draws, p=weights)
        candidates = rows[drawn]
        reached = np.maximum(closest[:, None], _dense_product(rows, candidates))
        best = int(reached.sum(axis=0).argmax())
        closest = reached[:, best]
        centres[k, candidates[[best]].tocoo().col] = candidates[[best]].tocoo().data
    return centres


def _moved(rows: Any, centres: np.ndarray, n_rounds: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Move centres to the mean of their groups; return the sum of cosines, the centres and the groups."""
    centres = centres.copy()
    for _ in range(n_rounds):
        cosines = np.asarray(rows @ centres.T)
        groups = cosines.argmax(axis=1)
        for k in range(len(centres)):
            mine = groups == k
            if mine.any():
                centre = np.asarray(rows[mine].sum(axis=0)).ravel()
                centres[k] = centre / np.linalg.norm(centre)
    return float(cosines.max(axis=1).sum()), centres, groups


def _dense_product(rows: Any, candidates: Any) -> np.ndarray:
    """Return the cosines of all rows with a few of them, shape (n, few)."""
    few = candidates.tocoo()
    columns = np.zeros((candidates.shape[1], candidates.shape[0]))
    columns[few.col, few.row] = few.data
    return np.asarray(rows @ columns)
