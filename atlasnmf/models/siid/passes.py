"""What is done with one tile of either slice in a pass; pure, so that it may be sent to any worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from atlasnmf.kernels.dispatch import carrier, kernel, to_host
from atlasnmf.schema import Csr, SliceBatch
from atlasnmf.seeds import rng_for

__all__ = ["CoarseTask", "FineTask", "Thinning", "transposed_links"]


@dataclass(frozen=True)
class CoarseTask:
    """Contract the coarse rows of a tile.

    Parameters
    ----------
    first
        Working row of the first coarse row.
    mixtures
        t of all coarse rows, float32, shape (n_coarse, R, H).
    loadings
        q, float32, shape (R, G, H).
    scaling, size
        Of negative-binomial counts, float64, shape (R, G); None for Poisson counts.
    device
        Where the kernels run.
    """

    first: int
    mixtures: np.ndarray
    loadings: np.ndarray
    scaling: np.ndarray | None
    size: np.ndarray | None
    device: str

    def __call__(self, batch: SliceBatch) -> dict[str, Any]:
        """Return sums, and the pull and push of the rows as lists of one run."""
        em, there = kernel("em", self.device), carrier(self.device)
        start = int(batch.rows[0]) - self.first
        mixtures = self.mixtures[start : start + batch.n_core]
        counts = batch.counts
        given: tuple[Any, ...] = (counts.indptr, counts.indices, counts.data, mixtures, self.loadings)
        if self.size is None:
            pull, expected, log_rates = (to_host(x) for x in em.coarse_sums(*map(there, given)))
            return {"pull": [pull], "expected": expected, "figures": log_rates}
        given = (*given, self.scaling, self.size)
        pull, expected, push, exposure, figures = (to_host(x) for x in em.dispersed_sums(*map(there, given)))
        return {
            "pull": [pull],
            "push": [push],
            "expected": expected,
            "exposure": exposure,
            "figures": figures,
        }


@dataclass(frozen=True)
class Thinning:
    """Set a share of the molecules aside: a binomial draw of every count, the same in every pass.

    Parameters
    ----------
    share
        Share that is set aside.
    seed
        The user's seed.
    """

    share: float
    seed: int

    def split(self, batch: SliceBatch) -> tuple[np.ndarray, np.ndarray]:
        """Return the counts to fit and the counts set aside, int64, at the same places."""
        rng = rng_for(self.seed, "siid", "aside", int(batch.rows[0]))
        aside = rng.binomial(batch.counts.data.astype(np.int64), self.share)
        return batch.counts.data - aside, aside


@dataclass(frozen=True)
class FineTask:
    """Update the fine rows of a tile and contract their counts.

    Parameters
    ----------
    measured
        Bool, shape (R, G).
    loadings
        q, float32, shape (R, G, H).
    scale
        Float64, shape (R, H).
    pull, push
        Of the coarse rows, float32, shapes (n_coarse, R, H), and (1, R, H) or (n_coarse, R, H).
    panel_sums
        Float32, shape (R, H).
    n_sweeps, entropy
        See :func:`atlasnmf.kernels.cpu.em.fine_sweeps`.
    device
        Where the kernels run.
    thinning
        Fit to a part of the molecules and score on the rest; None fits to all.
    """

    measured: np.ndarray
    loadings: np.ndarray
    scale: np.ndarray
    pull: np.ndarray
    push: np.ndarray
    panel_sums: np.ndarray
    n_sweeps: int
    entropy: float
    device: str
    thinning: Thinning | None = None

    def __call__(
        self,
        batch: SliceBatch,
        factors: np.ndarray,
        depths: np.ndarray,
        shares: np.ndarray,
        spots: np.ndarray,
        weights: np.ndarray,
    ) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return sums, and the rows' new weights, depths and shares."""
        em, there = kernel("em", self.device), carrier(self.device)
        linked = spots >= 0
        starts = np.zeros(len(spots) + 1, dtype=np.int64)
        np.cumsum(linked.sum(axis=1), out=starts[1:])
        data, aside = batch.counts.data, None
        if self.thinning is not None:
            data, aside = self.thinning.split(batch)
        given = (
            batch.counts.indptr,
            batch.counts.indices,
            data,
            self.measured,
            self.loadings,
            factors,
            depths,
            shares,
            self.scale,
            starts,
            spots[linked],
            weights[linked],
            self.pull,
            self.push,
            self.panel_sums,
        )
        done = em.fine_sweeps(*map(there, given), n_sweeps=self.n_sweeps, entropy=self.entropy)
        factors, depths, shares, expected, exposures, figures = (to_host(x) for x in done)
        sums = {"expected": expected, "exposures": exposures, "figures": figures}
        if aside is not None:
            assert self.thinning is not None
            odds = self.thinning.share / (1 - self.thinning.share)
            sums["aside"] = self._loss_aside(batch.counts, aside, factors, odds * depths)
        return sums, (factors, depths, shares)

    def _loss_aside(
        self, counts: Csr, aside: np.ndarray, factors: np.ndarray, depths: np.ndarray
    ) -> np.ndarray:
        """Return the Poisson loss of the molecules set aside, float64, shape (R,)."""
        losses = np.zeros(len(self.loadings))
        rows = np.repeat(np.arange(counts.n_rows), np.diff(counts.indptr))
        for r, loadings in enumerate(self.loadings):
            used = (aside > 0) & self.measured[r][counts.indices]
            own = factors[rows[used], r] * depths[rows[used], r, None]
            rates = np.maximum((own * loadings[counts.indices[used]]).sum(axis=1, dtype=np.float64), 1e-25)
            means = (factors[:, r] * depths[:, r, None]) @ self.panel_sums[r]
            losses[r] = means.sum(dtype=np.float64) - (aside[used] * np.log(rates)).sum()
        return losses


def transposed_links(
    spots: np.ndarray, weights: np.ndarray, n_coarse: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the links by coarse spot as CSR parts: starts int64, fine rows int64 ascending, weights."""
    fine, column = np.nonzero(spots >= 0)
    coarse = spots[fine, column]
    order = np.argsort(coarse, kind="stable")
    starts = np.searchsorted(coarse[order], np.arange(n_coarse + 1)).astype(np.int64)
    return starts, fine[order], weights[fine, column][order]
